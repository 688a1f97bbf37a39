"""A cascade: arms tried in turn until the confidence in an answer is high enough (Yue et al., arXiv 2310.03094).

``single @0.7 > beam_search(n=4, m=4) @0.7 > single(model=large)`` writes one greedy solution and ends there if the
confidence in it is at least 0.7. Else it runs the beam search and, if that is not enough, asks the larger model.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from strategies.confidence import most_confident
from strategies.requests import AskConfidence, Score, Search, Stage
from strategies.selection import answered
from strategies.strategy import InvalidArm, Strategy

if TYPE_CHECKING:
    from strategies.replaying.records import Recorded, Runs

LONGEST = 8  # stages


@dataclass(frozen=True)
class Cascade(Strategy):
    """Run arms in turn; after each but the last, end if an answer's confidence is at least the stage's threshold.

    stages      two to eight arms, none of them a cascade; each keeps its own model
    thresholds  one for each stage but the last, in (0, 1]

    Every stage keeps what it found: the answer is the most confident one over all stages that ran. The driver gives the
    confidences (see :class:`AskConfidence`), by the bundle's confidence model or, without one, as
    ``strategies.confidence`` does.
    """

    name: ClassVar[str] = "cascade"

    stages: tuple[Strategy, ...] = ()
    thresholds: tuple[float, ...] = ()

    def check(self) -> None:
        if not 2 <= len(self.stages) <= LONGEST:
            raise InvalidArm("stages", f"a cascade has two to {LONGEST} stages, got {len(self.stages)}")
        if any(isinstance(stage, Cascade) for stage in self.stages):
            raise InvalidArm("stages", "a stage of a cascade can't be a cascade; write all stages in a row")
        if self.model is not None:
            raise InvalidArm("model", "each stage of a cascade names its own model")
        if len(self.thresholds) != len(self.stages) - 1:
            raise InvalidArm("confidence", "each stage of a cascade but the last has a confidence that ends it")
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise InvalidArm("confidence", f"a confidence lies above 0 and at most at 1, got {threshold}")

    @property
    def needs_steps(self) -> bool:  # type: ignore[override]  # depends on the stages
        return any(stage.needs_steps for stage in self.stages)

    @property
    def needs_scores(self) -> bool:  # type: ignore[override]
        return any(stage.needs_scores for stage in self.stages)

    @property
    def needs_findings(self) -> bool:  # type: ignore[override]
        return any(stage.needs_findings for stage in self.stages)

    @property
    def revises(self) -> bool:  # type: ignore[override]
        return any(stage.revises for stage in self.stages)

    @property
    def solutions(self) -> dict[str | None, int]:
        total: Counter[str | None] = Counter()
        for stage in self.stages:
            total.update(stage.solutions)
        return dict(total)

    @property
    def rows(self) -> int:
        return max(stage.rows for stage in self.stages)

    def referring(self, reference: str) -> Self:
        return replace(self, stages=tuple(stage.referring(reference) for stage in self.stages))

    def with_threshold(self, threshold: float) -> Self:
        """Return the same cascade with this confidence as the threshold of every stage but the last."""
        return replace(self, thresholds=(threshold,) * len(self.thresholds))

    def search(self) -> Search:
        stages: list[Stage] = []
        confidences: list[float | None] = []
        for arm, threshold in zip(self.stages, (*self.thresholds, None), strict=True):
            found = yield from arm.search()
            if threshold is not None and found.best and found.best.score is None:
                (scored,) = yield Score((found.best,))
                found = replace(found, best=scored)
            stages.append(Stage(arm, found))
            answers = yield AskConfidence(tuple(stages), threshold)
            confidences = [each.confidence if answered(each) else 0.0 for each in answers]
            stages[-1] = replace(stages[-1], confidence=confidences[-1])
            if threshold is not None and max(each or 0.0 for each in confidences) >= threshold:
                break
        kept = most_confident(confidences, [stage.result.best is not None for stage in stages])
        best = stages[kept].result.best
        return replace(
            stages[kept].result,
            best=best and replace(best, confidence=confidences[kept]),
            candidates=tuple(candidate for stage in stages for candidate in stage.result.candidates),
            stages=tuple(stages),
        )

    def replay(self, recorded: "Recorded") -> "Runs | None":
        from strategies.replaying.cascades import in_turn, replayed

        found = None
        if stages := replayed(self.stages, recorded):
            found = in_turn(self.stages, stages, self.thresholds, recorded.prefilled, verified=recorded.verified)
        return found or super().replay(recorded)

    def __str__(self) -> str:
        *earlier, last = map(str, self.stages)
        ended = [f"{stage} @{_shown(threshold)}" for stage, threshold in zip(earlier, self.thresholds, strict=True)]
        return " > ".join([*ended, last])

    @property
    def _order(self) -> tuple[Any, ...]:
        return "~cascade", tuple((stage._order) for stage in self.stages), self.thresholds  # ~ sorts last


def _shown(threshold: float) -> str:
    return str(float(threshold)).removesuffix(".0")
