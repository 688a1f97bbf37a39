"""What an evaluation measures, in a world where everything is known."""

import json
import re

import pytest
from typer.testing import CliRunner

from router.attempts.schema import write_attempts
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidBundle, InvalidFile
from router.evaluation.card import card
from router.evaluation.curves import spend_to_match
from router.evaluation.evaluate import evaluate
from router.evaluation.goals import Value, bins_off, value_of
from router.evaluation.parts import HEADLINE
from router.evaluation.report import Goal, Report
from router.evaluation.words import interval
from router.policy.objectives import TargetAccuracy
from tests.support.evaluation import RIGHT, SETUP, lengths, make_bundle, rich_world, world


@pytest.fixture(scope="module")
def bundle(plain_bundle):
    return plain_bundle


@pytest.fixture(scope="module")
def report(bundle):
    return evaluate(world("held"), bundle, objectives=[TargetAccuracy(0.65)])


def at(report, budget):
    return next(row for row in report.budgets if row.budget == budget)


def test_levels_are_predicted_and_the_policy_uses_them(report):
    assert report.levels.oracle == (12,) * 5
    assert report.difficulty.accuracy > 0.9
    top = at(report, 8)
    # Voting solves levels 1 and 2 and a part of 3, beam search 3 and 4; the policy gets all four.
    assert top.predicted.accuracy == pytest.approx(0.8, abs=0.02)
    assert top.oracle.accuracy == pytest.approx(0.8, abs=0.02)
    assert top.best_fixed.accuracy < 0.6
    assert top.predicted_minus_best_fixed.low > 0.1


def test_every_strategy_is_measured_at_every_budget(report):
    for row in report.budgets:
        for name in ("majority", "best_of_n", "weighted_best_of_n", "best_fixed", "predicted", "oracle"):
            point = getattr(row, name)
            assert point.low <= point.accuracy <= point.high
            assert point.generations <= row.budget + 1e-9


def test_fixed_arms_cost_what_was_measured(report):
    points = {point.budget: point for point in report.curves["weighted_best_of_n"]}
    assert points[8].flops == 2 * 100 * (10 + 80) + 2 * 10 * (10 + 40)
    assert points[1].flops == 2 * 100 * (10 + 10)  # one sample needs no verifier
    assert report.curves["beam_search(m=4)"][0].flops == 2 * 100 * (10 + 40) + 2 * 10 * 5


def test_savings_compare_with_the_reference_at_its_best_budget(report):
    for by_reference in report.savings.values():
        saved = by_reference["weighted_best_of_n"]
        best = max(report.curves["weighted_best_of_n"], key=lambda point: point.accuracy)
        assert saved.target.accuracy == best.accuracy
        assert by_reference["majority"].arm.startswith("majority")
        for times in (saved.generations, saved.flops):
            assert 0 <= times.low <= times.times <= times.high
    assert report.savings["predicted"]["weighted_best_of_n"].generations.reached > 0.9
    assert [row.budget for row in report.savings["oracle"]["weighted_best_of_n"].by_budget] == [1, 2, 4, 8]


def test_an_average_budget_saves_more_than_a_fixed_one(report):
    """Levels 1 and 5 need one sample, so the others can have more on average."""
    averages = {point.budget: point.accuracy for point in report.curves["predicted_average"]}
    fixed = {point.budget: point.accuracy for point in report.curves["predicted"]}
    assert averages[2] > fixed[2] + 0.1
    for point in report.curves["predicted_average"]:
        assert point.generations <= max(1.0, point.budget) * 1.15


def test_average_budgets_are_also_measured_as_a_server_keeps_them(report):
    rows = [row for row in report.averages if row.budget == 2]  # at 4 more does not help
    assert rows
    errors = report.headline["average_budget_error_kept"]
    for row in rows:
        assert row.kept.generations == pytest.approx(row.budget, rel=0.05)
        assert errors[f"{row.budget:g}"] == pytest.approx(row.kept.generations / row.budget - 1, abs=1e-3)


def test_the_gap_recovered_is_a_ratio_of_gains(report):
    found = report.gap_recovered["weighted_best_of_n"]
    assert found.value == pytest.approx(found.predicted.value / found.oracle.value, abs=0.01)
    assert found.low <= found.value <= found.high


def test_every_objective_is_measured_and_a_target_says_where_it_has_evidence(report):
    asked = {(row.kind, row.value): row for row in report.objectives}
    row = asked["target_accuracy", 0.65]
    assert row.sufficient == pytest.approx(0.8, abs=0.05)  # nothing solves level 5
    assert row.where_sufficient.value > 0.65
    spent = [row.measured.flops for (kind, _), row in asked.items() if kind == "price_per_flop"]
    assert spent == sorted(spent, reverse=True)


def test_a_target_says_how_many_answers_are_let_through_and_how_right_these_are(report, bundle):
    rows = [row for row in report.objectives if row.kind == "target_accuracy"]
    assert all(row.answered is None and row.where_answered is None for row in report.objectives if row not in rows)
    for row in rows:
        found = row.where_answered
        assert found.low <= found.value <= found.high if row.answered else found is None
    (middle,) = (row for row in rows if row.value == 0.6)
    assert 0.3 < middle.answered < 0.8  # nothing solves level 5
    assert middle.where_answered.value > middle.measured.accuracy
    (most,) = (row for row in rows if row.value == 0.95)
    assert most.answered == 0  # no confidence is as high
    text = card(bundle, report)
    assert f"| 0.6 | {interval(middle.measured)} | {middle.answered:.0%} | {interval(middle.where_answered)} |" in text
    assert f"| 0.95 | {interval(most.measured)} | 0% | none |" in text


def test_the_diagnosis_names_the_part_that_loses_most(report):
    found = report.diagnosis
    assert found.never_sampled == pytest.approx(0.2)
    assert found.verifier.value == pytest.approx(0.8 - 0.4, abs=0.05)  # it is fooled on levels 3 and 4
    assert found.estimator.value == pytest.approx(0, abs=0.02)
    assert (found.limit, found.runner_up) == ("verifier", "generator")
    assert found.margin.value == pytest.approx(found.verifier.value - found.generator.value, abs=1e-3)
    assert report.goals is None


def test_levels_that_mislead_are_the_estimators_fault(bundle):
    """The same bundle on prompts whose length tells the opposite of their difficulty."""
    held = world("held")
    swapped = held["prompt_id"].str.extract(r"-(\d)-")[0].astype(int)
    held["prompt"] = [
        f"held{i} " + "word " * 3 ** (6 - level) for i, level in zip(held["prompt_id"], swapped, strict=True)
    ]
    assert evaluate(held, bundle).diagnosis.estimator.low > 0.1


def test_revisions_are_shown_from_sequential_to_parallel(rich_report):
    assert [(row.chains, row.arm) for row in rich_report.revisions if row.level == 3] == [
        (1, "revision(n=8, chains=1)"),
        (2, "revision(n=8, chains=2)"),
        (8, "weighted_best_of_n(n=8)"),
    ]


def test_a_model_that_the_bundle_does_not_describe_is_refused(tmp_path):
    with pytest.raises(InvalidFile, match="must describe the model 'large'"):
        make_bundle(tmp_path, rich_world("train", 20))


def test_more_work_is_compared_with_a_larger_model_at_equal_flops(rich_report):
    larger = rich_report.larger
    assert (larger.model, larger.arm, larger.size_ratio) == ("large", "single(model=large)", 4)
    assert larger.flops_ratio == 4  # one solution of as many tokens, at four times the parameters
    assert [row.allowed for row in larger.comparisons] == [60.2, 15.4, 4.4]  # 4 + 3 * 3 / R
    groups = {row.group: row for row in larger.comparisons[0].groups}
    assert {name: row.prompts for name, row in groups.items()} == {
        "all": 60,
        **{f"level {level}": 12 for level in RIGHT},
        "pass rate 0.1 to 0.6": 24,
    }
    assert groups["all"].larger.value == pytest.approx(0.8)
    assert groups["level 5"].larger.value == 0
    # The policy may serve the larger model, which costs four solutions; the comparison is without it.
    (point,) = rich_report.curves["single(model=large)"]
    assert (point.budget, point.generations) == (4, pytest.approx(4, rel=0.1))
    assert all(row.spent <= 8 for row in larger.comparisons)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(0.2, 1), (0.5, 1), (0.6, 1.5), (0.7, 2), (0.9, 4), (0.91, None)],
)
def test_spend_to_match_is_that_of_a_mix_of_two_points(goal, expected):
    found = spend_to_match([1, 2, 4], [0.5, 0.7, 0.9], goal)
    assert found == (None if expected is None else pytest.approx(expected))


def test_accuracy_never_reached_is_a_saving_of_nothing_with_a_reason(tmp_path):
    """In this world a verifier knows all, so weighted best-of-8 is out of reach for a policy tuned without scores."""
    unscored = world("train", beam=False).assign(scores=None)
    folder = make_bundle(tmp_path, unscored)
    held = world("held", beam=False)
    held["scores"] = [[0.9] if correct else [0.1] for correct in held["correct"]]
    saved = evaluate(held, folder).savings["predicted"]["weighted_best_of_n"]
    times = saved.generations
    assert (times.times, times.low, times.high, times.reached) == (0, 0, 0, 0)
    assert "stays below" in (saved.reason or "")


def test_an_arm_without_held_out_runs_is_reported_not_guessed(bundle):
    report = evaluate(world("held", beam=False), bundle)
    assert at(report, 8).predicted is None
    assert at(report, 2).predicted.accuracy > 0
    reasons = {entry.what: entry.reason for entry in report.left_out}
    assert "beam_search(n=4, m=4)" in reasons["policy, budget=8"]


def test_training_prompts_are_refused_whatever_their_id(bundle):
    with pytest.raises(InvalidFile, match="100 of the 100 prompts were trained on"):
        evaluate(world("train", 20), bundle)
    renamed = world("train", 20).assign(prompt_id=lambda frame: "new-" + frame["prompt_id"])
    with pytest.raises(InvalidFile, match="100 of the 100 prompts were trained on"):
        evaluate(renamed, bundle)


def test_another_prompt_under_a_training_prompts_id_is_held_out(bundle):
    reused = world("held").assign(prompt_id=lambda frame: frame["prompt_id"].str.replace("held", "train"))
    assert evaluate(reused, bundle).prompts == 60


def test_runs_without_a_pool_are_refused(bundle):
    held = world("held")
    with pytest.raises(InvalidFile, match=r"1 prompts have runs of arms but no independent attempts.*'held-1-0'"):
        evaluate(held[(held["prompt_id"] != "held-1-0") | (held["arm"] != "sample")], bundle)


@pytest.mark.long
def test_a_hidden_state_model_needs_the_generator_and_pays_for_it(tmp_path):
    folder = make_bundle(tmp_path, world("train", 20), "hidden_logistic", lengths)
    with pytest.raises(InvalidBundle, match="'hidden' features"):
        evaluate(world("held"), folder)
    row = at(evaluate(world("held"), folder, lengths), 1)
    assert row.predicted.flops - row.best_fixed.flops == 2 * 100 * 10


def test_an_untuned_folder_is_refused(tmp_path):
    with pytest.raises(InvalidBundle, match="is no bundle"):
        evaluate(world("held"), tmp_path)


def test_what_can_not_be_measured_is_null_with_a_reason(report):
    found = json.loads(report.to_json())
    assert found["accuracy_at_larger_cost"] is None
    assert found["reasons"]["accuracy_at_larger_cost"] == "no larger model was run"
    assert found["gain_over_best_fixed"] is None  # the policy has no use for as much as 8
    assert "8, 16, 32: no policy spends as much" in found["reasons"]["gain_over_best_fixed"]
    assert found["savings_average_budget"]["value"] > 0
    assert Report.from_json(report.to_json()) == report


def test_the_policy_stands_beside_plainer_ways_at_average_budgets(report):
    (row,) = (row for row in report.averages if row.budget == 2)
    assert set(row.ways) >= {"best_fixed_arm", "random_mix", "shuffled_levels"}
    assert row.ways["shuffled_levels"].point.generations == pytest.approx(row.policy.generations, abs=0.1)
    assert row.gains["shuffled_levels"].value > 0.1  # in this world the level says what to run
    assert row.gains["best_fixed_arm"].value > 0.1
    assert report.trust is not None
    assert sum(each.count for each in report.trust.bins) == report.trust.answers


def test_what_is_compared_spends_the_same(rich_report):
    for row in rich_report.averages:
        assert row.policy.generations == pytest.approx(row.budget) or row.budget > row.asked.generations
        spent = row.ways["shuffled_levels"].point.generations
        assert spent == pytest.approx(row.policy.generations, rel=0.02)
    row = next(row for row in rich_report.averages if row.budget == 4)  # what one solution of the larger model costs
    assert rich_report.headline["accuracy_at_larger_cost"]["value"] == pytest.approx(row.policy.accuracy)


def test_goals_are_for_any_figure(rich_report):
    results = {each.goal.measure: each for each in rich_report.goals}
    missed = results["accuracy_at_larger_cost"]
    assert (missed.met, missed.limited_by) == (False, "generator")  # nothing is right on more than all prompts
    assert re.search(r"2\.000 is wanted at \d+ generations; the policy has 0\.\d+; on measured", missed.because)
    assert missed.value == rich_report.headline["accuracy_at_larger_cost"]["value"]
    assert results["below_best_fixed"].value == len(rich_report.headline["below_best_fixed"])
    assert results["confidence_error"].met
    off = results["confidence_bins_off"]
    assert (off.value, off.limited_by) == (len(bins_off(rich_report.trust)), "verifier")
    assert "by chance; of" in off.because
    gains = {"8": {"value": 0.1, "low": 0.0, "high": 0.2}, "16": {"value": 0.3, "low": 0.2, "high": 0.4}, "32": None}
    assert value_of(Goal("gain_over_best_fixed"), gains) == Value(0.2)
    assert value_of(Goal("gain_over_best_fixed", budget=8), gains) == Value(0.1, 0.0, 0.2)
    assert value_of(Goal("gain_over_best_fixed", budget=32), gains) == value_of(Goal("apgr"), None) == Value()
    assert value_of(Goal("cost_of_larger_accuracy"), 0.7) == Value(0.7)


@pytest.mark.long
def test_the_commands_go_from_attempts_to_plots(tmp_path, monkeypatch):
    monkeypatch.setattr("router.training.difficulty.CANDIDATES", ("prior", "prompt_length"))  # enough to choose from
    folder, out = tmp_path / "bundle", tmp_path / "out"
    folder.mkdir()
    write_setup(SETUP, folder)
    for name, prompts in (("train", 20), ("held", 12)):
        write_attempts(world(name, prompts), tmp_path / f"{name}.parquet")
    attempts, held = str(tmp_path / "train.parquet"), str(tmp_path / "held.parquet")

    def router(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)))

    early = router("tune", attempts, "--bundle", folder, "--no-cascades")
    assert (early.exit_code, "run `router train`" in early.stderr) == (1, True)
    trained = router("train", attempts, "--bundle", folder, "--features", "text")
    assert trained.exit_code == 0, trained.output
    assert trained.output.count("← chosen") == 1
    assert router("tune", attempts, "--bundle", folder, "--budgets", "1,x").exit_code == 2
    tuned = router("tune", attempts, "--bundle", folder, "--budgets", "1,2,4,8")
    assert tuned.exit_code == 0, tuned.output
    assert re.search(r"level 4: .*beam_search\(n=4, m=4\)", tuned.output)
    assert tuned.output.count("← chosen") == 1
    assert router("tune", attempts, "--bundle", folder, "--overwrite", "--default", "colour=1").exit_code == 2
    seen = router("evaluate", attempts, "--bundle", folder, "--out", out)
    assert (seen.exit_code, "were trained on" in seen.stderr, out.exists()) == (2, True, False)
    evaluated = router("evaluate", held, "--bundle", folder, "--out", out, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout.splitlines()[-1]) == json.loads((out / "evaluation.json").read_text())
    assert set(HEADLINE) <= set(json.loads((out / "evaluation.json").read_text()))
    goals = tmp_path / "goals.json"
    goals.write_text('[{"measure": "savings_fixed_budget", "at_least": 100}]')
    shown = router(
        "evaluate", held, "--bundle", folder, "--out", out, "--goals", goals, "--objective", "target_accuracy=0.55"
    )
    assert shown.exit_code == 0, shown.output
    assert "clearly more accurate than the best fixed arm or cascade" in shown.output
    assert re.search(r"fixed budget: missed, [\d.]+, limited by the \w+: on measured levels it would be", shown.output)
    assert "**missed**" in (folder / "card.md").read_text()
    asked = json.loads((out / "evaluation.json").read_text())["objectives"]
    assert (asked[-1]["kind"], asked[-1]["value"]) == ("target_accuracy", 0.55)
