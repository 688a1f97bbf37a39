"""Attempts that others wrote: judged as `collect` does, counted or estimated, and refused where they contradict."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from router.attempts.prompts import read_prompts
from router.attempts.schema import read_attempts, write_attempts
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidFile
from router.tasks import Tasks
from tests.conftest import SETUP

ROW = {
    "prompt_id": "p1",
    "prompt": "70 + 2 = ?",
    "reference": "72",
    "sample": 0,
    "text": "70 + 2 = 72\nAnswer: 72",
    "answer": "72",
    "correct": None,
    "scores": [0.75],
    "prompt_tokens": 9,
    "generated_tokens": 12,
    "scored_tokens": 12,
    "arm": "sample",
}
COUNTS = ("prompt_tokens", "generated_tokens", "scored_tokens")


def jsonl(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def parquet(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def read(path):
    said = []
    return read_attempts([path], Tasks(), say=said.append), said


# Answers


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_answers_are_judged_and_spelled_as_collect_does(tmp_path, write):
    answers = ["72", "$72", "72.0", "71", None]
    rows = [{**ROW, "sample": i, "answer": answer} for i, answer in enumerate(answers)]
    rows[4]["text"] = "I do not know"
    frame, said = read(write(tmp_path / "a.jsonl", *rows))
    assert frame["answer"].fillna("none").tolist() == ["72", "72", "72", "71", "none"]
    assert frame["correct"].tolist() == [True, True, True, False, False]
    assert said == ["5 of 5 attempts had `correct` null: judged by their answers and references"]


def test_an_answer_that_only_the_text_states_is_found(tmp_path):
    frame, _ = read(jsonl(tmp_path / "a.jsonl", {**ROW, "answer": None}))
    assert (frame["answer"].tolist(), frame["correct"].tolist()) == (["72"], [True])


def test_what_was_judged_elsewhere_stays_and_nothing_is_said(tmp_path):
    rows = [{**ROW, "correct": True}, {**ROW, "sample": 1, "answer": "$71", "correct": False}]
    rows += [
        {**ROW, "prompt_id": "p2", "reference": None, "correct": correct, "sample": i}
        for i, correct in enumerate([True, None])
    ]
    frame, said = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert frame["correct"].astype(object).where(frame["correct"].notna(), None).tolist() == [True, False, True, None]
    assert frame["answer"].tolist() == ["72", "71", "72", "72"]
    assert said == []


@pytest.mark.parametrize("write", [jsonl, parquet])
@pytest.mark.parametrize(("answer", "correct", "words"), [("$71", True, "is not what"), ("72.0", False, "is what")])
def test_a_row_that_contradicts_itself_is_refused(tmp_path, write, answer, correct, words):
    rows = [{**ROW, "correct": True}, {**ROW, "sample": 1, "answer": answer, "correct": correct}]
    with pytest.raises(InvalidFile) as caught:
        read(write(tmp_path / "a.jsonl", *rows))
    place = "line 2" if write is jsonl else "row 1"
    for word in (
        place,
        f"correct is {json.dumps(correct)}",
        f"answer {answer!r} {words} reference '72'",
        "router rejudge",
    ):
        assert word in str(caught.value)


def test_expressions_that_collect_wrote_down_contradict_nothing(tmp_path):
    rows = [{**ROW, "reference": "(x+1)(x-1)", "answer": "x**2 - 1", "correct": True}]
    rows += [{**ROW, "reference": "(x+1)(x-1)", "answer": "$x^2-1$", "sample": 1}]
    frame, _ = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert frame["correct"].tolist() == [True, True]


def test_rejudge_mends_what_was_refused(tmp_path):
    bad = jsonl(tmp_path / "a.jsonl", {**ROW, "correct": False})
    result = CliRunner().invoke(main, ["rejudge", str(bad), "--out", str(tmp_path / "b.parquet")])
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "b.parquet")[0]["correct"].tolist() == [True]


def rejudged(tmp_path, *prompts):
    """Rejudge a right attempt at each of two prompts by a prompts file."""
    rows = [{**ROW, "prompt_id": name, "correct": None} for name in ("one", "two")]
    file = jsonl(tmp_path / "a.jsonl", *rows)
    asked = jsonl(tmp_path / "p.jsonl", *prompts)
    arguments = ["rejudge", str(file), "--prompts", str(asked), "--out", str(tmp_path / "b.parquet")]
    return CliRunner().invoke(main, arguments)


def test_rejudge_keeps_the_reference_of_a_prompt_that_is_not_in_the_prompts_file(tmp_path):
    result = rejudged(tmp_path, {"id": "one", "prompt": ROW["prompt"], "reference": "73"})
    assert result.exit_code == 0, result.output
    assert "1 of 2 prompts are not in the prompts files, first 'two'" in result.stderr
    again, _ = read(tmp_path / "b.parquet")
    assert again["reference"].tolist() == ["73", ROW["reference"]]
    assert again["correct"].tolist() == [False, True]


def test_rejudge_refuses_prompts_files_that_hold_none_of_the_prompts(tmp_path):
    result = rejudged(tmp_path, {"id": "other", "prompt": ROW["prompt"], "reference": "73"})
    assert result.exit_code == 2
    assert "none of the attempts' 2 prompts is in the prompts files, first 'one'" in result.stderr
    assert not (tmp_path / "b.parquet").exists()


def test_rejudge_says_that_nothing_is_judged(tmp_path):
    result = rejudged(tmp_path, *({"id": name, "prompt": ROW["prompt"]} for name in ("one", "two")))
    assert "without an answer, 0 judged, 0 answers changed" in result.stdout


# Token counts


def lacking(row, how):
    return {k: v for k, v in row.items() if k not in COUNTS} if how == "absent" else {**row, **dict.fromkeys(COUNTS)}


@pytest.mark.parametrize("write", [jsonl, parquet])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_missing_token_counts_are_estimated_and_said(tmp_path, write, how):
    row = {**ROW, "correct": True, "text": "x" * 40, "prompt": "é" * 10}
    rows = [lacking(each, how) for each in (row, {**row, "sample": 1, "scores": None})]
    rows.append(lacking({**row, "arm": "beam_search(n=4, m=4)"}, how))
    frame, said = read(write(tmp_path / "a.jsonl", *rows))
    assert frame[list(COUNTS)].to_numpy().tolist() == [[5, 11, 11], [5, 11, 0], [5, 41, 41]]
    assert said == [
        "3 of 3 attempts lack token counts: estimated, one token for 4 bytes of text. Costs are as rough; write "
        "prompt_tokens, generated_tokens and scored_tokens where they are known"
    ]
    write_attempts(frame, tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet")[1] == []


def test_counts_that_are_there_are_kept(tmp_path):
    rows = [
        {**ROW, "correct": True},
        {**ROW, "sample": 1, "correct": True, "generated_tokens": None, "scored_tokens": None},
    ]
    frame, said = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert frame[list(COUNTS)].to_numpy().tolist() == [[9, 12, 12], [9, 7, 7]]
    assert said[0].startswith("1 of 2 attempts lack token counts")


# Numbers


def test_references_and_answers_may_be_numbers_in_json_lines(tmp_path):
    rows = [{**ROW, "reference": 72, "answer": answer, "sample": i} for i, answer in enumerate([72, 72.0, 7.2e1, 71.5])]
    frame, _ = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert frame["reference"].tolist() == ["72"] * 4
    assert frame["answer"].tolist() == ["72", "72", "72", "143/2"]
    assert frame["correct"].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("value", "text"), [("3", "3"), ("3.5", "3.5"), ("1e21", "1000000000000000000000"), ("-1e-7", "-0.0000001")]
)
def test_references_of_prompts_may_be_numbers(tmp_path, value, text):
    (problem,) = read_prompts(jsonl(tmp_path / "p.jsonl", f'{{"prompt": "a", "reference": {value}}}'))
    assert problem.reference == text


@pytest.mark.parametrize("value", ["true", "NaN", "Infinity", "[3]", "{}"])
def test_a_reference_that_is_neither_text_nor_number_is_refused(tmp_path, value):
    with pytest.raises(InvalidFile, match="line 1: reference must be a string or a number"):
        read_prompts(jsonl(tmp_path / "p.jsonl", f'{{"prompt": "a", "reference": {value}}}'))
    bad = json.dumps({**ROW, "reference": "X"}).replace('"X"', value)
    with pytest.raises(InvalidFile, match="line 1: reference is"):
        read_attempts([jsonl(tmp_path / "a.jsonl", bad)])


def test_json_that_is_nested_too_deeply_is_not_json(tmp_path):
    with pytest.raises(InvalidFile, match="line 1: not JSON"):
        read_prompts(jsonl(tmp_path / "p.jsonl", '{"prompt": ' + "[" * 200_000 + "]" * 200_000 + "}"))


# The commands


@pytest.mark.long
def test_rows_from_elsewhere_are_trained_and_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr("router.training.difficulty.CANDIDATES", ("prompt_length",))
    monkeypatch.setattr("router.tuning.tables.SPLITS", 2)
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_setup(SETUP, folder)
    rows = []
    for i in range(100):
        for sample in range(4):
            answer = ["72", "$72", "72.0", 72][sample] if sample < i % 5 else "71"
            row = {**ROW, "prompt_id": f"p{i}", "prompt": f"{i} " + "word " * (1 + i % 5), "sample": sample}
            rows.append(lacking({**row, "answer": answer, "scores": None}, "absent"))
    file = jsonl(tmp_path / "a.jsonl", *rows)
    for command in ("train", "tune"):
        result = CliRunner().invoke(main, [command, str(file), "--bundle", str(folder)])
        assert result.exit_code == 0, result.output
        assert "400 of 400 attempts had `correct` null: judged" in result.stderr
        assert "400 of 400 attempts lack token counts" in result.stderr
    bad = jsonl(tmp_path / "b.jsonl", *rows[:-1], {**rows[-1], "correct": False, "answer": 72})
    result = CliRunner().invoke(main, ["train", str(bad), "--bundle", str(folder), "--overwrite"])
    assert result.exit_code == 2
    assert "line 400: correct is false, but answer '72' is what reference '72' says" in result.stderr
