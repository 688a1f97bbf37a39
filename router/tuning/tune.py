"""Tunes the policy: measures every arm at every level, cascades included, in one table that serves every objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from router.backends.specs import Setup
from router.errors import InvalidFile
from router.policy.confidence import Confidence
from router.policy.objectives import Budget, Objective
from router.policy.table import LEVELS, Policy
from router.training.difficulty import CARRY_LEVELS, Training
from router.tuning import apart
from router.tuning.candidates import with_cascades
from router.tuning.evidence import Measured, by_reason, common_size, interval, measure, pool_sizes, resamples
from router.tuning.nested import compare
from router.tuning.tables import (
    EXACT,
    LEVELLESS,
    METHODS,
    by_task,
    cross_validate,
    tabulate,
    with_average_budgets,
)
from router.tuning.warnings import of_tuning
from strategies import Cascade, Strategy

TUNING, ORACLE_POLICY = "tuning.json", "oracle_policy.json"
INTERVALS = 250  # bootstrap resamples for a cell's interval
UNJUDGED = "has attempts whose `correct` is null"


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of tuning. ``policy`` and ``confidence`` are served; ``oracle`` is only reported.

    oracle              policy for prompts whose level is known from their attempts
    report["methods"]   each method by cross-validation: its mean accuracy over the budgets, and its mean value, over
                        budgets and prices, minus that of the best fixed arms; the method with the highest value is
                        served
    report["by_task"]   of the best method that makes a table for each task: how many prompts each has, what it gains on
                        every method with one table, and whether it is served instead, see ``apart.decide``. None where
                        all prompts are of one task, or no task has enough
    report["budgets"]   by cross-validation over all prompts: accuracy of the policy, of the oracle policy and of the
                        best fixed arm, and which arm that is
    report["cascades"]  how many were tried, how many are kept, and the arms that they are made of
    report["confidence"]  which confidence model is kept, and the log-loss of each by cross-validation, see
                        ``confidence.fit``; None with too few prompts for one
    report["average_budgets"]  by cross-validation: see ``nested.compare``
    report["left_out"]  arms that were measured on too few prompts to take part
    report["prompts_left_out"]  prompts that lack what nearly all others have: number and first ids for each reason
    """

    policy: Policy
    oracle: Policy
    report: Mapping[str, Any]
    confidence: Confidence | None = None


def tune(
    attempts: pd.DataFrame,
    training: Training,
    budgets: Sequence[int] | None = None,
    *,
    setup: Setup,
    arms: Sequence[Strategy] = (),
    default: Objective | None = None,
    tolerance: float = 0.005,
    cascades: bool = True,
    seed: int = 0,
) -> Tuning:
    """Measure the table, choose how to make and read it, and find the prices of average budgets.

    attempts   at the prompts that the difficulty model was trained on
    budgets    sizes that sampling arms are replayed at, and budgets to report; None: powers of two up to the pools'
               size
    arms       more arms to measure, such as cascades of arms that were run
    default    objective of a request that names none; None: the largest budget
    tolerance  accuracies this close are a tie, and ties go to the arm that costs the fewest FLOPs: with a hundred
               prompts per level the standard error is several points, so half a point is no reason to pay more
    cascades   whether cascades are enumerated; those in ``arms`` are measured in any case

    Raises InvalidFile where prompts and training don't match, InvalidRequest where no measured arm can serve
    ``default``.
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
    budgets = sorted({min(budget, int(measured.budgets.max())) for budget in budgets})  # no arm spends more
    prompts = training.prompts.loc[measured.prompts]
    probabilities = training.probabilities.loc[measured.prompts].to_numpy()
    levels = prompts["level"].to_numpy()
    asked = [arm for arm in arms if isinstance(arm, Cascade)]
    candidates = with_cascades(
        measured, probabilities, levels, asked, enumerate_more=cascades, budgets=budgets, tolerance=tolerance, seed=seed
    )
    measured = candidates.measured
    known = np.eye(len(LEVELS))[levels - 1]
    likeliest = np.eye(len(LEVELS))[probabilities.argmax(axis=1)]
    halves: dict[str, Any] = {"levels": levels, "tolerance": tolerance, "seed": seed}
    parted = by_task(measured.apart)
    tried = {
        method: cross_validate(
            measured, method.weights(probabilities, levels), probabilities, method, budgets=budgets, **halves
        )
        for method in (*METHODS, LEVELLESS, *parted)
    }
    fixed_values = tried[LEVELLESS]
    rng = np.random.default_rng(seed)
    draws = resamples(len(prompts), rng)
    # With too few prompts, the arm that looks best at a level is lucky, so there are no levels.
    levelled = len(prompts) >= CARRY_LEVELS
    single = METHODS if levelled else (LEVELLESS,)
    method = max(single, key=lambda method: tried[method].mean())
    compared = None
    if parted:
        usable = [each for each in parted if levelled or each.levels == "none"]
        within = {each: values[:, : len(budgets)] for each, values in tried.items()}
        better, compared = apart.decide(
            dict.fromkeys((*single, LEVELLESS)), usable, measured, probabilities, within=within, draws=draws, **halves
        )
        method = better or method
    exact = replace(EXACT, tasks=method.tasks)
    oracle_values = cross_validate(measured, known, known, exact, budgets=budgets, **halves)

    largest = Budget(budgets[-1])
    finished: dict[str, Any] = {"default": largest, "tolerance": tolerance, "draws": draws[:: len(draws) // INTERVALS]}
    table = tabulate(measured, method.weights(probabilities, levels), method, **finished)
    policy = with_average_budgets(table, probabilities, measured)
    if default is not None:
        policy = policy.with_default(default)
    exact_table = tabulate(measured, known, exact, **finished)
    oracle = with_average_budgets(exact_table, known, measured)
    fixed = tabulate(measured, np.ones_like(known), LEVELLESS, default=largest, tolerance=tolerance)
    rows = [
        {
            "budget": budget,
            "best_fixed_arm": str(fixed.decide([1 / len(LEVELS)] * len(LEVELS), Budget(budget)).arm),
            "best_fixed": interval(fixed_values[:, i], draws),
            "policy": interval(tried[method][:, i], draws),
            "oracle": interval(oracle_values[:, i], draws),
            "policy_minus_best_fixed": interval(tried[method][:, i] - fixed_values[:, i], draws),
        }
        for i, budget in enumerate(budgets)
    ]
    report = {
        "prompts": len(prompts),
        "levels": {
            "oracle": [int(count) for count in known.sum(axis=0)],
            "predicted": [int(count) for count in likeliest.sum(axis=0)],
        },
        "method": str(method),
        "tolerance": tolerance,
        "seed": seed,
        "methods": [
            {
                "method": str(each),
                **interval(values[:, : len(budgets)].mean(axis=1), draws),
                "minus_best_fixed": interval((values - fixed_values).mean(axis=1), draws),
            }
            for each, values in tried.items()
            if each != LEVELLESS
        ],
        "by_task": compared,
        "budgets": rows,
        "cascades": candidates.report,
        "confidence": candidates.belief.report if candidates.belief else None,
        "average_budgets": compare(candidates, method, _texts(attempts, measured), draws, tolerance=tolerance),
        "left_out": [*measured.left_out, *candidates.left_out],
        "prompts_left_out": by_reason({**dict.fromkeys(unjudged, UNJUDGED), **measured.short}),
    }
    report["warnings"] = of_tuning(measured, levels, pool_sizes(attempts, index), rows[-1])
    return Tuning(policy, oracle, report, candidates.confidence)


def _budgets(attempts: pd.DataFrame, prompts: pd.Index) -> list[int]:
    """Return powers of two up to the largest pool size that nearly all prompts reach."""
    return [2**i for i in range(common_size(pool_sizes(attempts, prompts)).bit_length())]


def _judged(attempts: pd.DataFrame, training: Training) -> tuple[pd.DataFrame, list[str]]:
    """Return the attempts at prompts whose attempts are all known to be right or wrong, and the other prompts.

    Levels by mean score need no references, but the policy does. Levels by pass rate already needed them, so a null
    ``correct`` is an error there, which is raised later.
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


def _texts(attempts: pd.DataFrame, measured: Measured) -> list[str]:
    texts: list[str] = (
        attempts.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"].loc[measured.prompts].tolist()
    )
    return texts
