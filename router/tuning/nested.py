"""Compares the policy at average budgets with plainer ways to choose, by nested cross-validation over prompts.

These choices are made without the prompts that they are measured on: which cascades to keep, the table, the prices, the
best fixed arm and cascade, the mix of two arms. Confidences and levels are out of fold as well. How the table is made
(the method), which arms cascades are made of, and the kinds of the two models were chosen on all prompts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.policy.objectives import AverageBudget, Budget
from router.policy.table import Policy
from router.tuning.between import ROOM, neighbours
from router.tuning.candidates import Candidates
from router.tuning.evidence import Measured, interval
from router.tuning.nearest import closest, nearest, similarities
from router.tuning.tables import Method, tabulate, with_average_budgets
from strategies import Cascade

AVERAGES = (2, 4, 8, 16, 32)  # average budgets that are reported, in complete solutions
_FOLDS = 4
_SHUFFLES = 20

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choice = tuple[Floats, Floats]  # accuracy and generations at each prompt


def compare(
    candidates: Candidates, method: Method, texts: Sequence[str], draws: Floats, *, tolerance: float
) -> list[dict[str, Any]]:
    """Return a row for each average budget, up to the first one that is more than the policy can spend.

    ways    accuracy and spending of each way to choose
    gains   accuracy of the policy minus that of each other way, see :func:`beside`
    chosen  the arms that the plainer ways would take if they were chosen on all prompts
    """
    every = candidates.everything
    prompts = np.arange(len(every.prompts))
    rng = np.random.default_rng(0)
    fold = np.empty(len(prompts), dtype=int)
    fold[np.lexsort((rng.random(len(prompts)), candidates.probabilities.argmax(axis=1)))] = prompts % _FOLDS
    policies = [_Policies(candidates, prompts[fold != i], prompts[fold == i], method, tolerance) for i in range(_FOLDS)]
    wanted = _wanted(every, max(each.policy.budget_points[-1].generations for each in policies))
    similar, _ = similarities(texts)
    found = {budget: {name: np.zeros((3, len(prompts))) for name in WAYS} for budget in wanted}
    for each in policies:
        for budget in wanted:
            for name, (accuracy, spent) in _ways(candidates, each, budget=budget, similar=similar, rng=rng).items():
                found[budget][name][:, each.read] = accuracy, spent, each.at(beside(name, float(spent.mean()), budget))
    return [_row(budget, found[budget], every, draws) for budget in wanted]


FIXED = ("best_fixed_arm", "best_fixed_cascade")
WAYS = (
    *("policy", *FIXED, "random_mix"),
    *("level_only", "confidence_only", "shuffled_levels", "nearest_neighbours"),
)


def beside(way: str, spent: float, budget: float) -> float:
    """Return what the policy may spend where it is compared with another way that spends so much on average.

    It is as much, and the whole budget beside a fixed arm or cascade, which may spend less since none costs just that.
    """
    return max(spent, budget) if way in FIXED else spent


def _wanted(every: Measured, most: float) -> list[int]:
    """Return the budgets to report. ``most``: the policy's largest budget point, after which rows would repeat."""
    spent = [budget for budget in AVERAGES if budget <= every.generations.mean(axis=0).max()]
    return spent[: 1 + sum(budget <= most for budget in spent)]


class _Policies:
    """Policies made from some of the prompts, with and without cascades, to be read on the others.

    made, read  rows of the two
    """

    def __init__(self, candidates: Candidates, made: Ints, read: Ints, method: Method, tolerance: float):
        every = candidates.everything
        self.made, self.read = made, read
        self._every, self._probabilities = every, candidates.probabilities
        self.columns = candidates.without_luck(made, [], tolerance)
        self.plain = [k for k, arm in enumerate(every.arms) if not isinstance(arm, Cascade)]
        probabilities = candidates.probabilities[made]

        def table(columns: Sequence[int]) -> Policy:
            measured = every.on(made).of(columns)
            least = Budget(float(measured.budgets.min()))
            weights = method.weights(probabilities, candidates.levels[made])
            made_of = tabulate(measured, weights, method, default=least, tolerance=tolerance)
            return with_average_budgets(made_of, probabilities, measured)

        self.policy, self.level_only = table(self.columns), table(self.plain)
        points = [self.picked(self.policy, AverageBudget(each.generations)) for each in self.policy.budget_points]
        means = np.array([every.generations[read, columns].mean() for columns in points])
        rising = means.argsort(kind="stable")  # a lower price need not spend more on prompts that the table never saw
        self._spent, self.at_points = means[rising], [points[i] for i in rising]

    def picked(self, policy: Policy, objective: AverageBudget) -> Ints:
        """(read,) columns of a policy's choices."""
        names = np.array([self._every.arms.index(arm) for arm in policy.arms])
        columns: Ints = names[
            policy.decide_many(self._probabilities[self.read], objective, self._every.tasks[self.read])
        ]
        return columns

    def at(self, spent: float) -> Floats:
        """(read,) accuracy of the policy where it spends this much on these prompts; beyond its ends at the nearer."""
        low, high, share = neighbours(self._spent, spent)
        first, second = (self._every.accuracy[self.read, self.at_points[end]] for end in (low, high))
        found: Floats = (1 - share) * first + share * second
        return found


def _ways(
    candidates: Candidates,
    policies: _Policies,
    *,
    budget: float,
    similar: Floats,
    rng: np.random.Generator,
) -> dict[str, Choice]:
    every, made, read = candidates.everything, policies.made, policies.read
    accuracy, spent = every.accuracy, every.generations
    cascades = [k for k, arm in enumerate(every.arms) if isinstance(arm, Cascade)]

    def taken(columns: Ints | int) -> Choice:
        return accuracy[read, columns], spent[read, columns]

    def blended(choices: Sequence[tuple[Ints, float]]) -> Choice:
        runs, shares = [taken(columns) for columns, _ in choices], [share for _, share in choices]
        found, used = (np.average(each, axis=0, weights=shares) for each in zip(*runs, strict=True))
        return found, used

    def decided(policy: Policy) -> Choice:
        least = policy.budget_points[0].generations
        parts = AverageBudget(max(budget, least)).parts(policy)
        return blended([(policies.picked(policy, part), share) for share, part in parts])

    def mixed(columns: Sequence[int]) -> Choice:
        low, high, share = mix(accuracy[made][:, columns].mean(axis=0), spent[made][:, columns].mean(axis=0), budget)
        (a, b), (c, d) = taken(columns[low]), taken(columns[high])
        return (1 - share) * a + share * c, (1 - share) * b + share * d

    policy = decided(policies.policy)
    alike: dict[str, Any] = {"policy": policies.policy, "tasks": every.tasks[read], "rng": rng}
    others = shuffled_at(policies.at_points, spent[read], float(policy[1].mean()), **alike)
    return {
        "policy": policy,
        "best_fixed_arm": taken(best_fixed(every, policies.plain, made, budget)),
        "best_fixed_cascade": taken(best_fixed(every, cascades or policies.plain, made, budget)),
        "random_mix": mixed(policies.plain),
        "level_only": decided(policies.level_only),
        "confidence_only": mixed([*policies.plain, *cascades]),
        "shuffled_levels": blended(others),
        "nearest_neighbours": taken(
            _nearest(every, policies.columns, made=made, read=read, budget=budget, similar=similar)
        ),
    }


def shuffled(policy: Policy, tasks: NDArray[np.str_], rng: np.random.Generator) -> Ints:
    """(n,) another prompt for each prompt, at random among those that the same table decides for."""
    order = np.empty(len(tasks), dtype=np.int64)
    for rows, _ in policy.tables(tasks):
        order[rows] = rng.permutation(rows)
    return order


def shuffled_at(
    picked: Sequence[Ints],
    spent: Floats,
    amount: float,
    *,
    policy: Policy,
    tasks: NDArray[np.str_],
    rng: np.random.Generator,
) -> list[tuple[Ints, float]]:
    """Return choices where each prompt has that for another one, at this mean spend; with shares that sum to 1.

    There are many shuffles. In each, the two choices next to the amount are mixed. Beyond its ends it is the nearer
    end.

    picked  (P,) columns of the policy's choices at each of several prices
    spent   (P, K) what each arm spends;  tasks (P,) names
    """
    rows, found = np.arange(len(tasks)), []
    for _ in range(_SHUFFLES):
        order = shuffled(policy, tasks, rng)
        moved = [columns[order] for columns in picked]
        means = np.array([spent[rows, columns].mean() for columns in moved])
        rising = means.argsort(kind="stable")  # a lower price need not spend more on prompts that the table never saw
        low, high, share = neighbours(means[rising], amount)
        found += [(moved[rising[low]], (1 - share) / _SHUFFLES), (moved[rising[high]], share / _SHUFFLES)]
    return found


def best_fixed(every: Measured, columns: Sequence[int], rows: Ints, budget: float) -> int:
    """Return the column of the most accurate arm whose mean spending is within the budget; else of the cheapest.

    An arm that spends a little more, by up to :data:`ROOM`, counts as within: a search with n beams may write n + 0.02
    solutions.
    """
    spent = every.generations[rows][:, columns].mean(axis=0)
    accuracy = every.accuracy[rows][:, columns].mean(axis=0)
    within = spent <= max(budget * ROOM, float(spent.min()))
    return columns[int(np.where(within, accuracy, -1.0).argmax())]


def mix(accuracy: Floats, spent: Floats, budget: float) -> tuple[int, int, float]:
    """Return the two arms, and the share of the second, whose mix is most accurate at this mean spending."""
    below, above = np.flatnonzero(spent <= budget), np.flatnonzero(spent > budget)
    if not len(below):
        cheapest = int(spent.argmin())
        return cheapest, cheapest, 0.0
    alone = int(below[accuracy[below].argmax()])
    if not len(above):
        return alone, alone, 0.0
    share = (budget - spent[below][:, None]) / (spent[above][None] - spent[below][:, None])
    worth = accuracy[below][:, None] * (1 - share) + accuracy[above][None] * share
    i, j = np.unravel_index(int(worth.argmax()), worth.shape)
    if worth[i, j] <= accuracy[alone]:
        return alone, alone, 0.0
    return int(below[i]), int(above[j]), float(share[i, j])


def _nearest(
    every: Measured, columns: Sequence[int], *, made: Ints, read: Ints, budget: float, similar: Floats
) -> Ints:
    """(read,) the arm that was best at the most similar prompts, at the price at which ``made`` spend the budget."""
    accuracy, spent = (of[made][:, columns] for of in (every.accuracy, every.generations))
    among, to = (closest(similar[np.ix_(rows, made)]) for rows in (made, read))
    found = nearest(accuracy, spent, among, to, budget)
    return np.array(columns, dtype=np.int64)[found]


def _row(budget: int, found: dict[str, Floats], every: Measured, draws: Floats) -> dict[str, Any]:
    """``found``: (3, P) by way: its accuracy, its spending, and the policy's accuracy beside it."""
    rows = np.arange(len(every.prompts))
    plain = [k for k, arm in enumerate(every.arms) if not isinstance(arm, Cascade)]
    cascades = [k for k, arm in enumerate(every.arms) if isinstance(arm, Cascade)]

    def mixed(columns: Sequence[int]) -> dict[str, Any]:
        accuracy, spent = (of[:, columns].mean(axis=0) for of in (every.accuracy, every.generations))
        low, high, share = mix(accuracy, spent, budget)
        return {"first": str(every.arms[columns[low]]), "second": str(every.arms[columns[high]]), "share": share}

    ways = {
        name: {**interval(accuracy, draws), "generations": round(float(spent.mean()), 3)}
        for name, (accuracy, spent, _) in found.items()
    }
    gains = {
        name: interval(policy - accuracy, draws) for name, (accuracy, _, policy) in found.items() if name != "policy"
    }
    chosen = {
        "best_fixed_arm": str(every.arms[best_fixed(every, plain, rows, budget)]),
        "best_fixed_cascade": str(every.arms[best_fixed(every, cascades, rows, budget)]) if cascades else None,
        "random_mix": mixed(plain),
        "confidence_only": mixed([*plain, *cascades]),
    }
    return {"budget": budget, "ways": ways, "gains": gains, "chosen": chosen}
