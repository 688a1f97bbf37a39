"""Tunes the policy: measures every arm at every level, cascades included, in one table that serves every objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.backends.specs import Setup
from router.errors import InvalidFile, InvalidRequest
from router.policy.confidence import Confidence
from router.policy.objectives import Budget, Objective
from router.policy.table import LEVELS, Policy
from router.training.difficulty import CARRY_LEVELS, Training
from router.tuning import apart
from router.tuning.candidates import Candidates, with_cascades
from router.tuning.evidence import Floats, Measured, by_reason, common_size, interval, measure, pool_sizes, resamples
from router.tuning.nested import compare
from router.tuning.tables import (
    EXACT,
    LEVELLESS,
    METHODS,
    Method,
    by_task,
    cross_validate,
    tabulate,
    with_average_budgets,
)
from router.tuning.warnings import of_tuning
from strategies import Cascade, Sampling, Strategy

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
    report["left_out"]  arms that were measured on too few prompts to take part, or were asked for and never run
    report["prompts_left_out"]  prompts that lack what nearly all others have: number and first ids for each reason
    """

    policy: Policy
    oracle: Policy
    report: Mapping[str, Any]
    confidence: Confidence | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    """P training prompts that tables are made from and compared on.

    measured       every arm on them, useful cascades included
    probabilities  (P, 5) of the levels, out of fold;  levels (P,) by the prompts' attempts
    budgets        budgets to report, rising
    draws          (R, P) weights of R bootstrap resamples
    """

    measured: Measured
    probabilities: Floats
    levels: NDArray[np.int64]
    budgets: Sequence[int]
    draws: Floats
    tolerance: float
    seed: int

    @property
    def known(self) -> Floats:
        """(P, 5) probabilities of the levels by the prompts' attempts: 1 and 0."""
        return np.asarray(np.eye(len(LEVELS))[self.levels - 1])

    @property
    def halves(self) -> dict[str, Any]:
        """How prompts are halved for cross-validation: arguments of ``tables.halved``."""
        return {"levels": self.levels, "tolerance": self.tolerance, "seed": self.seed}

    def values(self, method: Method) -> Floats:
        """(P, budgets + prices) value of the method on each prompt, see ``tables.cross_validate``."""
        weights = method.weights(self.probabilities, self.levels)
        return cross_validate(self.measured, weights, self.probabilities, method, budgets=self.budgets, **self.halves)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The method that is served.

    values   by each method that was tried, see ``_Sample.values``
    by_task  how tables by task compare, see ``Tuning``
    """

    method: Method
    values: Mapping[Method, Floats]
    by_task: Mapping[str, Any] | None

    @property
    def exact(self) -> Method:
        """The method of the policy for known levels: it has tables for the same tasks."""
        return replace(EXACT, tasks=self.method.tasks)


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
    ``default``, or one of ``arms`` has an unknown model.
    """
    _check_arms(arms, setup)
    attempts, unjudged = _judged(attempts, training)
    index = training.prompts.index.drop(unjudged)
    budgets = _budgets(attempts, index) if budgets is None else sorted(set(budgets))
    measured = _measured(attempts, index, budgets, setup, arms=arms, seed=seed)
    budgets = sorted({min(budget, int(measured.budgets.max())) for budget in budgets})  # no arm spends more
    candidates = with_cascades(
        measured,
        training.probabilities.loc[measured.prompts].to_numpy(),
        training.prompts.loc[measured.prompts, "level"].to_numpy(),
        [arm for arm in arms if isinstance(arm, Cascade)],
        enumerate_more=cascades,
        budgets=budgets,
        tolerance=tolerance,
        seed=seed,
    )
    draws = resamples(len(measured.prompts), np.random.default_rng(seed))
    sample = _Sample(candidates.measured, candidates.probabilities, candidates.levels, budgets, draws, tolerance, seed)
    chosen = _choose_method(sample)
    policy, oracle = _policies(sample, chosen)
    if default is not None:
        policy = policy.with_default(default)
    texts = _texts(attempts, sample.measured)
    report = {
        **_report(sample, chosen, candidates),
        "average_budgets": compare(candidates, chosen.method, texts, draws, tolerance=tolerance),
        "left_out": [*measured.left_out, *_never_run(arms, measured), *candidates.left_out],
        "prompts_left_out": by_reason({**dict.fromkeys(unjudged, UNJUDGED), **measured.left_out_prompts}),
    }
    sizes = pool_sizes(attempts, index)
    report["warnings"] = of_tuning(sample.measured, sample.levels, sizes, report["budgets"][-1])
    return Tuning(policy, oracle, report, candidates.confidence)


def _check_arms(arms: Sequence[Strategy], setup: Setup) -> None:
    """Raise InvalidRequest where an arm has a model that the setup lacks."""
    for arm in arms:
        if unknown := sorted(model for model in arm.models if model and model not in setup.models):
            known = ", ".join(setup.models)
            why = f"arm {str(arm)!r}: models.json has no model {unknown[0]!r}; it has {known}"
            raise InvalidRequest("arm", why, reason="ARM_INVALID")


def _never_run(arms: Sequence[Strategy], measured: Measured) -> list[dict[str, str]]:
    """Return the arms that were asked for and measured on no prompt, and why; cascades are replayed elsewhere."""
    known = {*map(str, measured.arms), *(entry["arm"] for entry in measured.left_out)}
    reasons = {
        str(arm): "the pools are too small for it, or lack the scores that it selects by"
        if isinstance(arm, Sampling)
        else "it was not run: `router collect --arm` runs it"
        for arm in arms
        if not isinstance(arm, Cascade) and str(arm) not in known
    }
    return [{"arm": arm, "reason": reason} for arm, reason in reasons.items()]


def _measured(
    attempts: pd.DataFrame,
    prompts: pd.Index,
    budgets: Sequence[int],
    setup: Setup,
    *,
    arms: Sequence[Strategy],
    seed: int,
) -> Measured:
    """Return what was measured on the prompts. Raises InvalidFile where the attempts don't suit prompts and budgets."""
    if not budgets or budgets[0] < 1:
        raise InvalidFile(f"budgets must be whole numbers from 1, got {list(budgets)}")
    missing = sorted(set(prompts) - set(attempts["prompt_id"]))
    if missing:
        raise InvalidFile(
            f"the attempts lack {len(missing)} prompts that the difficulty model was trained on, first {missing[0]!r}; "
            "give tune the same attempts files as train, and more for arms that were run"
        )
    measured = measure(attempts, prompts, budgets, setup, arms=arms, seed=seed)
    if measured.budgets.min() > budgets[0]:
        raise InvalidFile(
            f"no arm within budget {budgets[0]} was measured on nearly all prompts; collect attempts for every prompt, "
            "or tune for larger budgets"
        )
    return measured


def _choose_method(sample: _Sample) -> _Chosen:
    """Choose how to make and read the table: the method of the highest value by cross-validation.

    A table for each task has to gain more than the tolerance, see ``apart.decide``.
    """
    parted = by_task(sample.measured.apart)
    values = {method: sample.values(method) for method in (*METHODS, LEVELLESS, *parted)}
    # With too few prompts, the arm that looks best at a level is lucky, so there are no levels.
    levelled = len(sample.levels) >= CARRY_LEVELS
    single = METHODS if levelled else (LEVELLESS,)
    best = max(single, key=lambda method: values[method].mean())
    if not parted:
        return _Chosen(best, values, None)
    better, compared = apart.decide(
        dict.fromkeys((*single, LEVELLESS)),
        [method for method in parted if levelled or method.levels == "none"],
        sample.measured,
        sample.probabilities,
        within={method: found[:, : len(sample.budgets)] for method, found in values.items()},
        draws=sample.draws,
        **sample.halves,
    )
    return _Chosen(better or best, values, compared)


def _policies(sample: _Sample, chosen: _Chosen) -> tuple[Policy, Policy]:
    """Return the policy that is served and the one for known levels, made on all prompts; default: largest budget."""

    def made(method: Method, weights: Floats, read: Floats) -> Policy:
        table = tabulate(
            sample.measured,
            weights,
            method,
            default=Budget(sample.budgets[-1]),
            tolerance=sample.tolerance,
            draws=sample.draws[:: len(sample.draws) // INTERVALS],
        )
        return with_average_budgets(table, read, sample.measured)

    weights = chosen.method.weights(sample.probabilities, sample.levels)
    return made(chosen.method, weights, sample.probabilities), made(chosen.exact, sample.known, sample.known)


def _report(sample: _Sample, chosen: _Chosen, candidates: Candidates) -> dict[str, Any]:
    """Return what :class:`Tuning` says of levels, methods, budgets and cascades."""
    likeliest = np.bincount(sample.probabilities.argmax(axis=1), minlength=len(LEVELS))
    return {
        "prompts": len(sample.levels),
        "levels": {
            "oracle": [int(count) for count in sample.known.sum(axis=0)],
            "predicted": likeliest.tolist(),
        },
        "method": str(chosen.method),
        "tolerance": sample.tolerance,
        "seed": sample.seed,
        "methods": _method_rows(sample, chosen),
        "by_task": chosen.by_task,
        "budgets": _budget_rows(sample, chosen),
        "cascades": candidates.report,
        "confidence": candidates.fitted.report if candidates.fitted else None,
    }


def _method_rows(sample: _Sample, chosen: _Chosen) -> list[dict[str, Any]]:
    """Return accuracy within budgets of each method that was tried, and its value minus the best fixed arms'."""
    fixed = chosen.values[LEVELLESS]
    return [
        {
            "method": str(method),
            **interval(values[:, : len(sample.budgets)].mean(axis=1), sample.draws),
            "minus_best_fixed": interval((values - fixed).mean(axis=1), sample.draws),
        }
        for method, values in chosen.values.items()
        if method != LEVELLESS
    ]


def _budget_rows(sample: _Sample, chosen: _Chosen) -> list[dict[str, Any]]:
    """Return accuracies at each budget: the policy's, the best fixed arm's or cascade's, and where levels are known."""
    known, draws = sample.known, sample.draws
    best_fixed = tabulate(
        sample.measured,
        np.ones_like(known),
        LEVELLESS,
        default=Budget(sample.budgets[-1]),
        tolerance=sample.tolerance,
    )
    oracle = cross_validate(sample.measured, known, known, chosen.exact, budgets=sample.budgets, **sample.halves)
    policy, fixed = chosen.values[chosen.method], chosen.values[LEVELLESS]
    return [
        {
            "budget": budget,
            "best_fixed_arm": str(best_fixed.decide([1 / len(LEVELS)] * len(LEVELS), Budget(budget)).arm),
            "best_fixed": interval(fixed[:, i], draws),
            "policy": interval(policy[:, i], draws),
            "oracle": interval(oracle[:, i], draws),
            "policy_minus_best_fixed": interval(policy[:, i] - fixed[:, i], draws),
        }
        for i, budget in enumerate(sample.budgets)
    ]


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
