"""Ways to choose an arm for each held-out prompt: one arm for all, the policy's choice, or the best in hindsight."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from router.evaluation.curves import Curve, PerPrompt, mean_of
from router.evaluation.report import LeftOut
from router.policy.objectives import Objective, parts
from router.policy.table import Policy
from router.tuning.evidence import Measured
from router.tuning.nested import shuffled_at
from strategies import Cascade

SAMPLING = ("majority", "best_of_n", "weighted_best_of_n")  # with one sample these three are the same


def curve_name(arm: str) -> str:
    """Return an arm's text without its n: ``beam_search(n=4, m=4)`` is a point of the curve ``beam_search(m=4)``."""
    return re.sub(r"\bn=\d+(, )?", "", arm).replace(", )", ")").replace("()", "")


def arm_names(measured: Measured) -> list[str]:
    """Return the (K,) texts of the arms, in the order of the columns."""
    return [str(arm) for arm in measured.arms]


def budgets_of(measured: Measured) -> list[float]:
    """Return the (K,) budgets of the arms, the most that each spends, in complete solutions."""
    return [int(budget) if budget == int(budget) else round(budget, 3) for budget in measured.budgets.tolist()]


def fixed(measured: Measured, column: int) -> PerPrompt:
    """Return the results of one arm on every prompt."""
    return PerPrompt(measured.accuracy[:, column], measured.generations[:, column], measured.flops[:, column])


def chosen(measured: Measured, columns: NDArray[np.int64], extra_flops: NDArray[np.float64] | float = 0.0) -> PerPrompt:
    """Return the results of a chosen arm for each prompt.

    columns      (P,) column of the arm
    extra_flops  (P,) FLOPs spent on choosing it
    """
    rows = np.arange(len(columns))
    flops = measured.flops[rows, columns] + extra_flops
    return PerPrompt(measured.accuracy[rows, columns], measured.generations[rows, columns], flops)


def shuffled_choices(
    measured: Measured,
    policy: Policy,
    picked: Sequence[NDArray[np.int64]],
    spent: float,
    *,
    unit: Literal["generations", "flops"],
    rng: np.random.Generator,
    extra_flops: NDArray[np.float64] | float = 0.0,
) -> PerPrompt:
    """Return the results where each prompt has the choice for another one of its table, at this mean spend.

    They are the mean of many shuffles, see ``tuning.nested.shuffled_at``.

    picked       (P,) columns of the policy's choices at each of several prices
    extra_flops  (P,) FLOPs spent on choosing
    """
    of_arms = measured.generations if unit == "generations" else measured.flops + np.reshape(extra_flops, (-1, 1))
    found = shuffled_at(picked, of_arms, spent, policy=policy, tasks=measured.tasks, rng=rng)
    return mean_of([chosen(measured, columns, extra_flops) for columns, _ in found], [share for _, share in found])


def routed(
    measured: Measured,
    policy: Policy,
    probabilities: NDArray[np.float64],
    objective: Objective,
    extra_flops: NDArray[np.float64] | float = 0.0,
) -> tuple[PerPrompt | None, list[str]]:
    """Return the results of the policy's choices by (P, 5) level probabilities, and the chosen arms that are missing.

    Each prompt is decided by the table of its task. An arm is missing where it was not run on these prompts; the
    results are then None.
    """
    columns = {arm: k for k, arm in enumerate(measured.arms)}
    shares, found, missing = [], [], set[str]()
    for share, part in parts(policy, objective):
        picked = policy.decide_many(probabilities, part, measured.tasks).tolist()
        arms = [part.runs(policy.arms[k]) for k in picked]
        missing |= {str(arm) for arm in arms if arm not in columns}
        if not missing:
            shares.append(share)
            found.append(chosen(measured, np.array([columns[arm] for arm in arms]), extra_flops))
    return (None, sorted(missing)) if missing else (mean_of(found, shares), [])


@dataclass(frozen=True, slots=True)
class Decider:
    """A policy, and the levels that it decides P prompts by.

    name           how a report calls it
    probabilities  (P, 5) level probabilities
    reading        (P,) FLOPs of predicting them; 0 where the levels are known
    """

    name: str
    policy: Policy
    probabilities: NDArray[np.float64]
    reading: NDArray[np.float64] | float = 0.0

    def run(self, measured: Measured, objective: Objective) -> tuple[PerPrompt | None, list[LeftOut]]:
        """Return the results under an objective; None, and what is missing, where a chosen arm was not run."""
        runs, missing = routed(measured, self.policy, self.probabilities, objective, self.reading)
        if not missing:
            return runs, []
        why = f"no held-out runs of {', '.join(missing)}: collect them"
        return runs, [LeftOut(f"{self.name}, {objective}", why)]

    def curve(self, measured: Measured, objectives: Mapping[float, Objective]) -> tuple[Curve, list[LeftOut]]:
        """Return the results under objectives by budget, where all chosen arms were run, and what is missing."""
        found: dict[float, PerPrompt] = {}
        left_out: list[LeftOut] = []
        for budget, objective in objectives.items():
            runs, missing = self.run(measured, objective)
            left_out += missing
            if runs:
                found[budget] = runs
        return found, left_out


def hindsight(measured: Measured, levels: NDArray[np.int64], budget: int) -> PerPrompt:
    """Return the results of each (P,) level's best arm in hindsight, chosen on the held-out prompts themselves."""
    within = np.flatnonzero(measured.budgets <= budget)
    columns = np.zeros(len(levels), dtype=int)
    for level in np.unique(levels):
        columns[levels == level] = within[measured.accuracy[levels == level][:, within].mean(axis=0).argmax()]
    return chosen(measured, columns)


def fixed_at(measured: Measured, arms: Mapping[int, str]) -> Curve:
    """Return a curve of the named arm at each budget, where it was run."""
    names = arm_names(measured)
    return {budget: fixed(measured, names.index(arm)) for budget, arm in arms.items() if arm in names}


def fixed_curves(measured: Measured) -> dict[str, Curve]:
    """Return a curve for each strategy with its parameters. All sampling strategies share the point of one sample."""
    found: dict[str, dict[float, PerPrompt]] = {}
    named = zip(map(curve_name, arm_names(measured)), budgets_of(measured), range(len(measured.arms)), strict=True)
    for name, budget, column in sorted(named):
        if isinstance(measured.arms[column], Cascade):  # a cascade is a curve of one point
            continue
        found.setdefault(name, {})[budget] = fixed(measured, column)
    first = found.get("majority", {}).get(1)
    for name in SAMPLING:
        if name in found and first:
            found[name] = {1: first} | found[name]
    return dict(found)


def average_budgets(policy: Policy, budgets: Sequence[int]) -> list[float]:
    """Return the budgets and a point between each two, from the least that the policy can spend on average."""
    between = [round((a * b) ** 0.5, 1) for a, b in pairwise(budgets)]
    return sorted({max(least_average(policy), float(value)) for value in [*budgets, *between]})


def least_average(policy: Policy) -> float:
    """Return the smallest average budget that the policy can keep, in complete solutions."""
    return policy.budget_points[0].generations
