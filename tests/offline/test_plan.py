"""`router plan`: one budget over a file of prompts, and what `router train` leaves beside the difficulty model."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli.main import main

HELDOUT = Path("models/smollm2-135m/recipe/data/heldout.jsonl")
STRANGE = "What is the capital of France?"


def plan(prompts: Path, out: Path, *options: str):
    arguments = ["plan", str(prompts), "--bundle", "models/smollm2-135m", "--out", str(out), *options]
    return CliRunner().invoke(main, arguments)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_gets_an_arm_and_all_of_them_the_budget(tmp_path):
    result = plan(HELDOUT, tmp_path / "out.jsonl", "--budget", "2000")
    assert result.exit_code == 0, result.output
    decided = rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in decided] == [row["id"] for row in rows(HELDOUT)]
    spent = sum(row["generations"] for row in decided)
    assert 1990 < spent <= 2000 + 1e-6
    assert len(Counter(row["arm"] for row in decided)) > 1
    assert f"250 prompts, expected to spend {spent:.6g} of 2000 generations" in result.output


def test_more_budget_buys_more_accuracy(tmp_path):
    means = []
    for budget in (300, 1000, 4000):
        plan(HELDOUT, tmp_path / "out.jsonl", "--budget", str(budget))
        decided = rows(tmp_path / "out.jsonl")
        means.append(sum(row["accuracy"] for row in decided) / len(decided))
    assert means[0] < means[1] < means[2]


def test_without_a_file_the_decisions_alone_are_on_standard_output(tmp_path):
    arguments = ["plan", str(HELDOUT), "--bundle", "models/smollm2-135m", "--budget", "2000"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    plan(HELDOUT, tmp_path / "out.jsonl", "--budget", "2000")
    assert result.stdout == (tmp_path / "out.jsonl").read_text()
    assert "250 prompts, expected to spend" in result.stderr
    assert "wrote" not in result.stderr


def test_it_plans_tasks_that_run_code_without_leave_to_run_any(tmp_path):
    prompts = Path("models/natural/recipe/data/mbpp-heldout.jsonl").read_text().splitlines()[:5]
    given = tmp_path / "prompts.jsonl"
    given.write_text("".join(json.dumps({**json.loads(line), "task": "code"}) + "\n" for line in prompts))
    options = ["--bundle", "models/natural/mixed", "--budget", "40", "--out", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(main, ["plan", str(given), *options])
    assert result.exit_code == 0, result.output
    assert len(rows(tmp_path / "out.jsonl")) == 5


@pytest.mark.parametrize("unit", ["generations", "flops"])
def test_a_strange_prompt_gets_a_vote_and_no_promise(tmp_path, unit):
    prompts = tmp_path / "prompts.jsonl"
    texts = [STRANGE, json.loads(HELDOUT.read_text().splitlines()[0])["prompt"]]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    result = plan(
        prompts, tmp_path / "out.jsonl", "--unit", unit, "--budget", {"generations": "32", "flops": "1e12"}[unit]
    )
    assert result.exit_code == 0, result.output
    strange, known = rows(tmp_path / "out.jsonl")
    assert (strange["familiar"], strange["accuracy"], strange["level"]) == (False, None, 3)
    assert strange["arm"].startswith("majority(n=")
    assert known["familiar"]
    assert "1 prompts are unlike those of training" in result.output


@pytest.mark.parametrize(
    ("line", "options", "told"),
    [
        ({"prompt": "1 + 1 ="}, ["--budget", "0.5"], "at least"),
        ({"prompt": "1 + 1 ="}, ["--budget", "0"], "above 0"),
        ({"prompt": "1 + 1 ="}, ["--budget", "5", "--unit", "money"], "no prices"),
        ({"prompt": "1 + 1 =", "task": "rhymes"}, ["--budget", "5"], "prompts[0].task"),
    ],
)
def test_bad_input_is_an_error_in_one_line_that_names_it(tmp_path, line, options, told):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps(line) + "\n")
    result = plan(prompts, tmp_path / "out.jsonl", *options)
    assert result.exit_code == 2
    assert told in result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()
