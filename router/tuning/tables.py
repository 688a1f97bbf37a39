"""Tables of each arm's accuracy and cost at each level; cross-validation chooses how to make and read them.

With some sixty prompts per level and dozens of arms, the arm that looks best at a level is mostly lucky. Two things
reduce luck. An arm's advantage at a level is shrunk towards its advantage over all prompts (empirical Bayes). And
two-fold cross-validation chooses among several ways to make and read the table, which include that of Snell et al.
(section 3.2). Where there are several tasks, a table for each task is such a way. An arm's advantage in a task is then
shrunk in the same manner, and its advantage at a level towards that in the task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router.policy.objectives import Budget, BudgetPoint, Objective, at_price
from router.policy.table import LEVELS, Cell, Deciding, Policy
from router.tuning.evidence import Measured
from router.tuning.warnings import FEWEST

SPLITS = 20
_CHARGED = (0.03, 0.01, 0.003, 0.001)  # prices of a generation at which methods are compared
_PRICES = np.geomspace(1, 1e-6, 400)  # prices of a generation, in right answers
_RISE = 1.02  # least ratio between neighbouring average budgets


@dataclass(frozen=True, slots=True)
class Method:
    """How the table is made and read.

    levels    on which prompts a level is measured. statistic: those with this level by their attempts. predicted: every
              prompt, weighted by its out-of-fold probability of the level. likeliest: those predicted to have it. none:
              every prompt at every level
    pooled    whether a level's estimates use the other levels' prompts, see :func:`pooled`
    deciding  see ``Policy``
    tasks     tasks that have a table of their own
    """

    levels: Literal["statistic", "predicted", "likeliest", "none"]
    pooled: bool
    deciding: Deciding
    tasks: tuple[str, ...] = ()

    def weights(self, probabilities: NDArray[np.float64], levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """(P, 5) weight of each prompt at each level.

        probabilities  (P, 5) of the levels, out of fold;  levels (P,) by the prompts' attempts
        """
        match self.levels:
            case "statistic":
                return np.asarray(np.eye(len(LEVELS))[levels - 1])
            case "predicted":
                return probabilities
            case "likeliest":
                return np.asarray(np.eye(len(LEVELS))[probabilities.argmax(axis=1)])
            case "none":
                return np.ones_like(probabilities)

    def __str__(self) -> str:
        if self.levels == "none":
            made = "no levels" if self.tasks else "one table for all levels: the best fixed arm of each budget"
        else:
            made = f"{self.levels} levels, {'pooled' if self.pooled else 'each by itself'}, deciding by {self.deciding}"
        return f"{made}, a table for each of {', '.join(self.tasks)}" if self.tasks else made


PAPER = Method("likeliest", False, "mode")  # each predicted level by itself, as in Snell et al.
EXACT = Method("statistic", True, "distribution")
METHODS = (
    PAPER,
    Method("likeliest", True, "mode"),
    Method("predicted", True, "distribution"),
    Method("statistic", True, "mode"),
    EXACT,
)
LEVELLESS = Method("none", True, "distribution")


def by_task(tasks: tuple[str, ...]) -> tuple[Method, ...]:
    """Return the methods that make a table for each of these tasks; without tasks there are none.

    Their estimates are pooled in any case, since a task has few prompts.
    """
    return tuple(replace(each, tasks=tasks) for each in (*METHODS, LEVELLESS) if each.pooled and tasks)


def pooled(
    accuracy: NDArray[np.float64], weights: NDArray[np.float64], overall: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(5, K) accuracy of K arms at five levels; an arm's advantage at a level is shrunk towards its overall advantage.

    accuracy  (P, K) of each prompt;  weights (P, 5) of each prompt at each level
    overall   (K,) advantage of each arm; None: over these prompts

    An arm's advantage on a prompt is its accuracy minus the mean of all arms there, which removes the prompt's
    difficulty.
    """
    shares = _shares(weights)
    base = accuracy.mean(axis=1, keepdims=True)
    found = _shrunk(accuracy - base, shares, (accuracy - base).mean(axis=0) if overall is None else overall)
    return np.asarray(np.clip(shares.T @ base + found, 0, 1))


def _shrunk(
    advantage: NDArray[np.float64], shares: NDArray[np.float64], overall: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(G, K) advantage of each arm in G groups, shrunk towards (K,) ``overall``.

    advantage  (P, K) on each prompt;  shares (P, G) of the prompts in each group, which sum to 1

    In a group it is ``overall + true deviation + noise``. The noise has the variance of a mean. The true deviations
    have the variance that the observed ones have beyond the noise (method of moments). The posterior mean keeps the
    share deviation² / (deviation² + noise²) of each observed deviation.
    """
    here = shares.T @ advantage
    effective = 1 / (shares**2).sum(axis=0)
    noise = np.maximum(shares.T @ advantage**2 - here**2, 0) / np.maximum(effective - 1, 1)[:, None]
    observed = here - overall
    spread = max(0.0, float((observed**2 - noise).mean()))
    total = spread + noise
    kept = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(overall + kept * observed)


def estimate(accuracy: NDArray[np.float64], weights: NDArray[np.float64], method: Method) -> NDArray[np.float64]:
    """(5, K) accuracy of each arm at each level by the method; arguments as in :func:`pooled`."""
    return pooled(accuracy, weights) if method.pooled else np.asarray(_shares(weights).T @ accuracy)


def _by_task(
    accuracy: NDArray[np.float64], weights: NDArray[np.float64], tasks: NDArray[np.str_], wanted: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return (5, K) accuracies as :func:`pooled` does, by task; an arm's advantage in a task is shrunk as well.

    tasks  (P,) of the prompts;  wanted  the tasks that are estimated
    """
    inside = np.array([tasks == each for each in wanted])
    advantage = accuracy - accuracy.mean(axis=1, keepdims=True)
    overall = _shrunk(advantage, _shares(inside.T.astype(float)), advantage.mean(axis=0))
    return {
        task: pooled(accuracy[here], weights[here], mean)
        for task, here, mean in zip(wanted, inside, overall, strict=True)
    }


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P, 5) each prompt's share of each level; all prompts count equally at a level without prompts."""
    counts = weights.sum(axis=0)
    return np.where(counts > 0, weights / np.where(counts > 0, counts, 1), 1 / len(weights))


def tabulate(
    measured: Measured,
    weights: NDArray[np.float64],
    method: Method,
    *,
    default: Objective,
    tolerance: float,
    draws: NDArray[np.float64] | None = None,
) -> Policy:
    """Make the table, as a policy without average budgets.

    weights  (P, 5) of each prompt at each level
    draws    (R, P) bootstrap resamples for the intervals; None: intervals are points

    A level with fewer than :data:`FEWEST` prompts is measured on all prompts, of a task on all of the task.
    """
    rows = {task: np.flatnonzero(measured.tasks == task) for task in method.tasks}
    everyone, own = _filled(weights), weights.copy()
    for here in rows.values():
        own[here] = _filled(weights[here])

    def tables(drawn: Any) -> dict[str, NDArray[np.float64]]:
        accuracy = measured.accuracy[drawn]
        found = {"": estimate(accuracy, everyone[drawn], method)}
        return found | (_by_task(accuracy, own[drawn], measured.tasks[drawn], method.tasks) if rows else {})

    accuracy = tables(slice(None))
    low = high = accuracy
    if draws is not None:
        times = np.rint(draws * len(weights)).astype(int)
        each = [tables(np.repeat(np.arange(len(weights)), count)) for count in times]
        ends = {task: np.quantile([drawn[task] for drawn in each], [0.025, 0.975], axis=0) for task in accuracy}
        low = {task: np.minimum(found[0], accuracy[task]) for task, found in ends.items()}
        high = {task: np.maximum(found[1], accuracy[task]) for task, found in ends.items()}

    def cells(task: str) -> list[Cell]:
        here = rows.get(task, np.arange(len(weights)))
        part = measured.on(here) if task else measured
        costs = [part.costs(share) for share in _shares((own if task else everyone)[here]).T]
        numbers = np.stack([accuracy[task], low[task], high[task]]).tolist()
        counts = weights[here].sum(axis=0).tolist()
        found = []
        for i, level in enumerate(LEVELS):
            for k, arm in enumerate(measured.arms):
                mean, least, most = (round(table[i][k], 4) for table in numbers)
                found.append(Cell(level, arm, mean, least, most, prompts=round(counts[i], 1), cost=costs[i][k]))
        return found

    return Policy(
        cells(""),
        default,
        deciding=method.deciding,
        tolerance=tolerance,
        worth=measured.setup.worth,
        tasks={task: cells(task) for task in rows},
    )


def _filled(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure a level with fewer than :data:`FEWEST` of these prompts on all of them."""
    return np.where(weights.sum(axis=0) < FEWEST, 1.0, weights)


def halved(
    measured: Measured,
    weights: NDArray[np.float64],
    method: Method,
    *,
    levels: NDArray[np.int64],
    tolerance: float,
    seed: int,
) -> Iterator[tuple[NDArray[np.int64], Policy]]:
    """Yield half of the prompts, and the table that is made from the others, for many halvings.

    weights  (P, 5) of each prompt at each level;  levels (P,) of the prompts

    Halves are balanced by task and level, and each is yielded :data:`SPLITS` times (Snell et al., section 3.2).
    """
    rng = np.random.default_rng(seed)  # the same halvings for every method
    smallest = Budget(float(measured.budgets.min()))
    for _ in range(SPLITS):
        half = np.empty(len(levels), dtype=int)
        half[np.lexsort((rng.random(len(levels)), levels, measured.tasks))] = np.arange(len(levels)) % 2
        for fold in (0, 1):
            made, read = np.flatnonzero(half == fold), np.flatnonzero(half != fold)
            yield read, tabulate(measured.on(made), weights[made], method, default=smallest, tolerance=tolerance)


def cross_validate(
    measured: Measured,
    weights: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    method: Method,
    *,
    budgets: Sequence[int],
    **halves: Any,
) -> NDArray[np.float64]:
    """(P, budgets + prices) value on each prompt of the arm that a table made from other prompts chooses there.

    Each prompt is decided by the table of its task. The value is the accuracy for each fixed budget, and accuracy minus
    price times generations for each of :data:`_CHARGED`: a method has to serve both kinds of objective. It is the mean
    over many halvings, which :func:`halved` makes of ``halves``.
    """
    found = np.zeros((len(measured.prompts), len(budgets) + len(_CHARGED)))
    for read, table in halved(measured, weights, method, **halves):
        given, tasks = probabilities[read], measured.tasks[read]
        for i, budget in enumerate(budgets):
            chosen = table.decide_many(given, Budget(budget), tasks)
            found[read, i] += measured.accuracy[read, chosen]
        for i, price in enumerate(_CHARGED, start=len(budgets)):
            chosen = _charged(table, given, tasks, price)
            found[read, i] += measured.accuracy[read, chosen] - price * measured.generations[read, chosen]
    return found / SPLITS


def with_average_budgets(policy: Policy, probabilities: NDArray[np.float64], measured: Measured) -> Policy:
    """Return the policy with average budgets: the mean spending of the prompts at each price of a generation.

    Each prompt is decided by the table of its task, and all at one price. At the same mean spending, no choice is more
    accurate (by the tables) than the one that a price makes: together these are the upper hull of accuracy over
    spending. Prices end where the whole largest budget would cost no more than the tolerance.
    """
    points: list[BudgetPoint] = []
    prompts = np.arange(len(probabilities))
    for price in _PRICES[policy.tolerance / policy.largest <= _PRICES]:
        chosen = _charged(policy, probabilities, measured.tasks, float(price))
        spent = float(measured.generations[prompts, chosen].mean())
        if not points or spent > _RISE * points[-1].generations:
            points.append(BudgetPoint(round(spent, 4), float(f"{price:.4g}")))
    return policy.with_budget_points(points)


def _charged(
    policy: Policy, probabilities: NDArray[np.float64], tasks: NDArray[np.str_], price: float
) -> NDArray[np.int64]:
    """(n,) the arms of prompts where a generation costs so many right answers."""
    found = np.empty(len(probabilities), dtype=np.int64)
    for rows, table in policy.tables(tasks):
        weights = table.weights(probabilities[rows])
        found[rows] = table.cheapest_of_many(weights, at_price(table, weights, price, "generations"))
    return found
