"""Recorded attempts at one prompt, and the runs of an arm that are replayed from them, as arrays. Needs numpy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, Self

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

    answers  final answers as the task's ``key`` spells them, None for no answer;  correct (S,) 0 or 1
    scores   (S,) last-step score, NaN where unscored
    prompt_tokens, generated_tokens, scored_tokens  (S,) as in the attempts file
    seconds  time to write the whole pool, all attempts in parallel; NaN where it was not measured
    scoring  time to score the whole pool
    alone    time to write one attempt by itself; NaN where it was not measured
    log_probs, lengths  (S,) as in :class:`Seen`; None where nothing was recorded
    order    (R, S) indices of the attempts in the order in which each of R runs draws them; ties go to the answer drawn
             first. It has fewer than S columns where earlier stages have drawn the first attempts
    """

    answers: Sequence[str | None]
    correct: Floats
    scores: Floats
    prompt_tokens: Floats
    generated_tokens: Floats
    scored_tokens: Floats
    order: Ints
    seconds: float = np.nan
    log_probs: Floats | None = None
    lengths: Floats | None = None
    scoring: float = 0.0
    alone: float = np.nan

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def left(self) -> int:
        """How many attempts a run can still draw."""
        return int(self.order.shape[1])

    def beyond(self, drawn: int) -> Self:
        """Return the pool after every run drew this many attempts."""
        return replace(self, order=self.order[:, drawn:])

    def seconds_for(self, attempts: Ints, *, scores: bool) -> Floats:
        """Return the seconds that it takes to write so many attempts in parallel, NaN where it is unknown.

        They are taken to rise evenly from one attempt's to the whole pool's. Where one attempt's are unknown, they are
        the whole pool's, which is an upper bound. ``scores``: and to score them; it counts as scoring the whole pool.
        """
        share = (attempts - 1) / max(len(self) - 1, 1)
        one = self.seconds if np.isnan(self.alone) else min(self.alone, self.seconds)
        return np.asarray(one + share * (self.seconds - one) + scores * self.scoring)

    @cached_property
    def codes(self) -> Ints:
        """(S,) the answers as numbers, see :func:`code_of`."""
        return np.array([code_of(answer) for answer in self.answers], dtype=np.int64)

    @cached_property
    def reads(self) -> bool:
        """Whether the verifier reads tokens. If it does, it also reads the prompt, once per run."""
        return bool(self.scored_tokens.any())

    @cached_property
    def groups(self) -> Ints:
        """(S,) index of each attempt's answer among the different answers, in order of appearance; -1 for no answer."""
        names = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in self.answers if a is not None))}
        return np.array([-1 if answer is None else names[answer] for answer in self.answers], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the answers of runs without knowing which are right; arrays of one shape.

    All but the answer are NaN where they are unknown.

    answer    :func:`code_of` the answer
    score     the verifier's score of the solution that is returned for the answer
    lead      probability that the answer would keep its lead in the vote
    log_prob  mean log-probability of that solution's tokens under the model that wrote it, in nats
    length    of that solution, in characters
    """

    answer: Ints
    score: Floats
    lead: Floats
    log_prob: Floats
    length: Floats

    @classmethod
    def of(
        cls,
        answer: Ints,
        score: Floats,
        lead: Floats | None = None,
        log_prob: Floats | None = None,
        length: Floats | None = None,
    ) -> Self:
        """What is left out is unknown."""
        unknown = np.full(score.shape, np.nan)
        return cls(answer, score, *(unknown if each is None else each for each in (lead, log_prob, length)))

    def at(self, places: Any) -> Self:
        """Return what is known of some of the runs: every array at these indices."""
        return self.together([self], lambda arrays: arrays[0][places])

    @classmethod
    def together(cls, seen: "Sequence[Self]", made: Callable[[Sequence[Any]], Any]) -> Self:
        """Return one whose arrays are made of the arrays of several."""
        return cls(*(made([getattr(one, each.name) for one in seen]) for each in fields(cls)))


@dataclass(frozen=True, slots=True)
class Runs:
    """R runs of an arm at one prompt, or (P, R) runs at P prompts.

    correct     (..., R) 0 or 1; a share between them where equal answers are recorded both as right and as wrong
    prompt_tokens, generated_tokens  (..., R) read and written, by model;  scored_tokens (..., R) read by the verifier
    seen        what is known of the answers
    check_tokens  (..., R) what the verifier would read in addition to score the answer, if the arm itself does not
                  score
    confidence  (..., R) of a cascade: confidence in its answer; NaN where unknown
    stages      (..., R) of a cascade: how many stages ran
    seconds     (..., R) duration of the run; None where it was not measured
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

    @property
    def unscored(self) -> NDArray[np.bool_]:
        """Whether there is an answer whose score is unknown."""
        return np.isnan(self.seen.score) & self.answered


class ConfidenceOfRuns(Protocol):
    """A function that gives the confidence in each stage's answer, one array per stage; NaN where it is unknown."""

    def __call__(self, arms: "Sequence[Strategy]", seen: Sequence[Seen], *, last: bool) -> Sequence[Floats]:
        """``arms`` and ``seen`` belong to the stages that ran, in order; ``last`` says whether no stage follows."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded at one prompt: a pool of attempts per model, and complete runs by arm, as ``str`` spells it.

    verified  whether a verifier scores solutions here; if so, a stage whose score is unknown can't get a confidence
    abstains  whether the verifier scores nothing at this prompt, though it does at others: arms by score then go by
              votes
    staged    whether the runs are for stages of a cascade. Then row r of each stage is part of the same run, so a mean
              may not replace what a single run drew; and leads are computed, which takes long
    """

    pools: Mapping[str | None, Pool]
    runs: Mapping[str, Runs]
    verified: bool = True
    abstains: bool = False
    staged: bool = False

    @property
    def prefilled(self) -> dict[str | None, float]:
        """Mean tokens of the rendered prompt by model; a model that reads the prompt again finds them in its cache."""
        return {model: float(pool.prompt_tokens.mean()) for model, pool in self.pools.items()}


@lru_cache(1 << 16)
def code_of(answer: str | None) -> int:
    """Return a number for an answer, so that arrays can compare answers: equal for equal answers, -1 for none."""
    if answer is None:
        return -1
    return int.from_bytes(blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


class Samples(Protocol):
    """A strategy that only samples and then chooses; see ``sampling.Sampling``."""

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
