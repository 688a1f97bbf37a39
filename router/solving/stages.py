"""Confidences in answers, and the state when a stage of a cascade has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from strategies import Believe, Candidate, Strategy
from strategies.belief import most_believed

Believes = Callable[[Believe], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class StageEnd:
    """A stage of a cascade has ended.

    number      number of the stage, from 1
    answer      the most confident answer so far; None: there is none yet
    confidence  probability that it is right; None: unknown
    threshold   the confidence that ends the cascade; None: this was the last stage
    """

    number: int
    arm: Strategy
    answer: str | None
    confidence: float | None
    threshold: float | None

    @property
    def ends(self) -> bool:
        """Whether no stage follows."""
        return self.threshold is None or (self.confidence or 0.0) >= self.threshold


def believed_by(wanted: Believe, believe: Believes) -> list[Candidate]:
    """Return the candidates of the request, each with its confidence."""
    return [
        replace(candidate, confidence=sure) for candidate, sure in zip(wanted.candidates, believe(wanted), strict=True)
    ]


def ended(wanted: Believe, believed: Sequence[Candidate], number: int) -> StageEnd:
    """Return the end of the latest stage, which is the ``number``-th."""
    sure = [candidate.confidence for candidate in believed]
    kept = believed[most_believed(sure, [stage.result.best is not None for stage in wanted.stages])]
    return StageEnd(number, wanted.stages[-1].arm, kept.answer, kept.confidence, wanted.threshold)
