"""Bundles of several tasks: a table for each where tasks differ in what helps them, one for all where they don't."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from router.attempts.schema import write_attempts
from router.bundle.bundle import load_bundle
from router.cli.main import main
from router.evaluation.card import card
from router.evaluation.evaluate import evaluate
from router.evaluation.page import page
from router.evaluation.report import Report
from router.policy.objectives import AverageBudget, Budget
from router.policy.table import Cell, Cost, Policy
from router.tuning import apart
from router.tuning.candidates import with_cascades
from router.tuning.cascades import groups, prune
from router.tuning.evidence import measure
from router.tuning.nested import shuffled
from router.tuning.tables import by_task, pooled
from router.tuning.tune import tune
from strategies import Cascade, parse
from tests.support.attempts import SETUP, frame, row, training
from tests.support.evaluation import BEAM, make_bundle

MIXED = replace(SETUP, task=("math", "choice"))
LEVELS = (1, 2, 3, 4, 5)


def mix(*, alike: bool, prefix: str = "mine-", prompts_a_level: int = 12, choices: int | None = None):
    """Of math the beam search is right and votes are wrong; of choice it is the other way round, unless ``alike``.

    One search in six ends otherwise, and no text tells its task.
    choices  number of prompts of choice at a level
    """
    rows, levels = [], {}
    for task in MIXED.tasks:
        for level in LEVELS:
            for i in range(prompts_a_level if task == "math" or choices is None else choices):
                prompt = f"{prefix}{task}-{level}-{i}"
                levels[prompt] = level
                asked = {"task": task, "prompt": f"{prefix} {task[0]} {i} " + "word " * level}
                searches = alike or task == "math"
                for sample in range(4):
                    right = sample < (1 if searches else 3)
                    answer = "1" if right else "2"
                    rows.append(row(prompt, sample, answer=answer, correct=right, score=0.2) | asked)
                right = searches == (i % 6 > 0)
                answer = "1" if right else "2"
                found = row(prompt, arm=BEAM, answer=answer, correct=right, score=0.2, tokens=(10, 90, 120))
                rows.append(found | asked)
    return frame(rows), training(levels)


SIZES = [6, pytest.param(12, marks=pytest.mark.long)]  # prompts at a level: the first carry no levels


@cache
def tuned(prompts_a_level, *, alike: bool):
    attempts, trained = mix(alike=alike, prompts_a_level=prompts_a_level)
    return tune(attempts, trained, [1, 2, 4], setup=MIXED, cascades=False)


@pytest.mark.parametrize("size", SIZES)
def test_tasks_that_differ_get_tables_of_their_own(size):
    tuning = tuned(size, alike=False)
    policy, report = tuning.policy, tuning.report
    assert report["by_task"]["served"]
    assert report["by_task"]["gain"]["low"] > 0.05
    assert report["by_task"]["prompts"] == {"math": 5 * size, "choice": 5 * size}
    assert report["method"] == report["by_task"]["method"]
    assert set(policy.tasks) == {"math", "choice"}
    arms = {task: str(policy.for_task(task).decide([0.2] * 5, Budget(4)).arm) for task in policy.tasks}
    assert arms["math"] == BEAM
    assert arms["choice"] != BEAM
    best = report["budgets"][-1]
    assert best["policy"]["accuracy"] > best["best_fixed"]["accuracy"] + 0.2
    assert tuning.oracle.tasks.keys() == policy.tasks.keys()


@pytest.mark.parametrize("size", SIZES)
def test_tasks_that_do_not_differ_share_a_table(size):
    report = tuned(size, alike=True).report
    assert not report["by_task"]["served"]
    assert abs(report["by_task"]["gain"]["accuracy"]) <= report["tolerance"]
    assert "a table for each" not in report["method"]
    assert tuned(size, alike=True).policy.tasks == {}


def test_a_bundle_of_one_task_tries_no_tables_by_task():
    attempts, trained = mix(alike=False)
    math = attempts[attempts["task"] == "math"]
    alone = replace(trained, prompts=trained.prompts.loc[math["prompt_id"].unique()])
    assert tune(math, alone, [1, 4], setup=MIXED, cascades=False).report["by_task"] is None


def test_a_task_of_few_prompts_is_decided_by_the_table_of_all():
    attempts, trained = mix(alike=False, prompts_a_level=8, choices=4)
    tuning = tune(attempts, trained, [1, 4], setup=MIXED, cascades=False)
    assert tuning.report["by_task"]["prompts"] == {"math": 40}
    assert "choice" not in tuning.policy.tasks


def test_budget_points_are_of_the_whole_mix_each_prompt_by_its_own_table():
    attempts, trained = mix(alike=False, prompts_a_level=6)
    policy = tuned(6, alike=False).policy
    measured = measure(attempts, trained.prompts.index, [1, 2, 4], MIXED)
    probabilities = trained.probabilities.loc[measured.prompts].to_numpy()
    names = {arm: k for k, arm in enumerate(measured.arms)}
    for point in policy.budget_points:
        chosen = policy.decide_many(probabilities, AverageBudget(point.generations), measured.tasks)
        columns = [names[policy.arms[k]] for k in chosen]
        spent = measured.generations[np.arange(len(columns)), columns].mean()
        assert spent == pytest.approx(point.generations, abs=0.01)
    assert policy.for_task("math").budget_points == policy.budget_points


def test_what_a_task_has_in_common_with_the_others_is_not_noise():
    """At half of some prompts, arms differ as they do on all: their estimates come nearer to that."""
    rng = np.random.default_rng(0)
    accuracy = (rng.random((60, 4)) < [0.2, 0.4, 0.6, 0.8]).astype(float)
    overall = (accuracy - accuracy.mean(axis=1, keepdims=True)).mean(axis=0)
    half, weights = accuracy[:30], np.ones((30, 5))

    def advantage(found):
        return found - found.mean(axis=1, keepdims=True)

    alone, shrunk = advantage(pooled(half, weights)), advantage(pooled(half, weights, overall))
    assert np.abs(shrunk - overall).mean() < np.abs(alone - overall).mean()


def test_the_best_cascade_of_one_task_is_kept():
    accuracy = np.array([[1.0, 0.5, 0.7], [1.0, 0.5, 0.7], [0.0, 0.9, 0.7], [0.0, 0.9, 0.7]])
    even = np.full((4, 5), 0.2)
    tasks = np.array([[True, True, False, False], [False, False, True, True]])
    options: dict[str, Any] = {"budgets": np.ones(3), "wanted": [1], "tolerance": 0.005}
    together = prune(accuracy, np.ones((4, 3)), groups(even, tasks[:0]), **options)
    assert len(together) == 1
    kept = prune(accuracy, np.ones((4, 3)), groups(even, tasks), wide=3, **options)
    assert set(kept) >= {0, 1}


def test_cascades_are_made_of_what_is_best_for_each_task():
    attempts, trained = mix(alike=False, prompts_a_level=6)
    measured = measure(attempts, trained.prompts.index, [1, 2, 4], MIXED)
    probabilities = trained.probabilities.loc[measured.prompts].to_numpy()
    options: dict[str, Any] = {"budgets": [1, 2, 4], "tolerance": 0.005, "seed": 0}
    found = with_cascades(measured, probabilities, trained.prompts["level"].to_numpy(), [], **options)
    assert {"math", "choice"} == set(found.measured.apart)
    assert BEAM in map(str, found.atoms)
    assert any(isinstance(arm, Cascade) for arm in found.measured.arms)
    columns = found.without_luck(np.arange(0, len(measured.prompts), 2), [4], 0.005)
    assert any(isinstance(found.everything.arms[k], Cascade) for k in columns)


def test_shuffled_prompts_stay_with_their_table():
    table = [Cell(level, parse(BEAM), 0.5, 0.5, 0.5, 60, Cost(4, 1, 1, 0, 1, 0)) for level in LEVELS]
    policy = Policy(table, Budget(4), tasks={"choice": table})
    tasks = np.array(["math", "choice"] * 20)
    order = shuffled(policy, tasks, np.random.default_rng(0))
    assert sorted(order) == list(range(40))
    assert (tasks[order] == tasks).all()
    assert (order != np.arange(40)).any()


def test_curves_are_compared_at_what_both_spend():
    spent = np.tile([1.0, 3.0], (4, 1))
    low = apart.Curve(np.tile([0.2, 0.6], (4, 1)), spent)
    high = apart.Curve(np.tile([0.3, 0.7], (4, 1)), spent)
    assert low.at(2.0) == pytest.approx([0.4] * 4)
    assert low.at(9.0) == pytest.approx([0.6] * 4)
    assert apart.gain(low, high) == pytest.approx([0.1] * 4)


def test_methods_by_task_say_whose_tables_they_make():
    named = [str(method) for method in by_task(("math", "choice"))]
    assert all(name.endswith(", a table for each of math, choice") for name in named)
    assert len(set(named)) == len(named)
    assert any(name.startswith("no levels") for name in named)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = make_bundle(tmp_path_factory.mktemp("mixed"), mix(alike=False)[0], setup=MIXED)
    return folder, evaluate(mix(alike=False, prefix="held-", prompts_a_level=6)[0], folder)


@pytest.mark.long
def test_held_out_prompts_are_decided_by_their_own_table(evaluated):
    folder, report = evaluated
    assert set(load_bundle(folder).policy.tasks) == {"math", "choice"}
    assert report.by_task.served
    assert report.by_task.gain.low > 0
    row = report.budgets[-1]
    assert row.predicted.accuracy > row.best_fixed.accuracy + 0.1
    assert {choice.task for choice in report.choices} == {plan.task for plan in report.plans} == {"math", "choice"}
    tasks = {each.task: each for each in report.tasks}
    assert set(tasks) == {"math", "choice"}
    assert Report.from_json(report.to_json()) == report


@pytest.mark.long
def test_what_knowing_the_task_alone_gives_is_shown_beside_the_policy(evaluated):
    _, report = evaluated
    last = report.at_flops[-1]
    by_task, one_mix = last.ways["arm_of_each_task"].point, last.ways["confidence_only"].point
    assert by_task.accuracy > one_mix.accuracy + 0.1
    # Levels say nothing here beyond the task, so the policy gains nothing on it.
    assert abs(last.gains["arm_of_each_task"].value) < 0.05
    assert "one arm or cascade for each task" in page(report)


@pytest.mark.long
def test_card_and_page_show_each_table_and_what_they_are_worth(evaluated):
    folder, report = evaluated
    text = card(folder, report)
    assert "Task `math`:" in text
    assert "Task `choice`:" in text
    assert "The policy has a table for each task (math, choice)" in text
    shown = page(report)
    assert "Under a fixed budget, task choice" in shown
    assert "Each task has a table of its own" in shown


@pytest.mark.long
def test_tune_prints_which_tables_were_kept(evaluated, tmp_path):
    folder, _ = evaluated
    write_attempts(pd.DataFrame(mix(alike=False)[0]), tmp_path / "tune.parquet")
    ran = CliRunner().invoke(
        main, ["tune", str(tmp_path / "tune.parquet"), "--bundle", str(folder), "--overwrite", "--no-cascades"]
    )
    assert ran.exit_code == 0, ran.output
    assert (
        "a table for each task is kept: tables for math (60 prompts), choice (60 prompts) change accuracy by +"
        in ran.stdout
    )
    assert "choice level 1: " in ran.stdout
    assert (
        "confidence: the model without the solution's length and log-probability is kept; log-loss by cross"
        in ran.stdout
    )
