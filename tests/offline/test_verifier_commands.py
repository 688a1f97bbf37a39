"""collect, score, judge and calibrate with the kinds of verifiers that ask a model or run tests."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts
from router.cli.main import main
from router.tasks.code import CodeTask

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
