"""Tables of each arm's accuracy and cost at each level; cross-validation chooses how to make and read them.

With some sixty prompts per level and dozens of arms, the arm that looks best at a level is mostly lucky. Two things
reduce luck. An arm's advantage at a level is shrunk towards its advantage over all prompts (empirical Bayes). And
two-fold cross-validation chooses among several ways to make and read the table, which include that of Snell et al.
(section 3.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
              prompt, weighted by its out-of-fold probability of the level. likeliest: those predicted to have it
    pooled    whether a level's estimates use the other levels' prompts, see :func:`pooled`
    deciding  see ``Policy``
    """

    levels: Literal["statistic", "predicted", "likeliest"]
    pooled: bool
    deciding: Deciding

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

    def __str__(self) -> str:
        return f"{self.levels} levels, {'pooled' if self.pooled else 'each by itself'}, deciding by {self.deciding}"


PAPER = Method("likeliest", False, "mode")  # each predicted level by itself, as in Snell et al.
METHODS = (
    PAPER,
    Method("likeliest", True, "mode"),
    Method("predicted", True, "distribution"),
    Method("statistic", True, "mode"),
    Method("statistic", True, "distribution"),
)


def pooled(accuracy: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, K) accuracy of K arms at five levels; an arm's advantage at a level is shrunk towards its overall advantage.

    accuracy  (P, K) of each prompt;  weights (P, 5) of each prompt at each level

    An arm's advantage on a prompt is its accuracy minus the mean of all arms there, which removes the prompt's
    difficulty. At a level it is ``overall + true deviation + noise``. The noise has the variance of a mean. The true
    deviations have the variance that the observed ones have beyond the noise (method of moments). The posterior mean
    keeps the share deviation² / (deviation² + noise²) of each observed deviation.
    """
    shares = _shares(weights)
    base = accuracy.mean(axis=1, keepdims=True)
    advantage = accuracy - base
    here, overall = shares.T @ advantage, advantage.mean(axis=0)
    effective = 1 / (shares**2).sum(axis=0)
    noise = np.maximum(shares.T @ advantage**2 - here**2, 0) / np.maximum(effective - 1, 1)[:, None]
    observed = here - overall
    spread = max(0.0, float((observed**2 - noise).mean()))
    total = spread + noise
    kept = np.divide(spread, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(np.clip(shares.T @ base + overall + kept * observed, 0, 1))


def estimate(accuracy: NDArray[np.float64], weights: NDArray[np.float64], method: Method) -> NDArray[np.float64]:
    """(5, K) accuracy of each arm at each level by the method; arguments as in :func:`pooled`."""
    return pooled(accuracy, weights) if method.pooled else np.asarray(_shares(weights).T @ accuracy)


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

    A level with fewer than :data:`FEWEST` prompts is measured on all prompts.
    """
    counts = weights.sum(axis=0)
    weights = np.where(counts < FEWEST, 1.0, weights)
    accuracy = low = high = estimate(measured.accuracy, weights, method)
    if draws is not None:
        times = np.rint(draws * len(weights)).astype(int)
        rows = [np.repeat(np.arange(len(weights)), count) for count in times]
        drawn = [estimate(measured.accuracy[row], weights[row], method) for row in rows]
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        low, high = np.minimum(low, accuracy), np.maximum(high, accuracy)
    cells = []
    for i, level in enumerate(LEVELS):
        share = _shares(weights)[:, i]
        for k, (arm, cost) in enumerate(zip(measured.arms, measured.costs(share), strict=True)):
            mean, least, most = (round(float(table[i, k]), 4) for table in (accuracy, low, high))
            cells.append(Cell(level, arm, mean, least, most, prompts=round(float(counts[i]), 1), cost=cost))
    worth = measured.setup.worth
    return Policy(cells, default, deciding=method.deciding, tolerance=tolerance, worth=worth)


def cross_validate(
    measured: Measured,
    weights: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    method: Method,
    *,
    budgets: Sequence[int],
    levels: NDArray[np.int64],
    tolerance: float,
    seed: int,
) -> NDArray[np.float64]:
    """(P, budgets + prices) value on each prompt of the arm that a table made from other prompts chooses there.

    The value is the accuracy for each fixed budget, and accuracy minus price times generations for each of
    :data:`_CHARGED`: a method has to serve both kinds of objective. Folds are halves, balanced by level, averaged over
    many splits (Snell et al., section 3.2).
    """
    rng = np.random.default_rng(seed)  # the same halvings for every method
    found = np.zeros((len(levels), len(budgets) + len(_CHARGED)))
    for _ in range(SPLITS):
        half = np.empty(len(levels), dtype=int)
        half[np.lexsort((rng.random(len(levels)), levels))] = np.arange(len(levels)) % 2
        for fold in (0, 1):
            made, read = np.flatnonzero(half == fold), np.flatnonzero(half != fold)
            smallest = Budget(float(measured.budgets.min()))
            table = tabulate(measured.on(made), weights[made], method, default=smallest, tolerance=tolerance)
            weighing = table.weights(probabilities[read])
            for i, budget in enumerate(budgets):
                chosen = table.decide_many(probabilities[read], Budget(budget))
                found[read, i] += measured.accuracy[read, chosen]
            for i, price in enumerate(_CHARGED, start=len(budgets)):
                chosen = table.cheapest_of_many(weighing, at_price(table, weighing, price, "generations"))
                found[read, i] += measured.accuracy[read, chosen] - price * measured.generations[read, chosen]
    return found / SPLITS


def with_average_budgets(table: Policy, probabilities: NDArray[np.float64], measured: Measured) -> Policy:
    """Return the policy with average budgets: the mean spending of the prompts at each price of a generation.

    At the same mean spending, no choice is more accurate (by the table) than the one that a price makes: together these
    are the upper hull of accuracy over spending. Prices end where the whole largest budget would cost no more than the
    tolerance.
    """
    points: list[BudgetPoint] = []
    prompts, weights = np.arange(len(probabilities)), table.weights(probabilities)
    for price in _PRICES[table.tolerance / table.largest <= _PRICES]:
        chosen = table.cheapest_of_many(weights, at_price(table, weights, float(price), "generations"))
        spent = float(measured.generations[prompts, chosen].mean())
        if not points or spent > _RISE * points[-1].generations:
            points.append(BudgetPoint(round(spent, 4), float(f"{price:.4g}")))
    return Policy(
        table.cells,
        table.default,
        budget_points=points,
        deciding=table.deciding,
        tolerance=table.tolerance,
        worth=table.worth,
    )
