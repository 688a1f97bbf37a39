"""Mistakes of every day at the pipeline's commands: one clear line, and nothing written."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts, write_attempts
from router.bundle.bundle import read_policy
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidRequest
from router.policy.objectives import parse_objective
from tests.conftest import SETUP


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundle").mkdir()
    write_setup(SETUP, tmp_path / "bundle")
    return tmp_path / "bundle"


def router(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def one_line(result, words):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x", "x.PARQUET"])
def test_attempts_are_written_as_parquet_only(folder, tmp_path, name):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1 =", "reference": 2}\n')
    out = tmp_path / name
    collected = ["collect", "--backend", "fake", "--bundle", folder, "--prompts", tmp_path / "p.jsonl", "--out", out]
    one_line(router(*collected), "attempts are written as Parquet")
    one_line(router("rejudge", tmp_path / "a.parquet", "--out", out), "attempts are written as Parquet")
    one_line(
        router("score", tmp_path / "a.parquet", "--bundle", folder, "--out", out), "attempts are written as Parquet"
    )
    one_line(router("collect", "--from-outcomes", "sqlite:///no.db", "--out", out), "attempts are written as Parquet")
    assert not out.exists()


def test_a_folder_is_no_attempts_file_and_a_file_no_folder(folder, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1 =", "reference": 2}\n')
    (tmp_path / "x.parquet").mkdir()
    command = ["collect", "--backend", "fake", "--bundle", folder, "--prompts", tmp_path / "p.jsonl"]
    one_line(router(*command, "--out", tmp_path / "x.parquet"), "is a folder; name a file in it")
    (tmp_path / "y").write_text("")
    one_line(router(*command, "--ray", "local", "--out", tmp_path / "y"), "is a file; with --ray name a folder")


@pytest.mark.parametrize("ray", [[], ["--ray", "local"]])
def test_a_broken_prompts_file_is_one_line_without_a_progress_bar(folder, tmp_path, ray):
    if ray:
        pytest.importorskip("ray")
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1 =", "reference": 2}\n{"prompt": \n')
    out = tmp_path / ("out" if ray else "x.parquet")
    command = [
        "collect",
        "--backend",
        "fake",
        "--bundle",
        folder,
        "--prompts",
        tmp_path / "p.jsonl",
        "--out",
        out,
        *ray,
    ]
    one_line(router(*command), "p.jsonl, line 2: not JSON")


def test_collect_still_shows_its_bar(folder, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "7 + 7 =", "reference": "14"}\n')
    command = ["collect", "--backend", "fake", "--bundle", folder, "--prompts", tmp_path / "p.jsonl", "--attempts", 2]
    for _ in range(2):  # the second time there is nothing left to do
        result = router(*command, "--out", tmp_path / "x.parquet")
        assert result.exit_code == 0, result.output
        assert "1/1" in result.stderr
        assert result.stderr.endswith("\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("average_budget=inf", "average_budget inf must be finite; for the largest budget .* budget=16"),
        ("budget=inf", "budget inf is outside this policy's 1 to 16"),
        ("price_per_flop=inf", "must be a finite number of at least 0"),
        ("target_accuracy=inf", "must be above 0 and at most 1"),
        ("average_budget=nan", "can't read objective"),
        ("average_budget=-inf", "it is at least 1"),
    ],
)
def test_an_endless_objective_is_a_clear_error(bundle_folder, text, words):
    policy = read_policy(bundle_folder)[2]
    with pytest.raises(InvalidRequest, match=words):
        policy.check(parse_objective(text))


def some_attempts(file, prompts, **changes):
    """Write four attempts at each prompt, of which more are right at later prompts."""
    rows = [
        {"prompt_id": f"p{i}", "prompt": f"{i} + 1 =", "reference": "1", "sample": sample, "text": "", "arm": "sample"}
        | {"answer": "1" if sample < i % 5 else "2", "correct": sample < i % 5, "scores": [0.5]}
        | {"prompt_tokens": 1, "generated_tokens": 1, "scored_tokens": 1}
        for i in range(prompts)
        for sample in range(4)
    ]
    frame = pd.DataFrame(rows).assign(**changes)
    write_attempts(frame, file)
    return file


def test_features_that_are_unknown_are_named_by_their_option(folder, tmp_path):
    file = some_attempts(tmp_path / "a.parquet", 40)
    train = ["train", file, "--bundle", folder, "--features"]
    one_line(router(*train, "nope"), "--features 'nope': this router knows text, hidden")
    one_line(router(*train, "hidden(layer=x)"), "--features 'hidden(layer=x)'")


def test_train_names_how_many_prompts_it_needs(folder, tmp_path):
    file = some_attempts(tmp_path / "a.parquet", 24)
    one_line(router("train", file, "--bundle", folder), "24 prompts are too few, at least 25 are needed")


def test_judge_names_the_file(tmp_path):
    file = some_attempts(tmp_path / "a.parquet", 4, scores=None)
    one_line(router("judge", file), f"{file}: no attempt has scores")


def test_row_numbers_that_pandas_writes_are_no_column(tmp_path):
    whole = some_attempts(tmp_path / "a.parquet", 4)
    pd.read_parquet(whole).iloc[[0, 1, 3]].to_parquet(tmp_path / "b.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "b.parquet").names
    assert len(read_attempts([tmp_path / "b.parquet"])) == 3
