"""Compares the policies with single arms within budgets: curves, savings, what limits the bundle."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.evaluation import tables
from router.evaluation.arms import Decider, average_budgets, fixed_at, fixed_curves, hindsight
from router.evaluation.curves import REFERENCES, Curve, gap_recovered, savings_of
from router.evaluation.diagnosis import diagnose, perfectly_selected
from router.evaluation.report import AtBudget, CurvePoint, Diagnosis, GapRecovered, LeftOut, Saving
from router.policy.objectives import AverageBudget, Budget, Objective
from router.policy.table import Policy
from router.tuning.evidence import Measured

_SAVING = ("predicted", "predicted_average", "oracle", "best_fixed")  # policies whose savings are reported


@dataclass(frozen=True, slots=True)
class Curves:
    """Results by budget on the held-out prompts; for names see ``report``.

    fixed      curve of each strategy
    policies   curve of each way to choose
    hindsight  curve of each measured level's best arm
    """

    fixed: Mapping[str, Curve]
    policies: Mapping[str, Curve]
    hindsight: Curve

    def points(self, draws: NDArray[np.float64]) -> dict[str, tuple[CurvePoint, ...]]:
        """Return the points of all curves but that of hindsight, with intervals over (R, P) resamples."""
        both = {**self.fixed, **self.policies}
        return {name: _points(curve, draws) for name, curve in both.items()}


@dataclass(frozen=True, slots=True)
class WithinBudgets:
    """What was measured within budgets; the fields are those of ``report.Report``."""

    rows: tuple[AtBudget, ...]
    savings: Mapping[str, Mapping[str, Saving]]
    gap_recovered: Mapping[str, GapRecovered]
    diagnosis: Diagnosis


def curves_of(
    measured: Measured, served: Decider, oracle: Decider, levels: NDArray[np.int64], best_fixed: Mapping[int, str]
) -> tuple[Curves, list[LeftOut]]:
    """Return all curves, and the points that are missing because an arm was not run.

    levels      (P,) as measured
    best_fixed  the best fixed arm or cascade, by budget
    """
    budgets = list(best_fixed)
    each_prompt: dict[float, Objective] = {budget: Budget(budget) for budget in budgets}

    def on_average(policy: Policy) -> dict[float, Objective]:
        return {budget: AverageBudget(budget) for budget in average_budgets(policy, budgets)}

    found = {
        "predicted": served.curve(measured, each_prompt),
        "oracle": oracle.curve(measured, each_prompt),
        "predicted_average": served.curve(measured, on_average(served.policy)),
        "oracle_average": oracle.curve(measured, on_average(oracle.policy)),
    }
    policies = {"best_fixed": fixed_at(measured, best_fixed)} | {name: curve for name, (curve, _) in found.items()}
    in_hindsight: Curve = {budget: hindsight(measured, levels, budget) for budget in budgets}
    left_out = [each for _, missing in found.values() for each in missing]
    return Curves(fixed_curves(measured), policies, in_hindsight), left_out


def within_budgets(
    attempts: pd.DataFrame,
    prompts: pd.Index,
    curves: Curves,
    best_fixed: Mapping[int, str],
    *,
    draws: NDArray[np.float64],
) -> WithinBudgets:
    """Compare the curves.

    prompts     (P,) ids of those measured
    best_fixed  the best fixed arm or cascade, by budget
    draws       (R, P) weights of R bootstrap resamples
    """
    policies, largest = curves.policies, max(best_fixed)
    rows = [tables.at_budget(budget, curves.fixed, policies, arm, draws) for budget, arm in best_fixed.items()]
    savings = savings_of({name: policies[name] for name in _SAVING}, curves.fixed, draws)
    gaps = {
        name: gap_recovered(policies["predicted"], policies["oracle"], curves.fixed.get(name, {}), draws)
        for name in REFERENCES
    }
    diagnosis = diagnose(
        budget=largest,
        perfect_selector=perfectly_selected(attempts, prompts, largest),
        fixed=curves.fixed,
        policies=policies,
        hindsight=curves.hindsight,
        draws=draws,
    )
    return WithinBudgets(tuple(rows), savings, gaps, diagnosis)


def _points(curve: Curve, draws: NDArray[np.float64]) -> tuple[CurvePoint, ...]:
    found = [(budget, runs.point(draws)) for budget, runs in curve.items()]
    return tuple(CurvePoint(p.accuracy, p.low, p.high, p.generations, p.flops, budget=budget) for budget, p in found)
