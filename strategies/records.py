"""What was recorded at one prompt, and what runs of an arm would have given there, as arrays. Needs numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from strategies.requests import Search

if TYPE_CHECKING:
    from strategies.strategy import Strategy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """S independent attempts of one model at one prompt.

    answers  final answers by the task's key, None for no answer;  correct (S,) 0 or 1
    scores   (S,) last-step score, NaN where unscored
    prompt_tokens, generated_tokens, scored_tokens  (S,) as in the attempts file
    seconds  that the pool took, all attempts at the same time; NaN where nobody measured it
    order    (R, S) the order in which each of R runs meets the attempts: ties go to the answer that comes first. Less
             than S where the first so many were drawn before
    """

    answers: Sequence[str | None]
    correct: Floats
    scores: Floats
    prompt_tokens: Floats
    generated_tokens: Floats
    scored_tokens: Floats
    order: Ints
    seconds: float = np.nan

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def left(self) -> int:
        """How many attempts a run can still draw."""
        return int(self.order.shape[1])

    def beyond(self, drawn: int) -> Self:
        """What is left of it once every run drew so many."""
        return replace(self, order=self.order[:, drawn:])

    @cached_property
    def codes(self) -> Ints:
        """(S,) :func:`code_of` the answers."""
        return np.array([code_of(answer) for answer in self.answers], dtype=np.int64)

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
class Seen:
    """What runs of an arm show of their answers, without knowing which are right; arrays of one shape.

    answer  :func:`code_of` the answer
    score   the verifier's score of the solution that stands for it, NaN where it was not scored
    lead    probability that the answer would keep its lead in the vote, NaN where votes were not recorded
    """

    answer: Ints
    score: Floats
    lead: Floats


@dataclass(frozen=True, slots=True)
class Runs:
    """R runs of an arm at one prompt, or (P, R) at P prompts.

    correct     (..., R) 0 or 1; between them where equal answers are recorded as right and wrong
    prompt_tokens, generated_tokens  (..., R) by the model that read or wrote them;  scored_tokens of the verifier
    seen        what they show of their answers
    check_tokens  what the verifier would read besides, to score the answer of an arm that scores nothing
    confidence  of a cascade: how much its answer was believed; NaN where nobody can say
    stages      of a cascade: how many stages were run
    seconds     (..., R) that they took; None where that was not measured
    """

    correct: Floats
    prompt_tokens: Mapping[str | None, Floats]
    generated_tokens: Mapping[str | None, Floats]
    scored_tokens: Floats
    seen: Seen
    check_tokens: Floats
    confidence: Floats | None = None
    stages: Ints | None = None
    seconds: Floats | None = None

    def __len__(self) -> int:
        return int(self.correct.shape[-1])

    @property
    def answered(self) -> NDArray[np.bool_]:
        return self.seen.answer >= 0


class Believes(Protocol):
    """Confidences of the answers of stages that ran, one array a stage; NaN where nobody can say."""

    def __call__(self, arms: "Sequence[Strategy]", seen: Sequence[Seen], *, last: bool) -> Sequence[Floats]:
        """arms, seen  of the stages, in turn;  last  whether no other follows."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded at one prompt: a pool by model, and complete runs by arm, as ``str`` spells it.

    verified  whether a verifier scores: then a stage whose score is unknown can't be believed
    staged    whether run goes with run: row by row, stages of a cascade are one run of it, so that no mean may stand in
              for what single runs drew; and whether leads are asked, which take long to count
    """

    pools: Mapping[str | None, Pool]
    runs: Mapping[str, Runs]
    verified: bool = True
    staged: bool = False

    @property
    def prefilled(self) -> dict[str | None, float]:
        """Tokens of the rendered prompt by model, which a model that reads it again finds prefilled."""
        return {model: float(pool.prompt_tokens.mean()) for model, pool in self.pools.items()}


@lru_cache(1 << 16)
def code_of(answer: str | None) -> int:
    """A number for an answer, so that arrays can compare them: equal for equal answers, -1 for none."""
    if answer is None:
        return -1
    return int.from_bytes(blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


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
