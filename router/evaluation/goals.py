"""Goals for a bundle: whether each is met, and what limits a missed one.

A goals file is a JSON list: ``[{"measure": "savings_fixed_budget", "at_least": 4, "low_at_least": 2}]``. The measures:

savings_fixed_budget        how many times fewer generations the policy under a fixed budget needs than weighted
                            best-of-N, for the latter's highest accuracy
savings_average_budget      the same for the policy under an average budget
gap_recovered               gain of the policy over weighted best-of-N / the gain that it would have on measured levels
budgets_below_best_fixed    number of budgets at which the policy is significantly less accurate than the best fixed arm
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.errors import InvalidFile
from router.evaluation.curves import REFERENCES, Curve, saving
from router.evaluation.report import AtBudget, Diagnosis, GapRecovered, Goal, GoalResult, Saving
from router.schema import read

_SAVED_BY = {"savings_fixed_budget": "predicted", "savings_average_budget": "predicted_average"}
_ON_MEASURED_LEVELS = {"savings_fixed_budget": "oracle", "savings_average_budget": "oracle_average"}
MEASURES = (*_SAVED_BY, "gap_recovered", "budgets_below_best_fixed")


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a measure, and its interval. None: not measured, or a count, which has no interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return "not measured" if self.value is None else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def meets(self, goal: Goal) -> bool:
        if self.value is None:
            return False
        return (
            (goal.at_least is None or self.value >= goal.at_least)
            and (goal.at_most is None or self.value <= goal.at_most)
            and (goal.low_at_least is None or (self.low is not None and self.low >= goal.low_at_least))
        )


def read_goals(path: Path) -> tuple[Goal, ...]:
    """Read a goals file. Raises InvalidFile, which names what is wrong."""
    try:
        goals: tuple[Goal, ...] = read(tuple[Goal, ...], json.loads(path.read_text(encoding="utf-8")))
        for goal in goals:
            if goal.measure not in MEASURES:
                raise ValueError(f"unknown measure {goal.measure!r}; known: {', '.join(MEASURES)}")
            if goal.at_least is None and goal.at_most is None and goal.low_at_least is None:
                raise ValueError(f"{goal.measure}: give at_least, at_most or low_at_least")
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{path}: {error}") from error
    return goals


def judge_goals(
    goals: Sequence[Goal],
    *,
    savings: Mapping[str, Mapping[str, Saving]],
    gap: GapRecovered,
    budgets: Sequence[AtBudget],
    diagnosis: Diagnosis,
    policies: Mapping[str, Curve],
    hindsight: Curve,
    reference: Curve,
    draws: NDArray[np.float64],
) -> tuple[GoalResult, ...]:
    """Return for each goal whether it is met, and what limits a missed one.

    A missed saving is limited by the estimator where the policy on measured levels would reach it, else by the policy
    where the best arm of each level in hindsight would, else by the verifier or the generator, whichever loses more.

    savings, gap, budgets, diagnosis  as in the report
    policies                          curves by name
    hindsight                         curve of the best arm for each measured level
    reference                         curve of weighted best-of-N
    draws                             (R, P) weights of R bootstrap resamples
    """
    below = [
        row.budget for row in budgets if row.predicted_minus_best_fixed and row.predicted_minus_best_fixed.high < 0
    ]

    def measured(measure: str) -> Value:
        if measure == "gap_recovered":
            return Value(gap.value, gap.low, gap.high)
        if measure == "budgets_below_best_fixed":
            return Value(len(below))
        return _times(savings[_SAVED_BY[measure]][REFERENCES[0]])

    def limited(goal: Goal) -> tuple[str, str]:
        if goal.measure == "budgets_below_best_fixed":
            return "policy", f"it is significantly below at budgets {', '.join(map(str, below))}"
        if goal.measure == "gap_recovered":
            if gap.predicted is None or gap.oracle is None or gap.reason:
                return "policy", gap.reason or "not measured"
            gains = f"measured levels gain {gap.oracle.value:.3f}, predicted ones {gap.predicted.value:.3f}"
            return "estimator", gains
        curves = {"estimator": policies[_ON_MEASURED_LEVELS[goal.measure]], "policy": hindsight}
        would = {part: _times(saving(curve, REFERENCES[0], reference, draws)) for part, curve in curves.items()}
        part = next((part for part, value in would.items() if value.meets(goal)), None)
        verifier = diagnosis.verifier.value if diagnosis.verifier else 0
        beyond = "verifier" if verifier > diagnosis.generator.value else "generator"
        why = (
            f"on measured levels it would be {would['estimator']}, with the best arm of each level in hindsight "
            f"{would['policy']}; a perfect selector among {diagnosis.budget} samples is right on "
            f"{diagnosis.perfect_selector:.3f}"
            + ("" if diagnosis.selected is None else f", the verifier's choice among them on {diagnosis.selected:.3f}")
        )
        return part or beyond, why

    results = []
    for goal in goals:
        found = measured(goal.measure)
        met = found.meets(goal)
        part, why = (None, None) if met else limited(goal)
        results.append(GoalResult(goal, found.value, found.low, found.high, met, part, why))
    return tuple(results)


def _times(saved: Saving) -> Value:
    times = saved.generations
    return Value(times.times, times.low, times.high) if times else Value()
