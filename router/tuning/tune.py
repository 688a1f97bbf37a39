"""Tune the policy: measure every arm at every level, robustly, in one table that serves every objective.

With some sixty prompts a level and dozens of arms, the best-looking arm of a level is mostly luck. Two things keep luck
out: an arm's advantage at a level is shrunk towards its advantage over all prompts (empirical Bayes), and how the table
is made and read is itself chosen by two-fold cross-validation (Snell et al., section 3.2), the paper's way among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.backends.specs import Setup
from router.errors import InvalidFile
from router.policy.objectives import Budget, BudgetPoint, Objective, at_price
from router.policy.table import LEVELS, Cell, Deciding, Policy
from router.training.difficulty import CARRY_LEVELS, Training
from router.tuning.evidence import Measured, by_reason, common_size, interval, measure, pool_sizes, resamples
from router.tuning.warnings import FEWEST, of_tuning
from strategies import Strategy

TUNING, ORACLE_POLICY = "tuning.json", "oracle_policy.json"
SPLITS = 20
INTERVALS = 250  # resamples behind a cell's interval
_CHARGED = (0.03, 0.01, 0.003, 0.001)  # prices of a generation at which methods are compared
_PRICES = np.geomspace(1, 1e-6, 400)  # of a generation, in right answers
UNJUDGED = "has attempts whose `correct` is null"
_RISE = 1.02  # average budgets closer than this are one


@dataclass(frozen=True, slots=True)
class Method:
    """How the table is made, and read.

    levels    which prompts a level is measured on. statistic: those whose attempts put them there. predicted: every
              prompt, with its out-of-fold probability of that level. likeliest: those predicted to be there
    pooled    whether levels borrow strength from each other, see :func:`pooled`
    deciding  see ``Policy``
    """

    levels: Literal["statistic", "predicted", "likeliest"]
    pooled: bool
    deciding: Deciding

    def __str__(self) -> str:
        return f"{self.levels} levels, {'pooled' if self.pooled else 'each by itself'}, deciding by {self.deciding}"


PAPER = Method("likeliest", False, "mode")  # a table of its own for each predicted level, as in Snell et al.
METHODS = (
    PAPER,
    Method("likeliest", True, "mode"),
    Method("predicted", True, "distribution"),
    Method("statistic", True, "mode"),
    Method("statistic", True, "distribution"),
)


LEVELLESS = "one table for all levels: the best fixed arm of each budget"


@dataclass(frozen=True, slots=True)
class Tuning:
    """``policy`` is served, ``oracle`` (for prompts whose level is known) is only reported.

    report["methods"]   by cross-validation: each method's accuracy, mean over the budgets, and what it is worth more
                        than the best fixed arms, mean over budgets and prices; the one worth most is served
    report["budgets"]   over all prompts, by cross-validation: accuracy of the policy, of the oracle policy and of the
                        best fixed arm, and which arm that is
    report["left_out"]  arms that were measured on too few prompts to take part
    report["prompts_left_out"]  prompts that lack what nearly all others have: how many for each reason, the first ids
    """

    policy: Policy
    oracle: Policy
    report: Mapping[str, Any]


def tune(
    attempts: pd.DataFrame,
    training: Training,
    budgets: Sequence[int] | None = None,
    *,
    setup: Setup,
    arms: Sequence[Strategy] = (),
    default: Objective | None = None,
    tolerance: float = 0.005,
    seed: int = 0,
) -> Tuning:
    """Measure the table, choose how to make and read it, solve the average budgets.

    attempts   of the prompts that the difficulty model was trained on
    budgets    sizes that sampling arms are replayed at, and budgets to report; None: powers of two up to the pools
    arms       more arms to measure, such as cascades of arms that were run
    default    objective of a request that names none; None: the largest budget
    tolerance  accuracies this close are a tie, and ties go to the arm that costs the fewest FLOPs: with a hundred
               prompts a level the standard error is several points, so half a point is no reason to pay more

    Raises InvalidFile where prompts and training don't match, InvalidRequest where nothing measured serves ``default``.
    """
    attempts, unjudged = _judged(attempts, training)
    index = training.prompts.index.drop(unjudged)
    budgets = _budgets(attempts, index) if budgets is None else sorted(set(budgets))
    if not budgets or budgets[0] < 1:
        raise InvalidFile(f"budgets must be whole numbers from 1, got {list(budgets)}")
    missing = sorted(set(index) - set(attempts["prompt_id"]))
    if missing:
        raise InvalidFile(
            f"the attempts lack {len(missing)} prompts that the difficulty model was trained on, first {missing[0]!r}; "
            "give tune the same attempts files as train, and more for arms that were run"
        )
    measured = measure(attempts, index, budgets, setup, arms=arms, seed=seed)
    if measured.budgets.min() > budgets[0]:
        raise InvalidFile(
            f"no arm within budget {budgets[0]} was measured on nearly all prompts; collect attempts for every prompt, "
            "or tune for larger budgets"
        )
    budgets = sorted({min(budget, int(measured.budgets.max())) for budget in budgets})  # more can't be spent
    prompts = training.prompts.loc[measured.prompts]
    probabilities = training.probabilities.loc[measured.prompts].to_numpy()
    levels = prompts["level"].to_numpy()
    known = np.eye(len(LEVELS))[levels - 1]
    everyone = np.ones_like(known)
    weights = {
        "statistic": known,
        "predicted": probabilities,
        "likeliest": np.eye(len(LEVELS))[probabilities.argmax(axis=1)],
    }
    options: dict[str, Any] = {"budgets": budgets, "levels": levels, "tolerance": tolerance, "seed": seed}
    tried = {
        method: cross_validate(measured, weights[method.levels], probabilities, method, **options) for method in METHODS
    }
    method = max(METHODS, key=lambda method: tried[method].mean())
    exact = Method("statistic", True, "distribution")
    oracle_values = cross_validate(measured, known, known, exact, **options)
    fixed_values = cross_validate(measured, everyone, probabilities, exact, **options)

    rng = np.random.default_rng(seed)
    draws = resamples(len(prompts), rng)
    largest = Budget(budgets[-1])
    # Too few prompts can't carry levels: what one of them seems to want is luck.
    levelled = len(prompts) >= CARRY_LEVELS
    finished: dict[str, Any] = {"default": largest, "tolerance": tolerance, "draws": draws[:: len(draws) // INTERVALS]}
    served, counting = (method, weights[method.levels]) if levelled else (exact, everyone)
    values = tried[method] if levelled else fixed_values
    table = tabulate(measured, counting, served, **finished)
    policy = with_average_budgets(table, probabilities, measured)
    if default is not None:
        policy = policy.with_default(default)
    exact_table = tabulate(measured, known, exact, **finished)
    oracle = with_average_budgets(exact_table, known, measured)
    fixed = tabulate(measured, everyone, exact, default=largest, tolerance=tolerance)
    rows = [
        {
            "budget": budget,
            "best_fixed_arm": str(fixed.decide([1 / len(LEVELS)] * len(LEVELS), Budget(budget)).arm),
            "best_fixed": interval(fixed_values[:, i], draws),
            "policy": interval(values[:, i], draws),
            "oracle": interval(oracle_values[:, i], draws),
            "policy_minus_best_fixed": interval(values[:, i] - fixed_values[:, i], draws),
        }
        for i, budget in enumerate(budgets)
    ]
    report = {
        "prompts": len(prompts),
        "levels": {
            "oracle": [int(count) for count in known.sum(axis=0)],
            "predicted": [int(count) for count in weights["likeliest"].sum(axis=0)],
        },
        "method": str(method) if levelled else LEVELLESS,
        "tolerance": tolerance,
        "seed": seed,
        "methods": [
            {
                "method": str(each),
                **interval(values[:, : len(budgets)].mean(axis=1), draws),
                "minus_best_fixed": interval((values - fixed_values).mean(axis=1), draws),
            }
            for each, values in tried.items()
        ],
        "budgets": rows,
        "left_out": list(measured.left_out),
        "prompts_left_out": by_reason({**dict.fromkeys(unjudged, UNJUDGED), **measured.short}),
    }
    report["warnings"] = of_tuning(measured, levels, pool_sizes(attempts, index), rows[-1])
    return Tuning(policy, oracle, report)


def pooled(accuracy: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5, K) accuracy of K arms at five levels, an arm's advantage at a level shrunk towards its overall advantage.

    accuracy  (P, K) of each prompt;  weights (P, 5) how much each prompt counts at each level

    An arm's advantage on a prompt is its accuracy less the mean of all arms there, which takes out how hard the prompt
    is. At a level it is ``overall + true deviation + noise``; the noise's variance is that of a mean, the deviations'
    variance is what the observed ones have beyond it (method of moments), and the posterior mean keeps
    deviation² / (deviation² + noise²) of each observed deviation.
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
    """(5, K) accuracy of each arm at each level, by the method."""
    return pooled(accuracy, weights) if method.pooled else np.asarray(_shares(weights).T @ accuracy)


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each prompt's share of each level; all prompts share a level that has none."""
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
    """The table as a policy without average budgets. Without bootstrap ``draws`` its intervals are points.

    A level of fewer than :data:`FEWEST` prompts is measured on all of them.
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
    """(P, budgets + prices) what the arms are worth on each prompt that a table made from other prompts chooses there.

    Accuracy under each fixed budget, then accuracy less spend at each of :data:`_CHARGED`: a method has to serve both
    kinds of objective. Two-fold within each level, averaged over many halvings, as in Snell et al., section 3.2.
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
    """The policy that also serves average budgets: what the prompts spend at each price of a generation.

    Of the choices that each price makes, none is more accurate (by the table) at the same average spend: together they
    are the upper hull of accuracy against spend. It ends where the whole largest budget buys a tie.
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


def _budgets(attempts: pd.DataFrame, prompts: pd.Index) -> list[int]:
    """Powers of two up to the largest pool that nearly all prompts have."""
    return [2**i for i in range(common_size(pool_sizes(attempts, prompts)).bit_length())]


def _judged(attempts: pd.DataFrame, training: Training) -> tuple[pd.DataFrame, list[str]]:
    """The attempts at prompts where it is known which are right, and the prompts where it is not.

    Levels by mean score need no right answers, the policy does. Where levels are by pass rate every prompt of the
    training was judged, and what is not judged here is refused later.
    """
    if training.statistic == "pass_rate":
        return attempts, []
    unknown = set(attempts.loc[attempts["correct"].isna(), "prompt_id"])
    unjudged = [prompt for prompt in training.prompts.index if prompt in unknown]
    if len(unjudged) == len(training.prompts):
        raise InvalidFile(
            f"`correct` is null for attempts at each of the {len(unjudged)} prompts, so nothing can be tuned: add "
            "references with `router rejudge ATTEMPTS --prompts FILE --out NEW`"
        )
    return attempts[~attempts["prompt_id"].isin(unknown)], unjudged
