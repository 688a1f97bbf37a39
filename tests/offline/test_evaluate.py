import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from router.bundle.models import read_engine
from typer.testing import CliRunner

from difficulty import DifficultyModel, levels_of
from router.attempts.schema import write_attempts
from router.cli.main import main
from router.errors import InvalidBundle, InvalidFile
from router.evaluation.curves import spend_to_match
from router.evaluation.evaluate import evaluate
from router.evaluation.page import save_evaluation
from router.policy.objectives import TargetAccuracy
from router.training.difficulty import Training, prompt_statistics, save_training, text_digest
from router.tuning.tune import finish_bundle, save_tuning, tune

EDGES = (0.9, 0.7, 0.45, 0.1)
PARAMETERS = {"generator_parameters": 100, "verifier_parameters": 10}
ENGINE = {
    "name": "tiny",
    "generator": {
        "model": "tiny",
        "adapter": None,
        "parameters": 100,
        "template": {"prompt": "{prompt}", "retry": "", "delimiter": "\n"},
        "temperature": 0.8,
        "max_tokens": 64,
    },
    "verifier": {"kind": "log_prob", "adapter": None, "parameters": 10},
}
RIGHT = {1: 8, 2: 6, 3: 4, 4: 2, 5: 0}  # of 8 attempts


def world(prefix, prompts_a_level=12, beam=True):
    """Levels 1 and 2 are solved by voting, 3 and 4 by beam search only, 5 by nothing. Length gives the level away."""
    rows = []
    for level, right in RIGHT.items():
        for i in range(prompts_a_level):
            base = {
                "prompt_id": f"{prefix}-{level}-{i}",
                "prompt": f"{prefix}{i} " + "word " * 3**level,
                "reference": "1",
                "text": "",
                "prompt_tokens": 10,
                "scored_tokens": 5,
            }
            for sample in range(8):
                correct = sample < right
                answer = "1" if correct else "2"
                score = 0.5 if level < 3 else 0.9 - 0.8 * correct  # a verifier that is fooled on the hard ones
                rows.append(
                    {**base, "sample": sample, "answer": answer, "correct": correct, "scores": [score]}
                    | {"generated_tokens": 10, "arm": "sample"}
                )
            if beam:
                correct = level in (3, 4)
                rows.append(
                    {**base, "sample": 0, "answer": "1", "correct": correct, "scores": [0.5]}
                    | {"generated_tokens": 40, "arm": "beam_search(n=4, m=4)"}
                )
    return pd.DataFrame(rows).astype({"correct": "boolean"})


def make_bundle(folder, attempts, candidate="prompt_length", hidden=None, engine=ENGINE):
    prompts = prompt_statistics(attempts, "pass_rate")
    texts = prompts["prompt"].tolist()
    features = hidden(texts) if hidden else texts
    model = DifficultyModel(candidate, edges=EDGES).fit(features, prompts["statistic"])
    prompts = prompts.assign(digest=prompts["prompt"].map(text_digest), level=levels_of(prompts["statistic"], EDGES))
    prompts[[f"p{level}" for level in RIGHT]] = model.predict_proba(features)
    training = Training("pass_rate", 0, EDGES, candidate, {}, prompts.drop(columns="prompt"))
    save_training(model, training, folder)
    (folder / "engine.json").write_text(json.dumps(engine))
    larger = engine.get("larger", {"parameters": 0})["parameters"]
    save_tuning(tune(attempts, training, [1, 2, 4, 8], larger_parameters=larger, **PARAMETERS), folder)
    finish_bundle(folder, read_engine(folder))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"), world("train"))


@pytest.fixture(scope="module")
def report(bundle):
    return evaluate(world("held"), bundle, objectives=[TargetAccuracy(0.65)])


def at(report, budget):
    return next(row for row in report["headline"] if row["budget"] == budget)


def test_levels_are_predicted_and_the_policy_uses_them(report):
    assert report["levels"]["oracle"] == [12] * 5
    assert report["difficulty"]["accuracy"] > 0.9
    top = at(report, 8)
    # Voting solves levels 1 and 2 and a part of 3, beam search 3 and 4; the policy gets all four.
    assert top["predicted"]["accuracy"] == pytest.approx(0.8, abs=0.02)
    assert top["oracle"]["accuracy"] == pytest.approx(0.8, abs=0.02)
    assert top["best_fixed"]["accuracy"] < 0.6
    assert top["predicted_minus_best_fixed"]["low"] > 0.1


def test_headline_has_every_strategy_at_every_budget(report):
    for row in report["headline"]:
        for name in ("majority", "best_of_n", "weighted_best_of_n", "best_fixed", "predicted", "oracle"):
            assert row[name]["low"] <= row[name]["accuracy"] <= row[name]["high"]
            assert row[name]["generations"] <= row["budget"] + 1e-9


def test_fixed_arms_cost_what_was_measured(report):
    points = {point["budget"]: point for point in report["curves"]["weighted_best_of_n"]}
    assert points[8]["flops"] == 2 * 100 * (10 + 80) + 2 * 10 * (10 + 40)
    assert points[1]["flops"] == 2 * 100 * (10 + 10)  # one sample needs no verifier
    assert report["curves"]["beam_search(m=4)"][0]["flops"] == 2 * 100 * (10 + 40) + 2 * 10 * 5


def test_savings_compare_with_the_reference_at_its_best_budget(report):
    for field in ("savings_fixed_budget", "savings_average_budget", "savings_oracle"):
        saved = report[field]
        best = max(report["curves"]["weighted_best_of_n"], key=lambda point: point["accuracy"])
        assert saved["target"]["accuracy"] == best["accuracy"]
        assert saved["majority"]["target"]["arm"].startswith("majority")
        for unit in ("generations", "flops"):
            assert 0 <= saved[unit]["low"] <= saved[unit]["times"] <= saved[unit]["high"]
    assert report["savings_fixed_budget"]["generations"]["reached"] > 0.9
    assert [row["budget"] for row in report["savings_oracle"]["by_budget"]] == [1, 2, 4, 8]


def test_an_average_budget_saves_more_than_a_fixed_one(report):
    """Levels 1 and 5 need one sample, so the others can have more on average."""
    averages = {point["budget"]: point["accuracy"] for point in report["curves"]["predicted_average"]}
    fixed = {point["budget"]: point["accuracy"] for point in report["curves"]["predicted"]}
    assert averages[2] > fixed[2] + 0.1
    for point in report["curves"]["predicted_average"]:
        assert point["generations"] <= max(1.0, point["budget"]) * 1.15


def test_the_gain_kept_is_a_ratio_of_gains(report):
    kept = report["gain_kept"]["weighted_best_of_n"]
    assert kept["value"] == pytest.approx(kept["predicted"]["accuracy"] / kept["oracle"]["accuracy"], abs=0.01)
    assert kept["low"] <= kept["value"] <= kept["high"]


def test_every_objective_is_measured_and_a_target_says_where_it_has_evidence(report):
    asked = {tuple(*row["objective"].items()): row for row in report["objectives"]}
    row = asked["target_accuracy", 0.65]
    assert row["sufficient"] == pytest.approx(0.8, abs=0.05)  # nothing solves level 5
    assert row["where_sufficient"]["accuracy"] > 0.65
    prices = [row for (kind, _), row in asked.items() if kind == "price_per_flop"]
    assert [row["flops"] for row in prices] == sorted((row["flops"] for row in prices), reverse=True)


def test_limits_name_the_goal_the_limit_and_its_measurement(report):
    limits = report["limits"]
    missed = [goal["goal"] for goal in limits["goals"] if not goal["met"]]
    assert missed == [reading["goal"] for reading in limits["missed"]]
    assert {reading["limit"] for reading in limits["missed"]} <= {"estimator", "verifier", "generator", "policy"}
    gaps = limits["gaps_at_largest_budget"]
    assert gaps["never_sampled"] == pytest.approx(0.2)
    assert gaps["verifier"]["accuracy"] == pytest.approx(0.8 - 0.4, abs=0.05)  # it is fooled on levels 3 and 4
    assert gaps["estimator"]["accuracy"] == pytest.approx(0, abs=0.02)


def test_levels_that_mislead_are_the_estimators_fault(bundle, tmp_path):
    """The same bundle on prompts whose length tells the opposite of their difficulty."""
    held = world("held")
    swapped = held["prompt_id"].str.extract(r"-(\d)-")[0].astype(int)
    held["prompt"] = [
        f"held{i} " + "word " * 3 ** (6 - level) for i, level in zip(held["prompt_id"], swapped, strict=True)
    ]
    limits = evaluate(held, bundle)["limits"]
    assert limits["gaps_at_largest_budget"]["estimator"]["low"] > 0.1
    assert "estimator" in {reading["limit"] for reading in limits["missed"]}


def test_revisions_are_shown_from_sequential_to_parallel(tmp_path):
    def revised(prefix):
        frame = world(prefix)
        first = frame[frame["arm"] == "beam_search(n=4, m=4)"]
        arms = [first.assign(arm=f"revision(n=8, chains={chains})", generated_tokens=80) for chains in (1, 2)]
        arms.append(first.assign(arm="revision(n=16, chains=4)", generated_tokens=160))
        return pd.concat([frame, *arms], ignore_index=True)

    report = evaluate(revised("held"), make_bundle(tmp_path, revised("train")))
    assert [(row["chains"], row["arm"]) for row in report["revision"] if row["level"] == 3] == [
        (1, "revision(n=8, chains=1)"),
        (2, "revision(n=8, chains=2)"),
        (8, "weighted_best_of_n(n=8)"),
    ]
    (_, html) = save_evaluation(report, tmp_path / "out")
    assert "parallel chains" in html.read_text()


def test_thinking_longer_is_compared_with_a_larger_model_at_equal_flops(tmp_path):
    def with_larger(prefix):
        """A model 4 times the size that knows everything but the hardest."""
        frame = world(prefix)
        first = frame[frame["arm"] == "beam_search(n=4, m=4)"]
        known = ~first["prompt_id"].str.contains("-5-")
        larger = first.assign(
            arm="larger_model(n=4)", correct=known.astype("boolean"), generated_tokens=10, scored_tokens=0
        )
        return pd.concat([frame, larger], ignore_index=True)

    with pytest.raises(InvalidFile, match="must describe that model as larger"):
        make_bundle(tmp_path, with_larger("train"))
    engine = ENGINE | {"larger": ENGINE["generator"] | {"parameters": 400}}
    report = evaluate(with_larger("held"), make_bundle(tmp_path, with_larger("train"), engine=engine))
    larger = report["larger"]
    assert (larger["arm"], larger["times"]) == ("larger_model(n=4)", 4)
    assert larger["flops"] == 4  # one solution of as many tokens, at four times the parameters
    assert [row["allowed"] for row in larger["ratios"]] == [60.2, 15.4, 4.4]  # 4 + 3 * 3 / R
    groups = {row["group"]: row for row in larger["ratios"][0]["groups"]}
    assert {name: row["prompts"] for name, row in groups.items()} == {
        "all": 60,
        **{f"level {level}": 12 for level in RIGHT},
        "pass rate 0.1 to 0.6": 24,
    }
    assert groups["all"]["larger"]["accuracy"] == pytest.approx(0.8)
    assert groups["level 5"]["larger"]["accuracy"] == 0
    # The policy may serve the larger model, which costs four solutions; the comparison is without it.
    fixed = {point["budget"]: point for point in report["curves"]["larger_model"]}
    assert fixed[4]["generations"] == pytest.approx(4, rel=0.1)
    assert all(row["spent"] <= 8 for row in larger["ratios"])
    (_, html) = save_evaluation(report, tmp_path / "out")
    assert "Thinking longer or a larger model" in html.read_text()


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(0.2, 1), (0.5, 1), (0.6, 2**0.5), (0.7, 2), (0.9, 4), (0.91, None)],
)
def test_spend_to_match_interpolates_on_a_log_scale(goal, expected):
    found = spend_to_match([1, 2, 4], [0.5, 0.7, 0.9], goal)
    assert found == (None if expected is None else pytest.approx(expected))


def test_accuracy_never_reached_is_a_saving_of_nothing_with_a_reason(tmp_path):
    """In this world a verifier knows all, so weighted best-of-8 is out of reach for a policy tuned without scores."""
    unscored = world("train", beam=False).assign(scores=None)
    folder = make_bundle(tmp_path, unscored)
    held = world("held", beam=False)
    held["scores"] = [[0.9] if correct else [0.1] for correct in held["correct"]]
    saved = evaluate(held, folder)["savings_fixed_budget"]
    assert saved["generations"] == {"times": 0, "low": 0, "high": 0, "reached": 0}
    assert "stays below" in saved["reason"]


def test_an_arm_without_held_out_runs_is_reported_not_guessed(bundle):
    report = evaluate(world("held", beam=False), bundle)
    assert at(report, 8)["predicted"] is None
    assert at(report, 2)["predicted"]["accuracy"] > 0
    reasons = {(entry.get("policy"), entry.get("objective")): entry["reason"] for entry in report["left_out"]}
    assert "beam_search(n=4, m=4)" in reasons["predicted", "budget=8"]
    assert "not measured" in save_page(report)


def save_page(report):
    from router.evaluation.page import page

    return page(report)


def test_training_prompts_are_refused_also_under_another_id(bundle):
    with pytest.raises(InvalidFile, match="60 of the 60 prompts were trained on"):
        evaluate(world("train"), bundle)
    renamed = world("train").assign(prompt_id=lambda frame: "new-" + frame["prompt_id"])
    with pytest.raises(InvalidFile, match="60 of the 60 prompts were trained on"):
        evaluate(renamed, bundle)


def test_runs_without_a_pool_are_refused(bundle):
    held = world("held")
    with pytest.raises(InvalidFile, match=r"1 prompts have runs of arms but no independent attempts.*'held-1-0'"):
        evaluate(held[(held["prompt_id"] != "held-1-0") | (held["arm"] != "sample")], bundle)


def test_a_hidden_state_model_needs_the_generator_and_pays_for_it(tmp_path):
    def hidden(prompts):
        return np.log([[float(len(prompt)), 1.0 + len(prompt)] for prompt in prompts])

    folder = make_bundle(tmp_path, world("train"), "hidden_logistic", hidden)
    with pytest.raises(InvalidBundle, match="hidden states"):
        evaluate(world("held"), folder)
    row = at(evaluate(world("held"), folder, hidden), 1)
    assert row["predicted"]["flops"] - row["best_fixed"]["flops"] == 2 * 100 * 10


def test_an_untuned_folder_is_refused(tmp_path):
    with pytest.raises(InvalidBundle, match="is no bundle"):
        evaluate(world("held"), tmp_path)


def test_the_commands_go_from_attempts_to_plots(tmp_path):
    folder, out = tmp_path / "bundle", tmp_path / "out"
    folder.mkdir()
    (folder / "engine.json").write_text(json.dumps(ENGINE))
    for name in ("train", "held"):
        write_attempts(world(name), tmp_path / f"{name}.parquet")
    attempts, held = str(tmp_path / "train.parquet"), str(tmp_path / "held.parquet")

    def router(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)))

    early = router("tune", attempts, "--bundle", folder)
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
    shown = router("evaluate", held, "--bundle", folder, "--out", out, "--objective", "target_accuracy=0.55")
    assert re.search(r"savings_fixed_budget: \w+\(n=\d\) with [\d.]+ \[", shown.output)
    assert "gain_kept" in (folder / "card.md").read_text()
    asked = json.loads((out / "evaluation.json").read_text())["objectives"]
    assert asked[-1]["objective"] == {"target_accuracy": 0.55}


def test_the_page_needs_nothing_else(report, tmp_path):
    data, html = save_evaluation(report, tmp_path / "out")
    assert json.loads(data.read_text()) == json.loads(json.dumps(report))
    text = html.read_text()
    assert text.count("<svg") == 4
    ET.fromstring(re.sub(r"<!doctype html>|&\w+;|<meta [^>]*>|<br>", "", text))  # every tag is closed
    for reference in re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^")\s]+)', text):
        assert reference.startswith("#"), reference
    for name in ("savings_fixed_budget", "best_fixed", "log-loss", "beam_search(m=4)"):
        assert name.replace("_", " ") in text or name in text
