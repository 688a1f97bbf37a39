"""The policy at equal FLOPs beside plainer ways, the ceiling of a perfect choice, and the noise of few attempts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from router.evaluation.card import card
from router.evaluation.evaluate import evaluate
from router.evaluation.noise import correlation_ceiling
from router.evaluation.page import page
from router.evaluation.perfect import Perfect
from tests.support.evaluation import WITH_LARGE, make_bundle, rich_world, world


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The small world with a larger model, evaluated."""
    bundle = make_bundle(tmp_path_factory.mktemp("large"), rich_world("train", 20), setup=WITH_LARGE, cascades=True)
    return bundle, evaluate(rich_world("held"), bundle, tuned_on=rich_world("train", 20))


@pytest.mark.long
def test_ways_are_compared_at_what_they_spend(found):
    _, report = found
    assert [row.share for row in report.at_flops] == sorted({row.share for row in report.at_flops})
    for row in report.at_flops:
        for way in row.ways.values():
            assert way.point.low <= way.point.accuracy <= way.point.high
        assert {"best_fixed_arm", "random_mix", "larger_alone", "level_only", "nearest_neighbours"} <= set(row.ways)
    spent = [row.policy.flops for row in report.at_flops]
    assert spent == sorted(spent)


@pytest.mark.long
def test_the_policy_gains_on_the_larger_model_by_not_asking_it_where_the_small_one_will_do(found):
    _, report = found
    gain = report.headline["gain_at_large_cost"]
    row = next(row for row in report.at_flops if row.share == 1)
    assert gain["value"] == row.gains["larger_alone"].value
    assert gain["value"] <= gain["ceiling"] + 1e-9


@pytest.mark.long
def test_the_share_of_the_larger_models_cost_is_less_than_all_of_it(found):
    _, report = found
    share = report.headline["share_of_large_cost"]
    assert share["of"] == "one solution of the larger model"
    assert share["accuracy"] == pytest.approx(0.8)
    assert 0 < share["ceiling"] <= share["value"] < 1
    assert share["low"] <= share["value"]


@pytest.mark.long
def test_without_a_pool_of_the_larger_model_its_best_of_n_is_null_with_a_reason(found):
    _, report = found
    assert report.headline["share_of_best_of_n_cost"] is None
    assert "no pool" in report.headline["reasons"]["share_of_best_of_n_cost"]


@pytest.mark.long
def test_without_a_larger_model_shares_are_of_one_sample(tmp_path):
    report = evaluate(world("held"), make_bundle(tmp_path, world("train", 20)))
    assert [row.share for row in report.at_flops][:2] == [1, 2]
    assert "larger_alone" not in report.at_flops[0].ways
    assert report.headline["share_of_large_cost"] is None
    assert report.headline["reasons"]["share_of_large_cost"] == "no larger model was run"
    assert report.tasks == ()


@pytest.mark.long
def test_several_tasks_have_a_row_each(tmp_path):
    setup = replace(WITH_LARGE, task=("math", "exact"))
    bundle = make_bundle(tmp_path, rich_world("train", 20), setup=setup)
    frame = rich_world("held")
    frame["task"] = ["exact" if "-1-" in name or "-2-" in name else None for name in frame["prompt_id"]]
    report = evaluate(frame, bundle)
    assert {row.task: row.prompts for row in report.tasks} == {"exact": 24, "math": 36}
    easy, hard = sorted(report.tasks, key=lambda row: row.task)
    assert easy.sample > hard.sample
    assert easy.mean_level < hard.mean_level
    for row in report.tasks:
        assert {"best_fixed_arm", "level_only", "confidence_only", "larger_alone"} <= set(row.ways) == set(row.gains)
        larger = row.ways["larger_alone"].point.accuracy
        assert row.gains["larger_alone"].value == pytest.approx(row.policy.accuracy - larger, abs=1e-3)
    assert "Task by task" in page(report)
    assert "| exact | 24 |" in card(bundle, report)


@pytest.mark.long
def test_page_and_card_show_what_was_measured_at_equal_flops(found):
    bundle, report = found
    assert "At equal FLOPs" in page(report)
    assert "At equal FLOPs" in card(bundle, report)


def attempts(right: dict[str, str]) -> pd.DataFrame:
    """By prompt: a letter for each attempt, ``+`` right and ``-`` wrong; of the larger model after a bar."""
    rows = []
    for prompt, marks in right.items():
        small, _, large = marks.partition("|")
        for arm, its in (("sample", small), ("sample(model=large)", large)):
            rows += [
                {"prompt_id": prompt, "arm": arm, "correct": mark == "+", "prompt_tokens": 0, "generated_tokens": 10}
                | {"scores": [0.9 if mark == "+" else 0.1]}
                for mark in its
            ]
    return pd.DataFrame(rows)


def test_a_perfect_choice_stops_at_the_first_right_attempt_and_spends_nothing_where_there_is_none():
    frame = attempts({"easy": "++|+", "hopeless": "--|-", "large": "--|+"})
    perfect = Perfect(frame, pd.Index(["easy", "hopeless", "large"]), WITH_LARGE, "large")
    assert perfect.accuracy[-1] == pytest.approx(2 / 3, abs=1e-3)
    # 10 tokens of the small one for the first, 10 of the large one, 4 times the size, for the last.
    assert perfect.flops[-1] == pytest.approx((2 * 100 * 10 + 2 * 400 * 10) / 3)
    assert perfect.at(perfect.flops[-1]) == pytest.approx(2 / 3, abs=1e-3)
    assert perfect.cost_of(0.9) is None


def test_a_perfect_choice_counts_the_attempts_before_the_first_right_one():
    perfect = Perfect(attempts({"half": "+-"}), pd.Index(["half"]), WITH_LARGE, None)
    assert perfect.flops[-1] == pytest.approx(2 * 100 * 10 * 1.5)


def test_attempts_that_always_agree_leave_no_noise():
    frame = attempts({f"p{i}": "++++" if i % 2 else "----" for i in range(8)})
    assert correlation_ceiling(frame, pd.Index(frame["prompt_id"].unique()), "pass_rate") == pytest.approx(1)


def test_prompts_that_are_all_alike_can_not_be_told_apart():
    rng = np.random.default_rng(0)
    marks = {f"p{i}": "".join(rng.choice(["+", "-"], 8)) for i in range(400)}
    frame = attempts(marks)
    found = correlation_ceiling(frame, pd.Index(list(marks)), "pass_rate")
    assert found is not None
    assert found < 0.35


def test_two_attempts_a_prompt_say_nothing_of_the_noise():
    frame = attempts({"a": "+-", "b": "--", "c": "++"})
    assert correlation_ceiling(frame, pd.Index(["a", "b", "c"]), "pass_rate") is None
