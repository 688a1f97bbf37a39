"""collect, score, judge and calibrate with the kinds of verifiers that ask a model or run tests."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts, write_attempts
from router.backends.specs import VerifierSpec
from router.cli.main import main
from router.tasks.code import CodeTask
from router.tuning.evidence import measure
from strategies import Majority
from tests.support.evaluation import SETUP, with_runs, world

MODEL = {
    "model": "fake",
    "parameters": 1000,
    "template": {"delimiter": "\n"},
    "temperature": 0.8,
    "max_tokens": 512,
    "backend": "fake",
}


def bundle(folder: Path, task: object = "math", **verifier: object) -> Path:
    document = {"name": "x", "task": task, "reference": "small", "models": {"small": MODEL}, "verifier": verifier}
    (folder / "models.json").write_text(json.dumps(document))
    return folder


def prompts(folder: Path, *tasks: str | None) -> Path:
    rows = []
    for i, task in enumerate(tasks or (None,)):
        for n in range(20):
            expression = " + ".join(str(n + i + j) for j in range(4 + n % 4))
            rows.append({"prompt": f"{expression} =", "reference": str(eval(expression)), "task": task})
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("tasks", [(), ("math", "number")])
def test_a_judge_is_collected_with_scored_with_judged_and_calibrated(tmp_path, tasks):
    folder = bundle(tmp_path, list(tasks) or "math", kind="judge", model="small")
    collected, scored = tmp_path / "a.parquet", tmp_path / "b.parquet"
    said = run(
        "collect", "--prompts", prompts(tmp_path, *tasks), "--bundle", folder, "--attempts", 4, "--out", collected
    )
    assert "without an answer, pass rate" in said
    run("score", collected, "--bundle", folder, "--out", scored)
    before, after = read_attempts([collected]), read_attempts([scored])
    assert [list(each) for each in after["scores"]] == [list(each) for each in before["scores"]]
    assert (after["scored_tokens"] > 0).all()
    assert after["scored_tokens"].tolist() == before["scored_tokens"].tolist()
    assert "AUC 1.000, within prompts 1.000" in run("judge", scored)
    told = run("calibrate", scored, "--bundle", folder)
    assert told.count("of the task") == len(tasks)
    kept = json.loads((folder / "models.json").read_text())["verifier"]
    assert sorted(kept["by_task"]) == sorted(tasks)
    assert "{solution}" in kept["options"]["prompt"]


def test_no_verifier_scores_nothing(tmp_path):
    folder, out = bundle(tmp_path, kind="none"), tmp_path / "a.parquet"
    run("collect", "--prompts", prompts(tmp_path), "--bundle", folder, "--attempts", 2, "--arm", "single", "--out", out)
    assert read_attempts([out])["scores"].isna().all()
    said = run(
        "collect", "--prompts", prompts(tmp_path), "--bundle", folder, "--arm", "best_of_n(n=2)", "--out", out, code=2
    )
    assert "the bundle has no verifier" in said
    assert "name one to score with" in run("score", out, "--bundle", folder, "--out", tmp_path / "b.parquet", code=2)


def test_only_the_models_that_are_asked_are_loaded(tmp_path):
    folder, out = bundle(tmp_path, kind="none"), tmp_path / "a.parquet"
    document = json.loads((folder / "models.json").read_text())
    document["models"]["large"] = MODEL
    document["models"]["small"] = {**MODEL, "backend": "in_process", "model": "./nowhere"}
    (folder / "models.json").write_text(json.dumps(document))
    asked = ("collect", "--prompts", prompts(tmp_path), "--bundle", folder, "--out", out)
    run(*asked, "--attempts", 0, "--arm", "single(model=large)", "--pool", "large=2")
    assert read_attempts([out])["arm"].value_counts().to_dict() == {
        "sample(model=large)": 40,
        "single(model=large)": 20,
    }
    assert "nowhere" in run(*asked, "--attempts", 1, code=1)


def test_tests_are_run_only_where_code_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(CodeTask, "sandbox", None)
    folder = bundle(tmp_path, "code", kind="tests")
    said = run("collect", "--prompts", prompts(tmp_path), "--bundle", folder, "--out", tmp_path / "a.parquet", code=1)
    assert "start with --allow-code" in said


@pytest.mark.sandbox
def test_code_is_judged_by_hidden_tests_and_verified_by_public_ones(tmp_path, monkeypatch):
    """The scripted model writes no code, so all of it fails, and every row says so."""
    monkeypatch.setattr(CodeTask, "sandbox", None)
    folder, out = bundle(tmp_path, "code", kind="tests"), tmp_path / "a.parquet"
    row = {"prompt": "1 + 1", "reference": "assert f(1) == 2", "inputs": {"tests": ["assert f(2) == 3"]}}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    said = run(
        *("collect", "--prompts", tmp_path / "p.jsonl", "--bundle", folder, "--attempts", 2, "--allow-code"),
        *("--out", out),
    )
    assert "100.0% without an answer, pass rate 0.000" in said
    frame = read_attempts([out])
    assert {score for each in frame["scores"] for score in each} == {0.0}
    assert frame["answer"].isna().all()
    assert not frame["correct"].any()


def test_solutions_that_stand_alone_are_scored_whichever_model_wrote_them(tmp_path):
    """What a search chose is left out: its scores are those that it chose by."""
    folder, out = bundle(tmp_path, kind="judge", model="small"), tmp_path / "b.parquet"
    frame = world("x", 2)
    frame = with_runs(with_runs(frame, "single(model=large)"), "sample(model=large)")
    write_attempts(frame.assign(text="Answer: 1", scores=None), tmp_path / "a.parquet")
    run("score", tmp_path / "a.parquet", "--bundle", folder, "--out", out)
    scored = read_attempts([out])
    assert set(scored["arm"]) == {"sample", "single(model=large)", "sample(model=large)"}
    assert scored["scores"].notna().all()


def test_arms_by_score_go_by_votes_where_tests_have_nothing_to_run():
    """Half of the prompts have tests. Of the others no solution is scored, and cascades are replayed all the same."""
    setup = replace(SETUP, verifier=VerifierSpec("tests", None, 0))
    frame = world("x", 6, beam=False)
    tested = frame["prompt_id"].str.endswith(("-0", "-1", "-2"))
    frame["inputs"] = [json.dumps({"tests": ["assert f(1) == 2"]}) if has else None for has in tested]
    frame["scores"] = [
        [0.9 if right else 0.1] if has else None for right, has in zip(frame["correct"], tested, strict=True)
    ]
    measured = measure(frame, pd.Index(frame["prompt_id"].unique()), [1, 4], setup)
    arms = [str(arm) for arm in measured.arms]
    best, votes = (measured.accuracy[:, arms.index(f"{name}(n=4)")] for name in ("best_of_n", "majority"))
    untested = ~measured.prompts.str.endswith(("-0", "-1", "-2"))
    assert best[untested].tolist() == votes[untested].tolist()
    assert best[~untested].mean() > votes[~untested].mean() + 0.1
    assert measured.replays.gives_confidence(Majority(n=4))


def test_a_verifier_that_scored_some_solutions_of_a_prompt_only_ends_no_cascade():
    frame = world("x", 6, beam=False)
    frame.loc[frame["sample"] == 1, "scores"] = None
    measured = measure(frame, pd.Index(frame["prompt_id"].unique()), [1, 4], SETUP)
    assert not measured.replays.gives_confidence(Majority(n=1))
