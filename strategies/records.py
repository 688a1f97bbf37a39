"""What was recorded at one prompt, and what runs of an arm would have given there, as arrays. Needs numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from strategies.requests import Search

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """S independent attempts of one model at one prompt.

    answers  final answers by the task's key, None for no answer;  correct (S,) 0 or 1
    scores   (S,) last-step score, NaN where unscored
    prompt_tokens, generated_tokens, scored_tokens  (S,) as in the attempts file
    order    (R, S) the order in which each of R runs meets the attempts: ties go to the answer that comes first
    """

    answers: Sequence[str | None]
    correct: Floats
    scores: Floats
    prompt_tokens: Floats
    generated_tokens: Floats
    scored_tokens: Floats
    order: Ints

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def reads(self) -> bool:
        """Whether the verifier reads tokens; then it reads the prompt, too, once a run."""
        return bool(self.scored_tokens.any())

    @cached_property
    def groups(self) -> Ints:
        """(S,) which of the different answers each attempt gives, in order of appearance; -1 for none."""
        names = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in self.answers if a is not None))}
        return np.array([-1 if answer is None else names[answer] for answer in self.answers], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Runs:
    """R runs of an arm at one prompt.

    correct     (R,) 0 or 1; between them where equal answers are recorded as right and wrong
    prompt_tokens, generated_tokens  (R,) by the model that read or wrote them;  scored_tokens (R,) of the verifier
    confidence  (R,) how much a cascade would believe the answer; NaN where that is unknown, 0 without an answer
    check_tokens  (R,) what the verifier would read besides to find that out
    answered    (R,) whether there is an answer
    """

    correct: Floats
    prompt_tokens: Mapping[str | None, Floats]
    generated_tokens: Mapping[str | None, Floats]
    scored_tokens: Floats
    confidence: Floats
    check_tokens: Floats
    answered: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.correct)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded at one prompt: a pool by model, and complete runs by arm, as ``str`` spells it.

    verified  whether a verifier scores: then a confidence without a score is unknown
    """

    pools: Mapping[str | None, Pool]
    runs: Mapping[str, Runs]
    verified: bool = True


class Samples(Protocol):
    """A strategy that only samples, then chooses; see ``sampling.Sampling``."""

    @property
    def model(self) -> str | None: ...

    @property
    def n(self) -> int: ...

    @property
    def stop(self) -> float: ...

    @property
    def needs_scores(self) -> bool: ...

    def rounds(self) -> list[int]: ...

    def search(self) -> Search: ...
