"""Ways to choose an arm for each held-out prompt: always the same one, the policy's, or the best in hindsight."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from router.evaluation.curves import Curve, PerPrompt
from router.policy.objectives import Objective
from router.policy.table import Policy
from router.tuning.evidence import Measured
from strategies import Cascade

SAMPLING = ("majority", "best_of_n", "weighted_best_of_n")  # with one sample they are the same


def curve_name(arm: str) -> str:
    """An arm's text without its n: ``beam_search(n=4, m=4)`` is a point of ``beam_search(m=4)``."""
    return re.sub(r"\bn=\d+(, )?", "", arm).replace(", )", ")").replace("()", "")


def arm_names(measured: Measured) -> list[str]:
    """(K,) texts of the arms, in the order of the columns."""
    return [str(arm) for arm in measured.arms]


def budgets_of(measured: Measured) -> list[float]:
    """(K,) the most that each arm spends, in complete solutions; whole numbers as such."""
    return [int(budget) if budget == int(budget) else round(budget, 3) for budget in measured.budgets.tolist()]


def fixed(measured: Measured, column: int) -> PerPrompt:
    """One arm for every prompt."""
    return PerPrompt(measured.accuracy[:, column], measured.generations[:, column], measured.flops[:, column])


def chosen(measured: Measured, columns: NDArray[np.int64], extra_flops: NDArray[np.float64] | float = 0.0) -> PerPrompt:
    """The arm in (P,) ``columns`` for each prompt; ``extra_flops`` (P,) are what choosing it took."""
    rows = np.arange(len(columns))
    flops = measured.flops[rows, columns] + extra_flops
    return PerPrompt(measured.accuracy[rows, columns], measured.generations[rows, columns], flops)


def routed(
    measured: Measured,
    policy: Policy,
    probabilities: NDArray[np.float64],
    objective: Objective,
    extra_flops: NDArray[np.float64] | float = 0.0,
) -> tuple[PerPrompt | None, list[str]]:
    """The policy's choices by (P, 5) level probabilities, or the chosen arms that were not run on these prompts."""
    names = arm_names(measured)
    arms = [str(objective.runs(policy.decide(row, objective).arm)) for row in probabilities.tolist()]
    if missing := sorted(set(arms) - set(names)):
        return None, missing
    return chosen(measured, np.array([names.index(arm) for arm in arms]), extra_flops), []


def hindsight(measured: Measured, levels: NDArray[np.int64], budget: int) -> PerPrompt:
    """The best arm of each (P,) level, chosen on the held-out prompts themselves: more than any policy can know."""
    within = np.flatnonzero(measured.budgets <= budget)
    columns = np.zeros(len(levels), dtype=int)
    for level in np.unique(levels):
        columns[levels == level] = within[measured.accuracy[levels == level][:, within].mean(axis=0).argmax()]
    return chosen(measured, columns)


def fixed_curves(measured: Measured) -> dict[str, Curve]:
    """A curve for each strategy with its parameters; with one sample there is nothing to select, so all begin there."""
    found: dict[str, dict[float, PerPrompt]] = {}
    named = zip(map(curve_name, arm_names(measured)), budgets_of(measured), range(len(measured.arms)), strict=True)
    for name, budget, column in sorted(named):
        if isinstance(measured.arms[column], Cascade):  # each is one of its kind
            continue
        found.setdefault(name, {})[budget] = fixed(measured, column)
    first = found.get("majority", {}).get(1)
    for name in SAMPLING:
        if name in found and first:
            found[name] = {1: first} | found[name]
    return dict(found)


def average_budgets(policy: Policy, budgets: Sequence[int]) -> list[float]:
    """The budgets and a step between each, from the least that the policy can spend on average."""
    between = [round((a * b) ** 0.5, 1) for a, b in pairwise(budgets)]
    return sorted({max(least_average(policy), float(value)) for value in [*budgets, *between]})


def least_average(policy: Policy) -> float:
    """The smallest average budget, in complete solutions."""
    return policy.budget_points[0].generations
