import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from difficulty import DifficultyModel, levels_of
from router.cli import main
from router.engines import read_engine
from router.errors import InvalidBundle, InvalidFile
from router.offline.attempts import write_attempts
from router.offline.evaluate import evaluate, save_evaluation, spend_to_match
from router.offline.train import Training, prompt_statistics, save_training, text_digest
from router.offline.tune import finish_bundle, save_tuning, tune

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


def make_bundle(folder, attempts, candidate="prompt_length", hidden=None):
    prompts = prompt_statistics(attempts, "pass_rate")
    texts = prompts["prompt"].tolist()
    features = hidden(texts) if hidden else texts
    model = DifficultyModel(candidate, edges=EDGES).fit(features, prompts["statistic"])
    prompts = prompts.assign(digest=prompts["prompt"].map(text_digest), level=levels_of(prompts["statistic"], EDGES))
    prompts[[f"p{level}" for level in RIGHT]] = model.predict_proba(features)
    training = Training("pass_rate", 0, EDGES, candidate, {}, prompts.drop(columns="prompt"))
    save_training(model, training, folder)
    (folder / "engine.json").write_text(json.dumps(ENGINE))
    save_tuning(tune(attempts, training, [1, 2, 4, 8], **PARAMETERS), folder)
    finish_bundle(folder, read_engine(folder))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"), world("train"))


@pytest.fixture(scope="module")
def report(bundle):
    return evaluate(world("held"), bundle)


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
    assert top["best_fixed_in_hindsight"]["accuracy"] >= top["best_fixed"]["accuracy"]


def test_headline_has_every_strategy_at_every_budget(report):
    for row in report["headline"]:
        for name in ("majority", "best_of_n", "weighted_best_of_n", "best_fixed", "predicted", "oracle"):
            assert row[name]["low"] <= row[name]["accuracy"] <= row[name]["high"]
            assert row[name]["generations"] <= row["budget"]


def test_fixed_arms_cost_what_was_measured(report):
    points = {point["budget"]: point for point in report["series"]["weighted_best_of_n"]}
    assert points[8]["flops"] == 2 * 100 * (10 + 80) + 2 * 10 * (10 + 40)
    assert points[1]["flops"] == 2 * 100 * (10 + 10)  # one sample needs no verifier
    assert report["series"]["beam_search(m=4)"][0]["flops"] == 2 * 100 * (10 + 40) + 2 * 10 * 5


def test_savings_compare_with_weighted_best_of_n_at_its_largest_budget(report):
    savings = report["savings_fixed_budget"]
    assert savings["target"]["arm"] == "weighted_best_of_n(n=8)"
    predicted = savings["predicted"]
    assert predicted["times_fewer_generations"] > 2
    low, high = predicted["generations_interval"]
    assert low <= predicted["times_fewer_generations"] <= high
    assert predicted["reached_in_resamples"] > 0.9


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(0.2, 1), (0.5, 1), (0.6, 2**0.5), (0.7, 2), (0.9, 4), (0.91, None)],
)
def test_spend_to_match_interpolates_on_a_log_scale(goal, expected):
    found = spend_to_match([1, 2, 4], [0.5, 0.7, 0.9], goal)
    assert found == (None if expected is None else pytest.approx(expected))


def test_accuracy_never_reached_is_null_with_a_reason(tmp_path):
    """In this world a verifier knows all, so weighted best-of-8 is out of reach for a policy tuned without scores."""
    unscored = world("train", beam=False).assign(scores=None)
    folder = make_bundle(tmp_path, unscored)
    held = world("held", beam=False)
    held["scores"] = [[0.9] if correct else [0.1] for correct in held["correct"]]
    predicted = evaluate(held, folder)["savings_fixed_budget"]["predicted"]
    assert predicted["times_fewer_generations"] is None
    assert "stays below" in predicted["reason"]


def test_an_arm_without_held_out_runs_is_reported_not_guessed(bundle):
    report = evaluate(world("held", beam=False), bundle)
    assert at(report, 8)["predicted"] is None
    assert at(report, 2)["predicted"]["accuracy"] > 0
    reasons = {(entry.get("series"), entry.get("budget")): entry["reason"] for entry in report["left_out"]}
    assert "beam_search(n=4, m=4)" in reasons["predicted", 8]


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
    assert "level 4  budget   8  beam_search(n=4, m=4)" in tuned.output
    seen = router("evaluate", attempts, "--bundle", folder, "--out", out)
    assert (seen.exit_code, "were trained on" in seen.stderr, out.exists()) == (2, True, False)
    evaluated = router("evaluate", held, "--bundle", folder, "--out", out, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout) == json.loads((out / "evaluation.json").read_text())
    assert (
        "predicted matches weighted_best_of_n(n=8)" in router("evaluate", held, "--bundle", folder, "--out", out).output
    )


def test_report_and_plots_are_written(report, tmp_path):
    written = save_evaluation(report, tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "accuracy_budget.png",
        "accuracy_flops.png",
        "accuracy_level.png",
        "evaluation.json",
        "figures.json",
    ]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == json.loads(json.dumps(report))
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size > 10_000
