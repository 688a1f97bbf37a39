"""Confidences in answers, and the state when a stage of a cascade has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from strategies import AskConfidence, Candidate, Strategy
from strategies.confidence import most_confident

ConfidenceOf = Callable[[AskConfidence], Sequence[float | None]]


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


def with_confidence(wanted: AskConfidence, confidence_of: ConfidenceOf) -> list[Candidate]:
    """Return the candidates of the request, each with its confidence."""
    confidences = confidence_of(wanted)
    return [replace(candidate, confidence=each) for candidate, each in zip(wanted.candidates, confidences, strict=True)]


def ended(wanted: AskConfidence, answers: Sequence[Candidate], number: int) -> StageEnd:
    """Return the end of the latest stage, the ``number``-th. ``answers``: of each stage, with its confidence."""
    confidences = [candidate.confidence for candidate in answers]
    kept = answers[most_confident(confidences, [stage.result.best is not None for stage in wanted.stages])]
    return StageEnd(number, wanted.stages[-1].arm, kept.answer, kept.confidence, wanted.threshold)
