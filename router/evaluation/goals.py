"""Goals for a bundle: whether each is met, and what limits a missed one.

A goals file is a JSON list: ``[{"measure": "savings_fixed_budget", "at_least": 4, "low_at_least": 2}]``. The measures:

savings_fixed_budget        how many times fewer generations the policy under a fixed budget needs than weighted
                            best-of-N, for the latter's highest accuracy
savings_average_budget      the same for the policy under an average budget
gap_recovered               gain of the policy over weighted best-of-N / the gain that it would have on measured levels
budgets_below_best_fixed    number of fixed budgets at which the policy is significantly less accurate than the best
                            fixed arm or cascade
below_best_fixed            number of average budgets and of FLOPs at which it is so at equal spending, beside the best
                            fixed arm and the best fixed cascade
confidence_error            the confidences' calibration error, less what perfect ones would show by chance
confidence_bins_off         number of tenths of the confidence with 100 or more answers in which the mean confidence is
                            outside of the 95% interval of the share right
gain_over_…, accuracy_at_…, cost_of_larger_accuracy, gain_at_large_cost, share_of_…
                            the figures of these names in evaluation.json. A gain is that at ``"budget": 8``; without
                            one it is the mean over all average budgets
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import InvalidFile
from router.evaluation.causes import GAINS, AtCosts
from router.evaluation.curves import REFERENCES, saving
from router.evaluation.parts import Trust
from router.evaluation.report import Goal, GoalResult, Saving
from router.evaluation.within_budgets import Curves, WithinBudgets
from router.schema import read
from router.tuning.calibration import Bin

_SAVED_BY = {"savings_fixed_budget": "predicted", "savings_average_budget": "predicted_average"}
_ON_MEASURED_LEVELS = {"savings_fixed_budget": "oracle", "savings_average_budget": "oracle_average"}
_FIGURES = (
    *GAINS,
    *("below_best_fixed", "confidence_error", "gain_at_large_cost"),
    *("accuracy_at_larger_cost", "accuracy_at_1.5_larger_cost", "cost_of_larger_accuracy"),
    *("share_of_large_cost", "share_of_best_of_n_cost"),
)
MEASURES = (*_SAVED_BY, "gap_recovered", "budgets_below_best_fixed", "confidence_bins_off", *_FIGURES)
_FULL_BIN = 100  # answers from which a bin counts for confidence_bins_off


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a measure, and its interval. None: not measured, or it has no interval, such as a count."""

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
            if goal.budget is not None and goal.measure not in GAINS:
                raise ValueError(f"{goal.measure}: only a gain is measured at a budget ({', '.join(GAINS)})")
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{path}: {error}") from error
    return goals


def judge_goals(
    goals: Sequence[Goal],
    within: WithinBudgets,
    curves: Curves,
    figures: Mapping[str, Any],
    draws: NDArray[np.float64],
    *,
    trust: Trust | None,
    costs: AtCosts,
) -> tuple[GoalResult, ...]:
    """Return for each goal whether it is met, and what limits a missed one.

    A missed saving is limited by the estimator where the policy on measured levels would reach it, else by the policy
    where the best arm of each level in hindsight would, else by the verifier or the generator, whichever loses more.
    For what limits a missed figure see ``causes``. Confidences that are off are the verifier's.

    figures  results of ``headline.headline``
    draws    (R, P) weights of R bootstrap resamples
    trust    how confidences agree with outcomes; None: not measured
    """
    results = []
    for goal in goals:
        found = _measured(goal, within, figures, trust)
        met = found.meets(goal)
        part: str | None = None
        why: str | None = None
        if not met and goal.measure in _SAVED_BY:
            part, why = _unsaved(goal, within, curves, draws)
        elif not met:
            part, why = _limited(goal, found, within, figures, trust=trust, costs=costs)
        results.append(GoalResult(goal, found.value, found.low, found.high, met, part, why))
    return tuple(results)


def _measured(goal: Goal, within: WithinBudgets, figures: Mapping[str, Any], trust: Trust | None) -> Value:
    if goal.measure in _SAVED_BY:
        return _times(within.savings[_SAVED_BY[goal.measure]][REFERENCES[0]])
    if goal.measure == "gap_recovered":
        gap = within.gap_recovered[REFERENCES[0]]
        return Value(gap.value, gap.low, gap.high)
    if goal.measure == "budgets_below_best_fixed":
        return Value(len(_below(within)))
    if goal.measure == "confidence_bins_off":
        return Value() if trust is None else Value(len(bins_off(trust)))
    return value_of(goal, figures[goal.measure])


def value_of(goal: Goal, figure: Any) -> Value:
    """Return what a goal asks of the figure of its name in evaluation.json."""
    if figure is None:
        return Value()
    if goal.measure == "below_best_fixed":
        return Value(len(figure))
    if goal.measure == "confidence_error":
        return Value(round(figure["value"] - figure["chance"], 4))
    if goal.measure in GAINS and goal.budget is None:
        gains = [each["value"] for each in figure.values() if each]
        return Value(round(sum(gains) / len(gains), 4))
    return _of(figure if goal.budget is None else figure.get(str(goal.budget)))


def _of(figure: Mapping[str, Any] | float | None) -> Value:
    if isinstance(figure, Mapping):
        return Value(figure["value"], figure["low"], figure["high"])
    return Value(figure)


def bins_off(trust: Trust) -> list[Bin]:
    """Return the bins with many answers whose mean confidence is outside of the interval of their share right."""
    return [each for each in trust.bins if each.count >= _FULL_BIN and not each.low <= each.confidence <= each.high]


def _below(within: WithinBudgets) -> list[int]:
    """Return the fixed budgets at which the policy is clearly less accurate than the best fixed arm or cascade."""
    rows = within.rows
    return [row.budget for row in rows if row.predicted_minus_best_fixed and row.predicted_minus_best_fixed.high < 0]


def _limited(
    goal: Goal,
    found: Value,
    within: WithinBudgets,
    figures: Mapping[str, Any],
    *,
    trust: Trust | None,
    costs: AtCosts,
) -> tuple[str | None, str | None]:
    """Return what limits a missed goal that is for no saving, and the measurement that shows it.

    found  the measured value
    """
    part: str | None = None
    why: str | None = None
    if goal.measure == "budgets_below_best_fixed":
        part, why = "policy", f"it is significantly below at budgets {', '.join(map(str, _below(within)))}"
    elif goal.measure == "gap_recovered":
        part, why = _lost_gap(within)
    elif goal.measure == "below_best_fixed":
        part, why = costs.below(figures[goal.measure]) if figures[goal.measure] else (None, None)
    elif goal.measure in ("confidence_error", "confidence_bins_off"):
        part, why = ("verifier", _unsure(trust)) if trust else (None, figures["reasons"].get("confidence_error"))
    else:
        part, why = costs.limited(goal, figures[goal.measure], _lacking(goal, found)) or (None, None)
        if found.value is None:
            why = "; ".join(text for text in (figures["reasons"].get(goal.measure), why) if text)
    return part, why


def _lost_gap(within: WithinBudgets) -> tuple[str, str]:
    gap = within.gap_recovered[REFERENCES[0]]
    if gap.predicted is None or gap.oracle is None or gap.reason:
        return "policy", gap.reason or "not measured"
    return "estimator", f"measured levels gain {gap.oracle.value:.3f}, predicted ones {gap.predicted.value:.3f}"


def _unsaved(goal: Goal, within: WithinBudgets, curves: Curves, draws: NDArray[np.float64]) -> tuple[str, str]:
    """Return what limits a missed saving, and the measurement that shows it."""
    policies, reference = curves.policies, curves.fixed.get(REFERENCES[0], {})
    limits = {"estimator": policies[_ON_MEASURED_LEVELS[goal.measure]], "policy": curves.hindsight}
    would = {part: _times(saving(curve, REFERENCES[0], reference, draws)) for part, curve in limits.items()}
    part = next((part for part, value in would.items() if value.meets(goal)), None)
    diagnosis = within.diagnosis
    verifier = diagnosis.verifier.value if diagnosis.verifier else 0
    beyond = "verifier" if verifier > diagnosis.generator.value else "generator"
    why = (
        f"on measured levels it would be {would['estimator']}, with the best arm of each level in hindsight "
        f"{would['policy']}; a perfect selector among {diagnosis.budget} samples is right on "
        f"{diagnosis.perfect_selector:.3f}"
        + ("" if diagnosis.selected is None else f", the verifier's choice among them on {diagnosis.selected:.3f}")
    )
    return part or beyond, why


def _lacking(goal: Goal, found: Value) -> float:
    """Return how much a value would have to rise to meet the goal's lower bounds; 0 where it meets them."""
    bounds = ((goal.at_least, found.value), (goal.low_at_least, found.low))
    return max([0.0, *(bound - value for bound, value in bounds if bound is not None and value is not None)])


def _unsure(trust: Trust) -> str:
    """Say where confidences and outcomes differ most, over all answers."""
    worst = max(trust.bins, key=lambda each: each.count * abs(each.confidence - each.right))
    off = "".join(
        f"; of {each.count} answers with a mean confidence of {each.confidence:.3f}, {each.right:.3f} [{each.low:.3f}, "
        f"{each.high:.3f}] are right"
        for each in dict.fromkeys([*bins_off(trust), worst])
    )
    return (
        f"over {trust.answers} answers the calibration error is {trust.error:.3f}, that of perfect confidences "
        f"{trust.chance:.3f} by chance{off}"
    )


def _times(saved: Saving) -> Value:
    times = saved.generations
    return Value(times.times, times.low, times.high) if times else Value()
