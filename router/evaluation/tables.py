"""Makes the rows of the report's tables: by budget, arm and level, choice, objective, and split into chains."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.evaluation.arms import SAMPLING, arm_names, budgets_of, curve_name, least_average
from router.evaluation.curves import REFERENCES, Curve, PerPrompt, estimate
from router.evaluation.parts import Choice, Estimate
from router.evaluation.report import AtBudget, Chains, LevelAccuracy, ObjectiveResult
from router.policy.objectives import AverageBudget, Budget, Objective, mostly, parts
from router.policy.table import LEVELS, Policy
from router.tuning.evidence import Measured, resamples
from strategies import Revision


def at_budget(
    budget: int,
    fixed: Mapping[str, Curve],
    policies: Mapping[str, Curve],
    best_fixed_arm: str,
    draws: NDArray[np.float64],
) -> AtBudget:
    """Return the row of all curves at one budget."""
    found = {name: fixed.get(name, {}).get(budget) for name in SAMPLING}
    found |= {name: points.get(budget) for name, points in policies.items()}
    for name in ("predicted_average", "oracle_average"):  # the least average budget may be a little above this one
        if policies[name] and budget < min(policies[name]) < budget * 1.5:
            found[name] = policies[name][min(policies[name])]

    def minus_best_fixed(name: str) -> Estimate | None:
        mine, theirs = found[name], found["best_fixed"]
        return estimate(mine.accuracy - theirs.accuracy, draws) if mine and theirs else None

    return AtBudget(
        budget=budget,
        best_fixed_arm=best_fixed_arm,
        predicted_minus_best_fixed=minus_best_fixed("predicted"),
        predicted_average_minus_best_fixed=minus_best_fixed("predicted_average"),
        **{name: runs.point(draws) if runs else None for name, runs in found.items()},
    )


def objective_result(
    policy: Policy,
    probabilities: NDArray[np.float64],
    objective: Objective,
    runs: PerPrompt,
    draws: NDArray[np.float64],
    *,
    tasks: NDArray[np.str_],
) -> ObjectiveResult:
    """Return an objective's measured results, and what the policy expected by (P, 5) level probabilities.

    tasks  (P,) of the prompts
    """
    shares = parts(policy, objective)
    decided = zip(map(policy.for_task, tasks.tolist()), probabilities.tolist(), strict=True)
    expected = [[table.decide(row, part) for _, part in shares] for table, row in decided]
    enough = np.array([each[0].sufficient for each in expected])
    mean = np.mean(
        [sum(share * each.accuracy for (share, _), each in zip(shares, row, strict=True)) for row in expected]
    )
    target = objective.kind == "target_accuracy"
    where = None
    if target and enough.sum() > 1:
        where = estimate(runs.accuracy[enough], resamples(int(enough.sum()), np.random.default_rng(0)))
    return ObjectiveResult(
        kind=objective.kind,
        value=objective.value,
        expected=round(float(mean), 4),
        measured=runs.point(draws),
        sufficient=round(float(enough.mean()), 4) if target else None,
        where_sufficient=where,
    )


def per_level(measured: Measured, levels: NDArray[np.int64], seed: int) -> list[LevelAccuracy]:
    """Return each arm's accuracy at each of the (P,) measured levels that has at least two prompts."""
    rows = []
    for level in LEVELS:
        here = np.flatnonzero(levels == level)
        if len(here) < 2:
            continue
        draws = resamples(len(here), np.random.default_rng(seed))
        for k, (arm, budget) in enumerate(zip(arm_names(measured), budgets_of(measured), strict=True)):
            found = estimate(measured.accuracy[here, k], draws)
            rows.append(LevelAccuracy(level, arm, curve_name(arm), budget, found.value, found.low, found.high))
    return rows


def revisions(measured: Measured, accuracies: Sequence[LevelAccuracy]) -> list[Chains]:
    """Return accuracy by number of parallel chains (Snell et al., section 6.2); chains = n is plain sampling.

    Rows are for the n with the most splits; among several, the largest.

    accuracies  results of :func:`per_level`
    """
    run = [arm for arm in measured.arms if isinstance(arm, Revision) and arm.model is None]
    if not run:
        return []
    run_at = Counter(arm.n for arm in run)
    n = max(run_at, key=lambda n: (run_at[n], n))
    splits = {arm.chains: str(arm) for arm in run if arm.n == n}
    parallel = [arm for arm in (f"{name}(n={n})" for name in REFERENCES) if arm in arm_names(measured)]
    if parallel:
        splits[n] = parallel[0]
    return [
        Chains(n, chains, row.level, row.arm, row.accuracy, row.low, row.high)
        for chains, arm in sorted(splits.items())
        for row in accuracies
        if row.arm == arm
    ]


def choices(policy: Policy, budgets: Sequence[int], tasks: Sequence[str]) -> list[Choice]:
    """Return the policy's choices for prompts whose level is certain, under fixed and under average budgets.

    tasks  of the bundle: choices are by each of its tables
    """
    rows = []
    least = least_average(policy)
    fixed: list[Objective] = [Budget(budget) for budget in budgets]
    averages: list[Objective] = [AverageBudget(max(float(budget), least)) for budget in budgets]
    for objectives in (fixed, averages):
        for task, table in policy.by_task(tasks).items():
            for budget, objective in zip(budgets, objectives, strict=True):
                for level, certain in zip(LEVELS, np.eye(len(LEVELS)), strict=True):
                    found = table.decide(certain.tolist(), mostly(policy, objective))
                    numbers = round(found.accuracy, 4), found.cost.generations
                    rows.append(Choice(objective.kind, budget, level, str(found.arm), *numbers, task))
    return rows
