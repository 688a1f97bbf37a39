"""Evaluates a bundle on held-out attempts: accuracy against generations and against FLOPs, and what limits it.

Whatever is compared chooses one measured arm for each prompt. A choice gives three numbers for each prompt
(``PerPrompt``), choices at rising budgets give a curve, and every figure of the report compares curves.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import comb

from difficulty import levels_of
from difficulty.compare import measure as measure_difficulty
from router.attempts.pools import SAMPLE
from router.bundle.bundle import Bundle, load_bundle
from router.errors import InvalidBundle, InvalidFile
from router.evaluation import tables
from router.evaluation.arms import arm_names, average_budgets, fixed, fixed_curves, hindsight, routed
from router.evaluation.at_flops import in_flops
from router.evaluation.averages import Averages, at_averages, cascades_of, plans, trusted
from router.evaluation.curves import REFERENCES, Curve, PerPrompt, gap_recovered, saving
from router.evaluation.diagnosis import diagnose
from router.evaluation.goals import judge_goals
from router.evaluation.headline import headline
from router.evaluation.larger_model import compare_at_equal_flops
from router.evaluation.noise import most_correlated
from router.evaluation.parts import ByTask, Estimate
from router.evaluation.report import CandidateQuality, CurvePoint, Goal, LeftOut, LevelCounts, MethodResult, Report
from router.policy.objectives import AverageBudget, Budget, Objective, PricePerFlop, TargetAccuracy
from router.policy.table import LEVELS, Policy
from router.solving.features import features_of
from router.training.difficulty import Training, Vectors, prompt_statistics, read_training, text_digest
from router.tuning.candidates import replay
from router.tuning.evidence import Measured, by_reason, measure, named, resamples
from router.tuning.of_bundle import predicted, replayable
from router.tuning.tune import ORACLE_POLICY, TUNING
from router.tuning.warnings import of_evaluation
from strategies import Cascade

AT = 16  # average budget at which plans are shown and confidences are judged
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def evaluate(  # noqa: PLR0915  # one figure after the other
    attempts: pd.DataFrame,
    folder: Path,
    vectors: Vectors | None = None,
    *,
    objectives: Sequence[Objective] = (),
    goals: Sequence[Goal] | None = None,
    seed: int = 0,
) -> Report:
    """Return the report of a bundle in ``folder`` on held-out attempts.

    vectors     gives the prompts' feature vectors, needed where the bundle's difficulty model reads some
    objectives  objectives to measure besides the usual ones
    goals       what the bundle should reach; None: the report has no goals

    Measured levels come from the same attempts that the sampling arms are replayed on, which flatters those arms a
    little. So curves on measured levels are an upper bound, and should not be compared with a paper's.

    Raises InvalidFile where a held-out prompt was trained on, InvalidBundle, InvalidRequest for an objective.
    """
    bundle = load_bundle(folder)
    oracle_policy, tuning = _tuned(folder)
    training = read_training(folder)
    prompts = _held_out(attempts, training, bundle)
    budgets: list[int] = [row["budget"] for row in tuning["budgets"]]
    manifest = bundle.manifest
    arms = [*bundle.policy.arms, *oracle_policy.arms]
    measured = measure(attempts, prompts.index, budgets, bundle.setup, arms=arms, seed=seed)
    prompts = prompts.loc[measured.prompts]
    probabilities = predicted(bundle, prompts["asked"].tolist(), vectors)
    wanted = [*_usual_objectives(measured), *objectives]
    tuned = tuning["average_budgets"]
    enumerated = replayable(bundle, measured, probabilities)
    cascades = [arm for arm in arms if isinstance(arm, Cascade)] + cascades_of(tuned)
    cascades += _run_until(bundle.policy, probabilities, measured.tasks, wanted)
    replayed, not_replayed = replay(cascades, measured, enumerated)
    measured = measured.with_cascades(replayed)
    levels = levels_of(prompts["statistic"], manifest.edges)
    known = np.eye(len(LEVELS))[levels - 1]
    draws = resamples(len(prompts), np.random.default_rng(seed))
    estimator_flops = _estimator_flops(measured, manifest.features)
    left_out = [LeftOut(entry["arm"], entry["reason"]) for entry in measured.left_out]
    left_out += [LeftOut(entry["arm"], entry["reason"]) for entry in not_replayed]
    left_out += [LeftOut(named(entry), entry["reason"]) for entry in by_reason(measured.short)]

    def run(policy: Policy, objective: Objective) -> PerPrompt | None:
        """Return the results of the served policy on predicted levels, or of the oracle policy on measured ones."""
        served = policy is bundle.policy
        given, extra = (probabilities, estimator_flops) if served else (known, 0.0)
        runs, missing = routed(measured, policy, given, objective, extra)
        if missing:
            whose = "policy" if served else "policy on measured levels"
            left_out.append(LeftOut(f"{whose}, {objective}", f"no held-out runs of {', '.join(missing)}: collect them"))
        return runs

    def at_budgets(policy: Policy) -> Curve:
        found = {budget: run(policy, Budget(budget)) for budget in budgets}
        return {budget: runs for budget, runs in found.items() if runs}

    def at_average_budgets(policy: Policy) -> Curve:
        found = {budget: run(policy, AverageBudget(budget)) for budget in average_budgets(policy, budgets)}
        return {budget: runs for budget, runs in found.items() if runs}

    fixed_arms = fixed_curves(measured)
    best_fixed = {row["budget"]: row["best_fixed_arm"] for row in tuning["budgets"]}
    policies: dict[str, Curve] = {
        "best_fixed": _fixed_at(measured, best_fixed),
        "predicted": at_budgets(bundle.policy),
        "oracle": at_budgets(oracle_policy),
        "predicted_average": at_average_budgets(bundle.policy),
        "oracle_average": at_average_budgets(oracle_policy),
    }
    asked = [(objective, runs) for objective in wanted if (runs := run(bundle.policy, objective))]
    in_hindsight: Curve = {budget: hindsight(measured, levels, budget) for budget in budgets}
    savings = {
        policy: {name: saving(policies[policy], name, fixed_arms.get(name, {}), draws) for name in REFERENCES}
        for policy in ("predicted", "predicted_average", "oracle", "best_fixed")
    }
    gaps = {
        name: gap_recovered(policies["predicted"], policies["oracle"], fixed_arms.get(name, {}), draws)
        for name in REFERENCES
    }
    rows = [tables.at_budget(budget, fixed_arms, policies, best_fixed[budget], draws) for budget in budgets]
    diagnosis = diagnose(
        budget=max(budgets),
        perfect_selector=_any_right(attempts, measured, max(budgets)),
        fixed=fixed_arms,
        policies=policies,
        hindsight=in_hindsight,
        draws=draws,
    )
    judged = None
    if goals is not None:
        judged = judge_goals(
            goals,
            savings=savings,
            gap=gaps[REFERENCES[0]],
            budgets=rows,
            diagnosis=diagnosis,
            policies=policies,
            hindsight=in_hindsight,
            reference=fixed_arms.get(REFERENCES[0], {}),
            draws=draws,
        )
    accuracies = tables.per_level(measured, levels, seed)
    averages = Averages(measured, bundle.policy, probabilities)
    rows_at_averages, best_fixed_at = at_averages(averages, tuned, draws)
    middle = float(AT if any(row.budget == AT for row in rows_at_averages) else averages.least)
    trust = trusted(averages, enumerated, middle) if bundle.confidence else None
    spent = in_flops(
        attempts,
        measured,
        bundle.policy,
        probabilities,
        statistics=prompts["statistic"],
        edges=manifest.edges,
        extra=estimator_flops,
        draws=draws,
    )
    return Report(
        bundle=bundle.id,
        statistic=manifest.statistic,
        prompts=len(prompts),
        attempts_per_prompt=int(prompts["attempts"].min()),
        goals=judged,
        budgets=tuple(rows),
        savings=savings,
        gap_recovered=gaps,
        diagnosis=diagnosis,
        curves={name: _points(points, draws) for name, points in (fixed_arms | policies).items()},
        per_level=tuple(accuracies),
        choices=tuple(tables.choices(bundle.policy, budgets, bundle.setup.tasks)),
        method=tuning["method"],
        methods=tuple(_method(row) for row in tuning["methods"]),
        objectives=tuple(
            tables.objective_result(bundle.policy, probabilities, objective, runs, draws, tasks=measured.tasks)
            for objective, runs in asked
        ),
        revisions=tuple(tables.revisions(measured, accuracies)),
        larger=compare_at_equal_flops(
            measured, bundle.policy, probabilities, levels, _pass_rates(attempts, measured), budgets=budgets, seed=seed
        ),
        difficulty=measure_difficulty(probabilities, prompts["statistic"], manifest.edges),
        candidates={name: CandidateQuality(**row) for name, row in training.comparison.items()},
        levels=LevelCounts(
            oracle=tuple(int(count) for count in known.sum(axis=0)),
            predicted=tuple(int((1 + probabilities.argmax(axis=1) == level).sum()) for level in LEVELS),
        ),
        left_out=tuple(left_out),
        warnings=tuple(of_evaluation(measured, levels)),
        averages=tuple(rows_at_averages),
        validated=tuple(tuned),
        at_flops=spent.rows,
        tasks=spent.tasks,
        plans=tuple(plans(averages, enumerated, middle)),
        trust=trust,
        by_task=_by_task(tuning.get("by_task")),
        headline=headline(
            averages,
            rows_at_averages,
            savings=savings,
            fixed_curves=best_fixed_at,
            policy_curve=policies["predicted_average"],
            trust=trust,
            spent=spent,
            noise=most_correlated(attempts, measured.prompts, manifest.statistic),
            draws=draws,
        ),
    )


def _run_until(
    policy: Policy, probabilities: NDArray[np.float64], tasks: NDArray[np.str_], objectives: Sequence[Objective]
) -> list[Cascade]:
    """Return the cascades that really run for these objectives, where they differ from the chosen ones."""
    found = {
        objective.runs(policy.for_task(task).decide(row, objective).arm)
        for objective in objectives
        if objective.kind == TargetAccuracy.kind
        for task, row in zip(tasks.tolist(), probabilities.tolist(), strict=True)
    }
    return sorted(arm for arm in found if isinstance(arm, Cascade))


def _fixed_at(measured: Measured, arms: Mapping[int, str]) -> Curve:
    """Return a curve of the named arm at each budget, where it was run."""
    names = arm_names(measured)
    return {budget: fixed(measured, names.index(arm)) for budget, arm in arms.items() if arm in names}


def _usual_objectives(measured: Measured) -> list[Objective]:
    prices = np.geomspace(0.01, 3, 8) / measured.flops.mean(axis=0).max()
    return [
        *(TargetAccuracy(target) for target in TARGETS),
        *(PricePerFlop(float(f"{price:.2g}")) for price in prices),
    ]


def _points(curve: Curve, draws: NDArray[np.float64]) -> tuple[CurvePoint, ...]:
    found = [(budget, runs.point(draws)) for budget, runs in curve.items()]
    return tuple(CurvePoint(p.accuracy, p.low, p.high, p.generations, p.flops, budget=budget) for budget, p in found)


def _method(row: Mapping[str, Any]) -> MethodResult:
    """Return a row of the tuning report as a MethodResult."""
    minus = row["minus_best_fixed"]
    difference = Estimate(minus["accuracy"], minus["low"], minus["high"])
    return MethodResult(row["method"], row["accuracy"], row["low"], row["high"], difference)


def _by_task(found: Mapping[str, Any] | None) -> ByTask | None:
    """Return what the tuning report says of tables by task; older ones say nothing."""
    if found is None:
        return None
    estimates = {
        name: Estimate(*(found[name][key] for key in ("accuracy", "low", "high")))
        for name in ("gain", "at_equal_flops", "within_budgets")
    }
    return ByTask(**{**found, **estimates})


def _pass_rates(attempts: pd.DataFrame, measured: Measured) -> NDArray[np.float64]:
    """Return each prompt's share of right attempts, (P,)."""
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].mean()
    rates: NDArray[np.float64] = pool.loc[measured.prompts].to_numpy(dtype=float)
    return rates


def _any_right(attempts: pd.DataFrame, measured: Measured, n: int) -> PerPrompt:
    """Return pass@n: the accuracy of a perfect selector among n samples (the unbiased estimate over the pool)."""
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].agg(["sum", "size"])
    pool = pool.loc[measured.prompts].astype(float)
    size, right = pool["size"].to_numpy(), pool["sum"].to_numpy()
    drawn = np.minimum(n, size)
    found = 1 - comb(size - right, drawn) / comb(size, drawn)
    return PerPrompt(found, drawn, np.zeros_like(found))


def _tuned(folder: Path) -> tuple[Policy, dict[str, Any]]:
    """Read the policy for measured levels, and the tuning report."""
    try:
        return Policy.loads((folder / ORACLE_POLICY).read_text()), json.loads((folder / TUNING).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise InvalidBundle(
            f"{folder}: can't read {TUNING} and {ORACLE_POLICY} ({error}); run `router tune`"
        ) from error


def _held_out(attempts: pd.DataFrame, training: Training, bundle: Bundle) -> pd.DataFrame:
    """Return a row for each prompt, by ``prompt_statistics``. Raises InvalidFile where one was trained on."""
    prompts = prompt_statistics(attempts, bundle.manifest.statistic)
    no_pool = sorted(set(attempts["prompt_id"]) - set(prompts.index))
    if no_pool:
        raise InvalidFile(
            f"{len(no_pool)} prompts have runs of arms but no independent attempts (arm `{SAMPLE}`), "
            f"first {no_pool[0]!r}; collect some for them, since a prompt's level comes from independent attempts"
        )
    seen = prompts["asked"].map(text_digest).isin(training.prompts["digest"])  # by text, since ids may be reused
    if seen.any():
        raise InvalidFile(
            f"{seen.sum()} of the {len(prompts)} prompts were trained on, first {prompts.index[seen.argmax()]!r}, and "
            "measurements on them prove nothing; evaluate on prompts that train and tune never saw"
        )
    return prompts


def _estimator_flops(measured: Measured, features: str) -> NDArray[np.float64]:
    """Return the (P,) FLOPs of reading the features: the reference model's pass over the prompt, or 0."""
    if features_of(features).needs is None:
        return np.zeros(len(measured.prompts))
    column = next(k for k, arm in enumerate(measured.arms) if arm.models == {None})
    reference = list(measured.setup.models).index(measured.setup.reference)
    flops: NDArray[np.float64] = 2.0 * measured.setup.main.parameters * measured.prompt[:, column, reference]
    return flops
