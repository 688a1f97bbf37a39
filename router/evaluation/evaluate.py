"""Evaluate a bundle on held-out attempts: accuracy against generations and against FLOPs, and what limits it.

Everything is a choice of one measured arm for each prompt. A choice becomes three numbers a prompt (:class:`Runs`),
choices at rising budgets become a curve, and every figure of the report compares curves.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import comb

from difficulty import levels_of
from difficulty.compare import measure as measure_difficulty
from router.attempts.schema import SAMPLE
from router.bundle.bundle import Bundle, load_bundle
from router.errors import InvalidBundle, InvalidFile
from router.evaluation.curves import REFERENCES, Curve, Runs, gain_kept, savings
from router.evaluation.diagnosis import limits
from router.evaluation.larger_model import flops_matched
from router.policy.table import LEVELS, Objective, Policy
from router.training.difficulty import Hidden, prompt_statistics, read_training, text_digest
from router.tuning.evidence import Measured, interval, measure, resamples
from router.tuning.tune import ORACLE_POLICY, TUNING
from strategies import SELECTIONS, Arm

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def evaluate(
    attempts: pd.DataFrame,
    folder: Path,
    hidden: Hidden | None = None,
    *,
    objectives: Sequence[Objective] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that was measured, ready for JSON.

    hidden      the generator's hidden states, needed where the bundle's difficulty model reads them
    objectives  more to measure than the usual ones

    savings_fixed_budget, savings_average_budget, savings_oracle  how many times less compute the policy (on predicted
                levels at fixed and at average budgets, on oracle levels at fixed ones) needs for the accuracy of
                weighted best-of-N at its best budget, in generations and in FLOPs; also against majority. A resample in
                which that accuracy is never reached counts as a saving of 0; by_budget has the same for the reference
                at each of its budgets
    gain_kept   the predicted policy's gain in accuracy over weighted best-of-N at equal budgets, over the oracle
                policy's; null where even oracle levels gain nothing
    headline    a row a budget: accuracy with 95% interval of majority, best_of_n, weighted_best_of_n, of the best fixed
                arm (chosen on the training prompts), of the policies; paired differences to the best fixed arm
    curves      the points of every curve: each fixed arm's strategy, and the policies
    objectives  what each objective promised and gave
    larger      thinking longer against the larger model at equal FLOPs; None where that was not run
    per_level   accuracy of each arm at each oracle level;  revision the same by share of sequential attempts
    map         what the policy does with a prompt whose level is certain, by level and budget
    limits      goals, and where one is missed what limits it, with the measurement that shows it
    left_out    what could not be measured here, and why

    Oracle levels come from the same attempts that the sampling arms are replayed on, which flatters those arms a
    little: the curve is an upper bound, not something to compare with another paper's.

    Raises InvalidFile where a held-out prompt was trained on, InvalidBundle, InvalidRequest for an objective.
    """
    bundle = load_bundle(folder)
    oracle_policy, tuning = _tuned(folder)
    prompts = _held_out(attempts, folder, bundle)
    budgets = [row["budget"] for row in tuning["budgets"]]
    models = bundle.manifest
    generator, larger = models.generator.parameters, models.larger.parameters if models.larger else 0
    measured = measure(attempts, prompts.index, budgets, (generator, models.verifier.parameters, larger), seed=seed)
    prompts = prompts.loc[measured.prompts]
    probabilities = _probabilities(bundle, prompts["prompt"].tolist(), hidden)
    levels = levels_of(prompts["statistic"], bundle.manifest.edges)
    known = np.eye(len(LEVELS))[levels - 1]
    draws = resamples(len(prompts), np.random.default_rng(seed))
    estimator = measured.tokens[:, 0, 0] * 2.0 * generator * (bundle.difficulty.input == "hidden")
    left_out = list(measured.left_out)

    def routed(policy: Policy, given: NDArray[np.float64], objective: Objective) -> Runs | None:
        runs, missing = _routed(measured, policy, given, objective, estimator * (policy is bundle.policy))
        if missing:
            reason = f"no held-out runs of {', '.join(missing)}: collect them"
            left_out.append(
                {
                    "policy": "predicted" if policy is bundle.policy else "oracle",
                    "objective": str(objective),
                    "reason": reason,
                }
            )
        return runs

    def curve(policy: Policy, given: NDArray[np.float64], kind: Any, values: Sequence[float]) -> Curve:
        found = {value: routed(policy, given, Objective(kind, value)) for value in values}
        return {value: runs for value, runs in found.items() if runs}

    fixed = _fixed_curves(measured)
    best_fixed = {row["budget"]: Arm.parse(row["best_fixed_arm"]) for row in tuning["budgets"]}
    averages = _averages(bundle.policy, budgets)
    policies: dict[str, Curve] = {
        "best_fixed": {budget: _fixed(measured, arm) for budget, arm in best_fixed.items() if arm in measured.arms},
        "predicted": curve(bundle.policy, probabilities, "budget", budgets),
        "oracle": curve(oracle_policy, known, "budget", budgets),
        "predicted_average": curve(bundle.policy, probabilities, "average_budget", averages),
        "oracle_average": curve(oracle_policy, known, "average_budget", _averages(oracle_policy, budgets)),
    }
    prices = np.geomspace(0.01, 3, 8) / measured.flops.mean(axis=0).max()
    wanted = [
        *(Objective("target_accuracy", target) for target in TARGETS),
        *(Objective("price_per_flop", float(f"{price:.2g}")) for price in prices),
        *objectives,
    ]
    asked = [(objective, routed(bundle.policy, probabilities, objective)) for objective in wanted]
    hindsight = {budget: _hindsight(measured, levels, budget) for budget in budgets}
    names = {
        "savings_fixed_budget": "predicted",
        "savings_average_budget": "predicted_average",
        "savings_oracle": "oracle",
    }
    headlines: dict[str, Any] = {field: savings(policies[name], fixed, draws) for field, name in names.items()}
    headlines["gain_kept"] = {
        reference: gain_kept(policies, fixed.get(reference, {}), draws) for reference in REFERENCES
    }
    rows = [_headline(budget, fixed, policies, best_fixed, draws) for budget in budgets]
    return {
        "bundle": bundle.id,
        "statistic": bundle.manifest.statistic,
        "prompts": len(prompts),
        "attempts_per_prompt": int(prompts["attempts"].min()),
        **headlines,
        "headline": rows,
        "limits": limits(
            headlines=headlines,
            rows=rows,
            oracle_selector=_pools(attempts, measured, max(budgets)),
            fixed=fixed,
            policies=policies,
            hindsight=hindsight,
            draws=draws,
        ),
        "difficulty": asdict(measure_difficulty(probabilities, prompts["statistic"], bundle.manifest.edges)),
        "features": read_training(folder).comparison,
        "levels": {
            "oracle": [int(count) for count in known.sum(axis=0)],
            "predicted": [int((1 + probabilities.argmax(axis=1) == level).sum()) for level in LEVELS],
        },
        "method": tuning["method"],
        "methods": tuning["methods"],
        "objectives": [
            _asked(bundle.policy, probabilities, objective, runs, draws) for objective, runs in asked if runs
        ],
        "map": _map(bundle.policy, budgets),
        "curves": {
            name: [{"budget": budget, **runs.point(draws)} for budget, runs in points.items()]
            for name, points in (fixed | policies).items()
        },
        "per_level": _per_level(measured, levels, seed),
        "revision": _revision(measured, levels, seed),
        "larger": flops_matched(
            measured, bundle.policy, probabilities, levels, _pass_rates(attempts, measured), budgets=budgets, seed=seed
        ),
        "left_out": left_out,
    }


# Choices


def _fixed(measured: Measured, arm: Arm) -> Runs:
    k = measured.arms.index(arm)
    return Runs(measured.accuracy[:, k], measured.generations[:, k], measured.flops[:, k])


def _chosen(measured: Measured, columns: NDArray[np.int64], extra: NDArray[np.float64] | float = 0.0) -> Runs:
    rows = np.arange(len(columns))
    return Runs(
        measured.accuracy[rows, columns], measured.generations[rows, columns], measured.flops[rows, columns] + extra
    )


def _routed(
    measured: Measured,
    policy: Policy,
    probabilities: NDArray[np.float64],
    objective: Objective,
    estimator: NDArray[np.float64],
) -> tuple[Runs | None, list[str]]:
    """The policy's choices on the held-out prompts, or the chosen arms that were not run there."""
    arms = [policy.decide(row, objective).arm for row in probabilities.tolist()]
    missing = sorted({str(arm) for arm in arms if arm not in measured.arms})
    if missing:
        return None, missing
    return _chosen(measured, np.array([measured.arms.index(arm) for arm in arms]), estimator), []


def _hindsight(measured: Measured, levels: NDArray[np.int64], budget: int) -> Runs:
    """The best arm of each oracle level, chosen on the held-out prompts themselves: more than any policy could know."""
    within = np.flatnonzero(measured.budgets <= budget)
    columns = np.zeros(len(levels), dtype=int)
    for level in np.unique(levels):
        columns[levels == level] = within[measured.accuracy[levels == level][:, within].mean(axis=0).argmax()]
    return _chosen(measured, columns)


def _fixed_curves(measured: Measured) -> dict[str, Curve]:
    """A curve for each strategy with its parameters; with one sample there is nothing to select, so all begin there."""
    found: dict[str, dict[float, Runs]] = {}
    for arm in sorted(measured.arms, key=lambda arm: (family(arm), arm.budget)):
        found.setdefault(family(arm), {})[arm.budget] = _fixed(measured, arm)
    first = found.get("majority", {}).get(1)
    for name in SELECTIONS:
        if name in found and first:
            found[name] = {1: first} | found[name]
    return dict(found)


def family(arm: Arm) -> str:
    """The arm without its n: one curve."""
    return re.sub(r"n=\d+(, )?", "", str(arm)).replace("()", "")


def _averages(policy: Policy, budgets: Sequence[int]) -> list[float]:
    """The budgets and a step between each, from the least that the policy can spend on average."""
    least = policy.ladder[0].generations
    between = [round((a * b) ** 0.5, 1) for a, b in pairwise(budgets)]
    return sorted({max(least, float(value)) for value in [*budgets, *between]})


# What curves say


def _headline(
    budget: int,
    fixed: Mapping[str, Curve],
    policies: Mapping[str, Curve],
    best_fixed: Mapping[int, Arm],
    draws: NDArray[np.float64],
) -> dict[str, Any]:
    found = {name: fixed.get(name, {}).get(budget) for name in SELECTIONS}
    found |= {name: points.get(budget) for name, points in policies.items()}
    for name in ("predicted_average", "oracle_average"):  # the least that can be spent on average may be a little more
        if policies[name] and budget < min(policies[name]) < budget * 1.5:
            found[name] = policies[name][min(policies[name])]
    row: dict[str, Any] = {"budget": budget, "best_fixed_arm": str(best_fixed[budget])}
    row |= {name: runs.point(draws) if runs else None for name, runs in found.items()}
    for name in ("predicted", "predicted_average"):
        mine, theirs = found[name], found["best_fixed"]
        row[f"{name}_minus_best_fixed"] = interval(mine.accuracy - theirs.accuracy, draws) if mine and theirs else None
    return row


def _asked(
    policy: Policy, probabilities: NDArray[np.float64], objective: Objective, runs: Runs, draws: NDArray[np.float64]
) -> dict[str, Any]:
    """What one objective promised and gave; for a target, over the prompts with sufficient evidence."""
    promises = [policy.decide(row, objective) for row in probabilities.tolist()]
    row: dict[str, Any] = {"objective": {objective.kind: objective.value}, **runs.point(draws)}
    row["promised"] = round(float(np.mean([promise.accuracy for promise in promises])), 4)
    if objective.kind == "target_accuracy":
        enough = np.array([promise.sufficient for promise in promises])
        row["sufficient"] = round(float(enough.mean()), 4)
        row["where_sufficient"] = (
            interval(runs.accuracy[enough], resamples(int(enough.sum()), np.random.default_rng(0)))
            if enough.sum() > 1
            else None
        )
    return row


def _pass_rates(attempts: pd.DataFrame, measured: Measured) -> NDArray[np.float64]:
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].mean()
    rates: NDArray[np.float64] = pool.loc[measured.prompts].to_numpy(dtype=float)
    return rates


def _pools(attempts: pd.DataFrame, measured: Measured, n: int) -> Runs:
    """pass@n: what a selector that knows the right answer gets out of n samples (unbiased over the pool)."""
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].agg(["sum", "size"])
    pool = pool.loc[measured.prompts].astype(float)
    size, right = pool["size"].to_numpy(), pool["sum"].to_numpy()
    drawn = np.minimum(n, size)
    found = 1 - comb(size - right, drawn) / comb(size, drawn)
    return Runs(found, drawn, np.zeros_like(found))


# Tables


def _per_level(measured: Measured, levels: NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    rows = []
    for level in LEVELS:
        here = np.flatnonzero(levels == level)
        if len(here) < 2:
            continue
        draws = resamples(len(here), np.random.default_rng(seed))
        for k, arm in enumerate(measured.arms):
            values = interval(measured.accuracy[here, k], draws)
            rows.append({"level": level, "arm": str(arm), "family": family(arm), "budget": arm.budget, **values})
    return rows


def _revision(measured: Measured, levels: NDArray[np.int64], seed: int) -> list[dict[str, Any]]:
    """Accuracy by the number of parallel chains, at the n with the most splits, of equals the largest; chains = n is
    plain sampling (Snell et al., section 6.2)."""
    run = [arm for arm in measured.arms if arm.strategy == "revision"]
    if not run:
        return []
    run_at = Counter(arm.n for arm in run)
    n = max(run_at, key=lambda n: (run_at[n], n))
    splits = {arm.chains: arm for arm in run if arm.n == n}
    parallel = [arm for arm in (Arm(name, n) for name in REFERENCES) if arm in measured.arms]
    if parallel:
        splits[n] = parallel[0]
    return [
        {"n": n, "chains": chains, **{key: row[key] for key in ("level", "arm", "accuracy", "low", "high")}}
        for chains, arm in sorted(splits.items())
        for row in _per_level(measured, levels, seed)
        if row["arm"] == str(arm)
    ]


def _map(policy: Policy, budgets: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for kind in ("budget", "average_budget"):
        for budget in budgets:
            value = budget if kind == "budget" else max(float(budget), policy.ladder[0].generations)
            for level, certain in zip(LEVELS, np.eye(len(LEVELS)), strict=True):
                found = policy.decide(certain.tolist(), Objective(kind, value))
                rows.append(
                    {
                        "objective": kind,
                        "budget": budget,
                        "level": level,
                        "arm": str(found.arm),
                        "accuracy": round(found.accuracy, 4),
                        "generations": found.cost.generations,
                    }
                )
    return rows


# What is read


def _tuned(folder: Path) -> tuple[Policy, dict[str, Any]]:
    """The oracle policy and the tuning report."""
    try:
        return Policy.loads((folder / ORACLE_POLICY).read_text()), json.loads((folder / TUNING).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise InvalidBundle(
            f"{folder}: can't read {TUNING} and {ORACLE_POLICY} ({error}); run `router tune`"
        ) from error


def _held_out(attempts: pd.DataFrame, folder: Path, bundle: Bundle) -> pd.DataFrame:
    prompts = prompt_statistics(attempts, bundle.manifest.statistic)
    no_pool = sorted(set(attempts["prompt_id"]) - set(prompts.index))
    if no_pool:
        raise InvalidFile(
            f"{len(no_pool)} prompts have runs of arms but no independent attempts (arm `{SAMPLE}`), "
            f"first {no_pool[0]!r}; collect some for them: their level comes from those"
        )
    trained = read_training(folder).prompts
    seen = prompts.index.isin(trained.index) | prompts["prompt"].map(text_digest).isin(trained["digest"])
    if seen.any():
        raise InvalidFile(
            f"{seen.sum()} of the {len(prompts)} prompts were trained on, first {prompts.index[seen.argmax()]!r}: what "
            "is measured on them proves nothing; evaluate on prompts that train and tune never saw"
        )
    return prompts


def _probabilities(bundle: Bundle, prompts: list[str], hidden: Hidden | None) -> NDArray[np.float64]:
    if bundle.difficulty.input == "text":
        return bundle.difficulty.predict_proba(prompts)
    if hidden is None:
        raise InvalidBundle(
            f"bundle {bundle.manifest.name} predicts levels from the generator's hidden states, and no generator is at "
            "hand; install it, or train with text features"
        )
    return bundle.difficulty.predict_proba(hidden(prompts))
