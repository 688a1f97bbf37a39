"""Compares more work by the reference model with one solution by a larger one at equal FLOPs (Snell et al., 7)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.evaluation.arms import routed
from router.evaluation.averages import larger_alone
from router.evaluation.curves import PerPrompt, estimate
from router.evaluation.report import AtEqualFlops, GroupComparison, GroupPoint, LargerModel
from router.policy.objectives import Budget
from router.policy.table import LEVELS, Policy
from router.tuning.evidence import Measured, resamples
from strategies import Strategy

RATIOS = (0.16, 0.79, 22.0)  # R = tokens written in service / tokens trained on: the paper's three values
MIDDLING = (0.1, 0.6)  # range of pass rates in which more work can gain most


def generations_worth(size_ratio: float, ratio: float) -> float:
    """Return how many solutions a model may write for one by a model ``size_ratio`` times its size, at equal FLOPs.

    FLOPs of training count too: training costs 6 and writing 2 FLOPs per parameter and token. The result is
    M + 3 (M - 1) / R, where M is the size ratio and R is tokens written / tokens trained on (Snell et al., section 7).
    """
    return size_ratio + 3 * (size_ratio - 1) / ratio


def compare_at_equal_flops(
    measured: Measured,
    policy: Policy,
    probabilities: NDArray[np.float64],
    levels: NDArray[np.int64],
    pass_rates: NDArray[np.float64],
    *,
    budgets: Sequence[int],
    seed: int,
) -> LargerModel | None:
    """Compare the policy, with the reference model's arms only, with one solution by the largest model.

    probabilities       (P, 5) predicted probabilities of levels 1 to 5
    levels, pass_rates  (P,) as measured

    The groups compared are all prompts, each level, and the prompts of middling pass rate. The largest model is that of
    :func:`larger_alone`. Returns None where no larger model was run.
    """
    column, alone = larger_alone(measured), _reference_only(policy)
    if column is None or alone is None:
        return None
    setup = measured.setup
    model = next(name for name in measured.arms[column].models if name)
    size_ratio = setup.parameters(model) / setup.main.parameters
    groups = {"all": np.ones(len(levels), dtype=bool)}
    groups |= {f"level {level}": levels == level for level in LEVELS}
    groups["pass rate {} to {}".format(*MIDDLING)] = (pass_rates >= MIDDLING[0]) & (pass_rates <= MIDDLING[1])
    rows = {name: np.flatnonzero(inside) for name, inside in groups.items() if inside.sum() > 1}
    draws = {name: resamples(len(inside), np.random.default_rng(seed)) for name, inside in rows.items()}
    larger = measured.accuracy[:, column]

    def working(budget: float) -> PerPrompt | None:
        runs, _ = routed(measured, alone, probabilities, Budget(min(budget, alone.largest)))
        return runs

    def compared(ratio: float) -> AtEqualFlops | None:
        allowed = generations_worth(size_ratio, ratio)
        small = working(int(allowed))
        if small is None:
            return None
        found = [
            GroupComparison(
                name,
                len(inside),
                policy=estimate(small.accuracy[inside], draws[name]),
                larger=estimate(larger[inside], draws[name]),
                difference=estimate((small.accuracy - larger)[inside], draws[name]),
            )
            for name, inside in rows.items()
        ]
        return AtEqualFlops(ratio, round(allowed, 1), round(float(small.generations.mean()), 2), tuple(found))

    def points(budget: int) -> list[GroupPoint]:
        runs = working(budget)
        if runs is None:
            return []
        found = {name: runs.on(inside).point(draws[name]) for name, inside in rows.items()}
        return [
            GroupPoint(p.accuracy, p.low, p.high, p.generations, p.flops, group=name, budget=budget)
            for name, p in found.items()
        ]

    sample = measured.flops[:, [str(arm) == "majority(n=1)" for arm in measured.arms]].mean()
    return LargerModel(
        model=model,
        arm=str(measured.arms[column]),
        size_ratio=round(size_ratio, 2),
        flops_ratio=round(float(measured.flops[:, column].mean() / sample), 2),
        curve=tuple(point for budget in budgets for point in points(budget)),
        comparisons=tuple(each for each in map(compared, RATIOS) if each),
    )


def _reference_only(policy: Policy) -> Policy | None:
    """Return the policy without arms that use other models; None where none is left."""

    def keep(arm: Strategy) -> bool:
        return arm.models == {None}

    least = min((policy.budget(arm) for arm in policy.arms if keep(arm)), default=None)
    return None if least is None else policy.with_default(Budget(least)).only(keep)
