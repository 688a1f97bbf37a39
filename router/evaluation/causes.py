"""Finds what limits a missed goal for a figure: how accurate everything that was measured is at the goal's cost.

Whatever a figure compares, a goal for it wants an accuracy at a cost: a gain wants that of another way and so much
more, a cost wants the larger model's accuracy for less.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router.evaluation.curves import PerPrompt
from router.evaluation.parts import AtAverage, AtFlops, Point
from router.evaluation.report import Goal
from router.evaluation.words import WAYS
from router.tuning.nested import FIXED, beside

Unit = Literal["generations", "flops"]
GAINS = {
    "gain_over_best_fixed": "best_fixed_arm",
    "gain_over_best_fixed_cascade": "best_fixed_cascade",
    "gain_over_random_mix": "random_mix",
    "gain_over_shuffled_levels": "shuffled_levels",
}
_LARGER_COSTS = {"accuracy_at_larger_cost": 1.0, "accuracy_at_1.5_larger_cost": 1.5}
_COSTS = ("cost_of_larger_accuracy", "share_of_large_cost", "share_of_best_of_n_cost")
_POLICY, _MEASURED_LEVELS = "policy", "policy on measured levels"
_Line = NDArray[np.float64]  # (points, 3): generations, FLOPs, accuracy


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mean accuracy over some costs, in one unit. ``lacking``: what the policy has less; None: not measured."""

    accuracy: float
    costs: tuple[float, ...]
    unit: Unit
    lacking: float | None = None


class AtCosts:
    """How accurate the policy, the policy on measured levels, and each plainer way are at any mean cost.

    rows             the comparisons at average budgets, and those at FLOPs
    measured_levels  results of the policy on measured levels at each of its budget points
    perfect          the accuracy of a perfect choice among all attempts at so many mean FLOPs
    """

    def __init__(
        self,
        rows: Sequence[AtAverage | AtFlops],
        measured_levels: Sequence[PerPrompt],
        perfect: Callable[[float], float],
    ):
        self.rows, self._perfect = rows, perfect
        lines = {
            _POLICY: [_numbers(row.policy) for row in rows],
            _MEASURED_LEVELS: [
                (float(runs.generations.mean()), float(runs.flops.mean()), float(runs.accuracy.mean()))
                for runs in measured_levels
            ],
        }
        for row in rows:
            for name, way in row.ways.items():
                lines.setdefault(name, []).append(_numbers(way.point))
        self._lines: dict[str, _Line] = {name: np.array(points) for name, points in lines.items() if points}

    @property
    def larger(self) -> Point | None:
        """One solution of the larger model; None: none was run."""
        return next((row.ways["larger_alone"].point for row in self.rows if "larger_alone" in row.ways), None)

    def accuracy(self, name: str, cost: float, unit: Unit) -> float | None:
        """The most that a way reaches for this mean cost. None: it can't spend as little.

        One arm or cascade for all spends what it does. Of other ways two neighbouring points can be mixed.
        """
        line = self._lines.get(name)
        if line is None:
            return None
        column = 0 if unit == "generations" else 1
        line = line[line[:, column].argsort(kind="stable")]
        spent, reached = line[:, column], np.maximum.accumulate(line[:, 2])
        within = int((spent <= cost * (1 + 1e-6)).sum())
        if not within:
            return None
        return float(reached[within - 1] if name in (*FIXED, "larger_alone") else np.interp(cost, spent, reached))

    def limited(self, goal: Goal, figure: Any, lacking: float) -> tuple[str, str] | None:
        """Return what limits a missed goal, and the numbers that show it; None where it wants no accuracy at a cost.

        It is the estimator where the policy on measured levels would be accurate enough, the policy where a plainer way
        is, the generator where even a perfect choice among the attempts is not, else the verifier: right answers are
        there, and nothing recognises enough of them.

        figure   that of the goal's name in evaluation.json
        lacking  how much the figure would have to rise; not used where the goal is for a cost
        """
        wanted = self._wanted(goal, figure, lacking)
        if wanted is None:
            return None
        found = {name: self._mean(name, wanted) for name in self._lines}
        policy, measured_levels = found.pop(_POLICY, None), found.pop(_MEASURED_LEVELS, None)
        if wanted.lacking is not None:
            policy = wanted.accuracy - wanted.lacking
        others = {name: each for name, each in found.items() if each is not None}
        best = max(others, key=lambda name: others[name], default=None)
        perfect = float(np.mean([self._perfect(self._flops(cost, wanted.unit)) for cost in wanted.costs]))
        part = "verifier"
        if _enough(measured_levels, wanted):
            part = "estimator"
        elif best and _enough(others[best], wanted):
            part = "policy"
        elif not _enough(perfect, wanted):
            part = "generator"
        unit = "FLOPs" if wanted.unit == "flops" else "generations"
        costs = ", ".join(f"{cost:.3g}" for cost in wanted.costs)
        mean = " (mean)" if len(wanted.costs) > 1 else ""
        has = [
            "" if policy is None else f"the policy has {policy:.3f}",
            "" if measured_levels is None else f"on measured levels it would have {measured_levels:.3f}",
            f"of plainer ways most has “{WAYS[best]}”, {others[best]:.3f}" if best else "",
            f"a perfect choice among the attempts has {perfect:.3f}",
        ]
        wants = f"an accuracy of {wanted.accuracy:.3f} is wanted at {costs} {unit}{mean}"
        return part, "; ".join([wants, *filter(None, has)])

    def below(self, places: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
        """Return what limits a policy that is less accurate than a fixed arm or cascade somewhere, and the numbers.

        It is the estimator where the policy on measured levels would be as accurate at all of them, else the policy.

        places  the figure ``below_best_fixed``, not empty
        """
        rows = {row.name: row for row in self.rows}
        texts, reached = [], []
        for place in places:
            way, row = place["way"], rows[place["at"]]
            point = row.ways[way].point
            if isinstance(row, AtAverage):
                known = self.accuracy(_MEASURED_LEVELS, beside(way, point.generations, row.budget), "generations")
            else:
                known = self.accuracy(_MEASURED_LEVELS, point.flops, "flops")
            reached.append(known is not None and known >= point.accuracy)
            texts.append(
                f"at {place['at']} the {WAYS[way]} is right on {point.accuracy:.3f}, and the policy "
                f"beside it on {point.accuracy + place['value']:.3f}: {place['value']:+.3f} [{place['low']:+.3f}, "
                f"{place['high']:+.3f}]" + ("" if known is None else f"; on measured levels it would be on {known:.3f}")
            )
        levels = "a fixed arm or cascade knows no levels, so going by them costs accuracy there"
        return "estimator" if all(reached) else "policy", "; ".join([*texts, levels])

    def _wanted(self, goal: Goal, figure: Any, lacking: float) -> Wanted | None:
        if goal.measure in GAINS:
            return self._gained(goal, figure, lacking) if lacking else None
        larger = self.larger
        if larger is None:
            return None
        if goal.measure in _COSTS:
            return _for_less(goal, figure, larger)
        if not figure or not lacking:
            return None
        accuracy = figure["value"] + lacking
        if goal.measure == "gain_at_large_cost":
            return Wanted(larger.accuracy + accuracy, (larger.flops,), "flops", lacking)
        return Wanted(accuracy, (_LARGER_COSTS[goal.measure] * larger.generations,), "generations", lacking)

    def _gained(self, goal: Goal, figure: Any, lacking: float) -> Wanted | None:
        """At the budgets of the gain: what the other way has, the gain, and what this one lacks."""
        way = GAINS[goal.measure]
        rows = {row.budget: row for row in self.rows if isinstance(row, AtAverage)}
        gains = {float(budget): gain["value"] for budget, gain in (figure or {}).items() if gain}
        budgets = [budget for budget in gains if goal.budget in (None, budget)]
        if not budgets:
            return None
        points = [rows[budget].ways[way].point for budget in budgets]
        accuracy = np.mean([point.accuracy + gains[budget] for point, budget in zip(points, budgets, strict=True)])
        costs = [beside(way, point.generations, budget) for point, budget in zip(points, budgets, strict=True)]
        return Wanted(float(accuracy) + lacking, tuple(costs), "generations", lacking)

    def _mean(self, name: str, wanted: Wanted) -> float | None:
        found = [self.accuracy(name, cost, wanted.unit) for cost in wanted.costs]
        known = [each for each in found if each is not None]
        return float(np.mean(known)) if len(known) == len(found) else None

    def _flops(self, cost: float, unit: Unit) -> float:
        """What the policy takes in FLOPs where it spends this much."""
        if unit == "flops":
            return cost
        spent = self._lines[_POLICY][self._lines[_POLICY][:, 0].argsort(kind="stable")]
        return float(np.interp(cost, spent[:, 0], spent[:, 1]))


def _for_less(goal: Goal, figure: Any, larger: Point) -> Wanted | None:
    """The larger model's accuracy, at the share of its cost that the goal allows."""
    if goal.at_most is None:
        return None
    if goal.measure == "cost_of_larger_accuracy":
        return Wanted(larger.accuracy, (goal.at_most * larger.generations,), "generations")
    return Wanted(figure["accuracy"], (goal.at_most * figure["flops"],), "flops") if figure else None


def _numbers(point: Point) -> tuple[float, float, float]:
    return point.generations, point.flops, point.accuracy


def _enough(accuracy: float | None, wanted: Wanted) -> bool:
    return accuracy is not None and accuracy >= wanted.accuracy - 1e-9
