from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from difficulty import LEVELS
from router.errors import InvalidFile, InvalidRequest
from router.policy.objectives import Budget, TargetAccuracy, objective_of
from router.training.difficulty import Training
from router.tuning.nested import WAYS, beside, best_fixed
from router.tuning.tables import METHODS, PAPER, SPLITS, pooled
from router.tuning.tune import Tuning, tune
from strategies import parse
from tests.support.attempts import SETUP, frame, row, training


@pytest.fixture(scope="module", autouse=True)
def as_for_real_bundles(quick_tuning):
    """Here the choice between ways to make a table is tested, which goes by the halvings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("router.tuning.tables.SPLITS", SPLITS)
        yield


def a_world(prompts_a_level=20) -> tuple[pd.DataFrame, Training]:
    """Level decides: 1 one sample, 2 majority, 3 best-of-n, 4 beam search, 5 nothing helps."""
    rows, levels = [], {}
    for level in LEVELS:
        for i in range(prompts_a_level):
            prompt = f"{level}-{i}"
            levels[prompt] = level
            right = {1: 4, 2: 3, 3: 1, 4: 1, 5: 0}[level]
            for sample in range(4):
                correct = sample < right
                trust = {2: not correct, 3: correct, 4: not correct}.get(level, False)
                answer = "1" if correct else ("2" if level == 3 else f"wrong {sample}")
                rows.append(
                    row(prompt, sample, answer=answer, correct=correct, score=0.55 if trust else 0.1)
                )  # too little to stop early
            rows.append(row(prompt, arm="beam_search(n=4, m=4)", correct=level == 4, tokens=(10, 90, 120)))
    return frame(rows), training(levels)


def chosen(policy, level, kind="budget", value=4):
    return str(policy.decide(np.eye(5)[level - 1], objective_of(kind, value)).arm)


def cell(policy, level, arm):
    return next(cell for cell in policy.cells if (cell.level, str(cell.arm)) == (level, arm))


@cache
def tuned() -> Tuning:
    return tune(*a_world(), [1, 2, 4], setup=SETUP, cascades=False)


def test_tune_finds_the_arm_that_each_level_needs():
    tuning = tuned()
    policy = tuning.policy
    assert [chosen(policy, level) for level in LEVELS] == [
        "majority(n=1)",
        "majority(n=4)",
        "best_of_n(n=4)",
        "beam_search(n=4, m=4)",
        "majority(n=1)",
    ]
    assert chosen(policy, 4, value=2) != "beam_search(n=4, m=4)"
    assert cell(policy, 2, "majority(n=4)").accuracy == pytest.approx(1, abs=0.02)
    assert cell(policy, 5, "majority(n=4)").accuracy == pytest.approx(0, abs=0.02)
    top = tuning.report["budgets"][-1]
    assert top["policy"]["accuracy"] == pytest.approx(0.8, abs=0.01)
    assert top["best_fixed"]["accuracy"] < 0.7
    assert top["policy_minus_best_fixed"]["low"] > 0.1


def test_an_average_budget_is_spent_where_it_pays():
    """Levels 2, 3 and 4 need four solutions, 1 and 5 are as well served by one: 2.8 on average buys everything."""
    policy = tuned().policy
    assert policy.budget_points[0].generations == pytest.approx(1)
    assert policy.budget_points[-1].generations == pytest.approx((1 + 4 + 4 + 4.5 + 1) / 5, abs=0.01)
    assert [chosen(policy, level, "average_budget", 3) for level in (1, 3, 4, 5)] == [
        "majority(n=1)",
        "best_of_n(n=4)",
        "beam_search(n=4, m=4)",
        "majority(n=1)",
    ]
    spent = [point.generations for point in policy.budget_points]
    prices = [point.price for point in policy.budget_points]
    assert (spent, prices) == (sorted(spent), sorted(prices, reverse=True))


def test_ways_at_average_budgets_are_compared_at_equal_spending_up_to_the_most_that_the_policy_spends():
    """The beam search that level 4 needs is long on all others, so levels that are shuffled would spend more."""
    attempts, trained = a_world()
    long = (attempts["arm"] != "sample") & ~attempts["prompt_id"].str.startswith("4-")
    attempts["generated_tokens"] = attempts["generated_tokens"].mask(long, 400)
    tuning = tune(attempts, trained, [1, 2, 4], setup=SETUP, cascades=False)
    assert 2 < tuning.policy.budget_points[-1].generations < 4
    rows = tuning.report["average_budgets"]
    assert [found["budget"] for found in rows] == [2, 4]
    for found in rows:
        ways = found["ways"]
        assert ways["shuffled_levels"]["generations"] == pytest.approx(ways["policy"]["generations"], abs=1e-3)
        assert found["gains"]["shuffled_levels"]["accuracy"] > 0


def test_the_best_fixed_arm_may_spend_a_hundredth_more_than_the_budget():
    """A search with eight beams writes a little more than eight solutions on average, and is what one would take."""
    three: Any = SimpleNamespace(generations=np.array([[1.0, 8.08, 8.5]] * 4), accuracy=np.array([[0.3, 0.5, 0.9]] * 4))
    assert best_fixed(three, [0, 1, 2], np.arange(4), 8) == 1
    assert best_fixed(three, [0, 1, 2], np.arange(4), 7) == 0
    assert best_fixed(three, [1, 2], np.arange(4), 1) == 1  # nothing is so cheap


def test_the_policy_spends_what_the_other_way_does_and_all_of_the_budget_beside_a_fixed_arm():
    assert beside("nearest_neighbours", 6.0, 8) == 6
    assert beside("best_fixed_arm", 6.0, 8) == 8
    assert beside("best_fixed_cascade", 8.1, 8) == 8.1


def test_a_default_objective_is_served_and_checked():
    default = TargetAccuracy(0.9)
    assert tune(*a_world(8), [1, 4], setup=SETUP, default=default, cascades=False).policy.default == default
    with pytest.raises(InvalidRequest, match="budget 64 is outside"):
        tune(*a_world(4), [1, 4], setup=SETUP, default=Budget(64))


def test_costs_are_prompt_once_and_every_sample():
    policy = tuned().policy
    cost = cell(policy, 3, "best_of_n(n=4)").cost
    assert (cost.prompt_tokens, cost.generated_tokens, cost.scored_tokens) == (10, 80, 90)
    assert (cost.generator_flops, cost.verifier_flops, cost.generations) == (2 * 100 * 90, 2 * 10 * 90, 4)
    majority = cell(policy, 2, "majority(n=4)").cost
    assert (majority.generated_tokens, majority.scored_tokens) == (80, 0)
    run = cell(policy, 4, "beam_search(n=4, m=4)").cost
    assert (run.prompt_tokens, run.generated_tokens, run.scored_tokens, run.generations) == (10, 90, 120, 4.5)


def test_cells_say_what_was_measured():
    measured = cell(tuned().policy, 2, "majority(n=1)")
    assert measured.prompts == pytest.approx(20)
    assert measured.low <= measured.accuracy <= measured.high
    assert measured.accuracy == pytest.approx(0.75, abs=0.02)  # three of four attempts at every prompt


def noise(seed=0, arms=40, prompts=300):
    """Arms of equal worth on prompts of different difficulty."""
    rng = np.random.default_rng(seed)
    levels = np.arange(prompts) % 5
    rate = np.array([0.9, 0.7, 0.5, 0.3, 0.1])[levels]
    return (rng.random((prompts, arms)) < rate[:, None]).astype(float), np.eye(5)[levels], rate


def test_pooling_keeps_noise_from_looking_like_an_advantage():
    accuracy, weights, _ = noise()
    plain = (weights / weights.sum(axis=0)).T @ accuracy
    found = pooled(accuracy, weights)
    truth = np.array([0.9, 0.7, 0.5, 0.3, 0.1])[:, None]
    assert (plain - truth).max() > 0.1  # what an argmax over forty arms would have believed
    assert np.abs(found - truth).mean() < 0.6 * np.abs(plain - truth).mean()


def test_pooling_lets_a_real_difference_between_levels_stand():
    accuracy, weights, rate = noise()
    rng = np.random.default_rng(1)
    accuracy[:, 0] = rng.random(len(rate)) < np.where(weights[:, 0] == 1, 0.1, np.where(weights[:, 4] == 1, 0.9, rate))
    found = pooled(accuracy, weights)
    assert found[4].argmax() == 0
    assert found[0].argmin() == 0
    assert found[4, 0] - found[4, 1:].mean() > 0.6


def test_pooling_is_the_posterior_mean_of_known_variances():
    """Two arms, two prompts a level: advantages and shares worked out by hand."""
    accuracy = np.array([[1.0, 0.0], [1.0, 1.0]] * 5)
    weights = np.repeat(np.eye(5), 2, axis=0)
    found = pooled(accuracy, weights)
    # Every level shows the same advantage of 0.25, so nothing is a deviation and nothing is shrunk.
    assert found == pytest.approx(np.tile([1.0, 0.5], (5, 1)))


@pytest.mark.long
def test_cross_validation_is_honest_on_noise():
    """Twenty arms of equal worth: no method may report an advantage, and the pooled ones must not lose any."""
    accuracy, weights, _ = noise(prompts=150, arms=20)
    arms = [f"beam_search(n={n}, m={m})" for n in range(40, 50) for m in (1, n)]
    rows, levels = [], {}
    for i in range(len(accuracy)):
        levels[f"p{i}"] = int(weights[i].argmax()) + 1
        rows.append(row(f"p{i}", 0, correct=False))
        rows += [row(f"p{i}", arm=arm, correct=bool(accuracy[i, k])) for k, arm in enumerate(arms)]
    report = tune(frame(rows), training(levels), [1, 50], setup=SETUP, tolerance=0, cascades=False).report
    top = report["budgets"][-1]
    assert top["policy"]["accuracy"] == pytest.approx(0.5, abs=0.04)
    assert len(report["methods"]) == len(METHODS)
    worth = {entry["method"]: entry["minus_best_fixed"]["accuracy"] for entry in report["methods"]}
    assert worth[report["method"]] == max(worth.values())
    assert worth[str(PAPER)] < 0.03  # noise of one sample of prompts


def test_cascades_are_measured_when_they_are_asked_for():
    attempts, trained = a_world(8)
    cascade = parse("majority(n=1) @0.5 > best_of_n(n=2)")
    tuning = tune(attempts, trained, [1, 4], setup=SETUP, arms=[cascade], cascades=False)
    assert cascade in tuning.policy.arms
    assert tuning.policy.budget(cascade) == 3
    assert cascade not in tuned().policy.arms


def test_cascades_whose_stages_need_more_attempts_than_there_are_say_so():
    attempts, trained = a_world(8)
    cascade = parse("majority(n=1) @0.5 > best_of_n(n=4)")  # five of pools of four
    tuning = tune(attempts, trained, [1, 4], setup=SETUP, arms=[cascade], cascades=False)
    assert cascade not in tuning.policy.arms
    assert any(entry["arm"] == str(cascade) and "too small" in entry["reason"] for entry in tuning.report["left_out"])


def test_arms_that_are_asked_for_and_were_never_run_are_named():
    asked = {"dvts(n=4, m=2)": "not run", "majority(n=8)": "too small", "majority(n=2)": ""}
    tuning = tune(*a_world(8), [1, 4], setup=SETUP, arms=[parse(arm) for arm in asked], cascades=False)
    found = {entry["arm"]: entry["reason"] for entry in tuning.report["left_out"]}
    assert found.keys() == {arm for arm, why in asked.items() if why}
    assert all(asked[arm] in why for arm, why in found.items())
    assert parse("majority(n=2)") in tuning.policy.arms


@pytest.mark.parametrize("arm", ["single(model=huge)", "single @0.7 > single(model=huge)"])
def test_an_arm_of_a_model_that_is_not_described_is_refused(arm):
    with pytest.raises(InvalidRequest, match=r"models\.json has no model 'huge'; it has small"):
        tune(*a_world(8), [1, 4], setup=SETUP, arms=[parse(arm)], cascades=False)


@pytest.mark.long
def test_cascades_are_enumerated_pruned_and_compared_with_plainer_ways():
    """A verifier that knows: where a sample is doubted, the beam search is worth its price."""
    attempts, trained = a_world()
    attempts = attempts.assign(scores=[[0.9 if right else 0.1] for right in attempts["correct"]])
    tuning = tune(attempts, trained, [1, 2, 4], setup=SETUP)
    tried = tuning.report["cascades"]
    cascades = [arm for arm in tuning.policy.arms if " > " in str(arm)]
    assert tried["tried"] > tried["kept"] == len(cascades) > 0
    assert tuning.confidence is not None
    (row,) = (row for row in tuning.report["average_budgets"] if row["budget"] == 2)
    assert row["ways"]["policy"]["accuracy"] > row["ways"]["best_fixed_arm"]["accuracy"] + 0.1
    assert row["ways"]["policy"]["generations"] < 2 * 1.1
    assert set(row["gains"]) == set(WAYS) - {"policy"}
    assert " > " in row["chosen"]["best_fixed_cascade"]


@pytest.mark.parametrize(("gone", "served"), [(["4-0", "4-1"], True), ([f"4-{i}" for i in range(10)], False)])
def test_an_arm_measured_on_too_few_prompts_is_left_out_and_reported(gone, served):
    attempts, trained = a_world()
    kept = attempts[~((attempts["arm"] != "sample") & attempts["prompt_id"].isin(gone))]
    tuning = tune(kept, trained, [1, 2, 4], setup=SETUP, cascades=False)
    assert (parse("beam_search(n=4, m=4)") in tuning.policy.arms) == served
    assert [entry["arm"] for entry in tuning.report["left_out"]] == ([] if served else ["beam_search(n=4, m=4)"])
    assert tuning.report["prompts"] == 100 - len(gone) * served  # arms are compared on the same prompts


def test_a_level_of_few_prompts_is_measured_on_all():
    attempts, trained = a_world()
    few = trained.prompts.assign(level=trained.prompts["level"].clip(upper=4))
    tuning = tune(
        attempts, Training("pass_rate", 0, trained.edges, "text_logistic", {}, few), [1, 4], setup=SETUP, cascades=False
    )
    assert tuning.report["levels"]["oracle"] == [20, 20, 20, 40, 0]
    everywhere = attempts.loc[attempts["arm"] == "beam_search(n=4, m=4)", "correct"].mean()
    assert cell(tuning.oracle, 5, "beam_search(n=4, m=4)").accuracy == pytest.approx(everywhere, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[f["prompt_id"] != "1-0"], "lack 1 prompts.*'1-0'"),
        (lambda f: f[f["arm"] != "sample"], "no arm within budget 1 .*collect"),
        (lambda f: f.assign(correct=f["correct"].mask(f["prompt_id"] == "1-0")), "`correct` is null for 5.*'1-0'"),
    ],
)
def test_attempts_that_do_not_fit_are_refused(change, message):
    attempts, trained = a_world()
    with pytest.raises(InvalidFile, match=message):
        tune(change(attempts), trained, [1, 4], setup=SETUP)
