"""Evaluates a bundle on held-out attempts: accuracy against generations and against FLOPs, and what limits it.

Whatever is compared chooses one measured arm for each prompt. A choice gives three numbers for each prompt
(``PerPrompt``), choices at rising budgets give a curve, and every figure of the report compares curves.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from difficulty.compare import measure as measure_difficulty
from router.bundle.bundle import load_bundle
from router.evaluation import tables
from router.evaluation.arms import Decider
from router.evaluation.at_flops import in_flops
from router.evaluation.averages import Averages, on_average
from router.evaluation.causes import AtCosts
from router.evaluation.goals import judge_goals
from router.evaluation.headline import headline
from router.evaluation.held_out import HeldOut, hold_out, pass_rates
from router.evaluation.larger_model import compare_at_equal_flops
from router.evaluation.neighbours import Neighbours
from router.evaluation.noise import correlation_ceiling
from router.evaluation.objectives import at_objectives
from router.evaluation.report import CandidateQuality, Goal, LevelCounts, Report
from router.evaluation.tuned import Tuned
from router.evaluation.within_budgets import curves_of, within_budgets
from router.policy.objectives import Objective
from router.policy.table import LEVELS
from router.training.difficulty import Vectors, read_training
from router.tuning.warnings import of_evaluation


def evaluate(
    attempts: pd.DataFrame,
    folder: Path,
    vectors: Vectors | None = None,
    *,
    tuned_on: pd.DataFrame | None = None,
    objectives: Sequence[Objective] = (),
    goals: Sequence[Goal] | None = None,
    seed: int = 0,
) -> Report:
    """Return the report of a bundle in ``folder`` on held-out attempts.

    vectors     gives the prompts' feature vectors, needed where the bundle's difficulty model reads some
    tuned_on    the attempts that the policy was tuned on, to compare it with the best arm at similar prompts
    objectives  objectives to measure besides the usual ones
    goals       what the bundle should reach; None: the report has no goals

    Measured levels come from the same attempts that the sampling arms are replayed on, which flatters those arms a
    little. So curves on measured levels are an upper bound, and should not be compared with a paper's.

    Raises InvalidFile where a held-out prompt was trained on, InvalidBundle, InvalidRequest for an objective.
    """
    bundle, tuned, training = load_bundle(folder), Tuned.read(folder), read_training(folder)
    policy, manifest = bundle.policy, bundle.manifest
    held = hold_out(attempts, bundle, training, tuned, vectors, objectives=objectives, seed=seed)
    measured, draws, statistics = held.measured, held.draws, held.prompts["statistic"]
    served = Decider("policy", policy, held.probabilities, held.reading)
    oracle = Decider("policy on measured levels", tuned.oracle, held.known)

    curves, no_points = curves_of(measured, served, oracle, held.levels, tuned.best_fixed)
    within = within_budgets(attempts, measured.prompts, curves, tuned.best_fixed, draws=draws)
    at_objective, no_objectives = at_objectives(measured, served, held.objectives, draws, held.enumerated)
    similar = None
    if tuned_on is not None:
        asked = held.prompts["asked"].tolist()
        similar = Neighbours.of(tuned_on, bundle, training, measured, asked, budgets=tuned.budgets, seed=seed)
    averages = Averages(measured, policy, held.probabilities)
    confident = bundle.confidence is not None
    mean = on_average(averages, held.enumerated, tuned.averages, draws, similar=similar, confident=confident)
    spent = in_flops(
        attempts,
        measured,
        policy,
        held.probabilities,
        statistics=statistics,
        edges=manifest.edges,
        extra=held.reading,
        similar=similar,
        draws=draws,
    )
    rates = pass_rates(attempts, measured.prompts)
    larger = compare_at_equal_flops(
        measured, policy, held.probabilities, held.levels, rates, budgets=tuned.budgets, seed=seed
    )
    per_level = tables.per_level(measured, held.levels, seed)
    figures = headline(
        averages,
        mean.rows,
        savings=within.savings,
        fixed_curves=mean.best_fixed,
        policy_curve=curves.policies["predicted_average"],
        trust=mean.trust,
        spent=spent,
        noise=correlation_ceiling(attempts, measured.prompts, manifest.statistic),
        draws=draws,
    )
    on_measured_levels = Averages(measured, tuned.oracle, held.known).points
    costs = AtCosts((*mean.rows, *spent.rows), on_measured_levels, spent.perfect.at)
    return Report(
        bundle=bundle.id,
        statistic=manifest.statistic,
        prompts=len(held.prompts),
        attempts_per_prompt=int(held.prompts["attempts"].min()),
        goals=None
        if goals is None
        else judge_goals(goals, within, curves, figures, draws, trust=mean.trust, costs=costs),
        budgets=within.rows,
        savings=within.savings,
        gap_recovered=within.gap_recovered,
        diagnosis=within.diagnosis,
        curves=curves.points(draws),
        per_level=tuple(per_level),
        choices=tuple(tables.choices(policy, tuned.budgets, bundle.setup.tasks)),
        method=tuned.method,
        methods=tuned.methods,
        objectives=tuple(at_objective),
        revisions=tuple(tables.revisions(measured, per_level)),
        larger=larger,
        difficulty=measure_difficulty(held.probabilities, statistics, manifest.edges),
        candidates={name: CandidateQuality(**row) for name, row in training.comparison.items()},
        levels=_level_counts(held),
        left_out=(*held.left_out, *no_points, *no_objectives),
        warnings=tuple(of_evaluation(measured, held.levels)),
        averages=mean.rows,
        validated=tuned.averages,
        at_flops=spent.rows,
        tasks=spent.tasks,
        plans=mean.plans,
        trust=mean.trust,
        by_task=tuned.by_task,
        headline=figures,
    )


def _level_counts(held: HeldOut) -> LevelCounts:
    likeliest = 1 + held.probabilities.argmax(axis=1)
    return LevelCounts(
        oracle=tuple(int((held.levels == level).sum()) for level in LEVELS),
        predicted=tuple(int((likeliest == level).sum()) for level in LEVELS),
    )
