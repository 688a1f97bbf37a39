import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.attempts.pools import is_pool, model_of, pool_of
from router.attempts.prompts import generate_prompts, problem_json, read_prompts
from router.attempts.schema import SCHEMA, prompts_of, read_attempts, write_attempts
from router.errors import InvalidFile
from router.prompt import Prompt

ROW = {
    "prompt_id": "p1",
    "prompt": "2 + 3 = ?",
    "reference": "5",
    "sample": 0,
    "text": "2 + 3 = 5\nAnswer: 5",
    "answer": "5",
    "correct": True,
    "scores": [0.5, 0.75],
    "prompt_tokens": 9,
    "generated_tokens": 12,
    "scored_tokens": 12,
    "arm": "sample",
}
BARE = {**ROW, "prompt_id": "p2", "reference": None, "answer": None, "correct": None, "scores": None}


def jsonl(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_parquet_round_trip_keeps_values_and_nulls(tmp_path):
    write_attempts(pd.DataFrame([ROW, BARE]), tmp_path / "a.parquet")
    frame = read_attempts([tmp_path / "a.parquet"])
    assert list(frame.columns) == SCHEMA.names
    assert frame.loc[0, "scores"].tolist() == [0.5, 0.75]
    assert frame.loc[0, "correct"]
    assert frame.loc[1, ["reference", "answer", "correct", "scores"]].isna().all()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.parquet"]


def test_jsonl_and_parquet_read_the_same(tmp_path):
    write_attempts(pd.DataFrame([ROW, BARE]), tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(
        read_attempts([jsonl(tmp_path / "a.jsonl", ROW, BARE)]), read_attempts([tmp_path / "a.parquet"])
    )


def test_the_probability_of_a_served_call_may_be_there(tmp_path):
    served = {**ROW, "sample": 1, "arm": "majority(n=4)", "propensity": 0.25}
    write_attempts(pd.DataFrame([ROW, served]), tmp_path / "a.parquet")
    frame = read_attempts([tmp_path / "a.parquet"])
    assert frame["propensity"].isna().tolist() == [True, False]
    assert frame["propensity"][1] == 0.25
    pd.testing.assert_frame_equal(frame, read_attempts([jsonl(tmp_path / "a.jsonl", ROW, served)]))
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "without.parquet")
    assert read_attempts([tmp_path / "without.parquet"])["propensity"].isna().all()


CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 3 = ?"}]


def test_messages_and_the_bill_of_several_models_may_be_there(tmp_path):
    spent = [
        {"model": "large", "role": "generator", "prompt_tokens": 9, "generated_tokens": 12, "scored_tokens": 0},
        {"model": "verifier", "role": "verifier", "prompt_tokens": 0, "generated_tokens": 0, "scored_tokens": 12},
    ]
    cascade = "single @0.7 > single(model=large)"
    rows = [{**ROW, "messages": CHAT}, {**ROW, "messages": CHAT, "arm": cascade, "usage": spent}]
    write_attempts(pd.DataFrame(rows), tmp_path / "a.parquet")
    frame = read_attempts([tmp_path / "a.parquet"])
    pd.testing.assert_frame_equal(frame, read_attempts([jsonl(tmp_path / "a.jsonl", *rows)]))
    assert prompts_of(frame) == {"p1": Prompt.read(CHAT)}
    assert frame["arm"].tolist() == ["sample", cascade]
    assert [dict(line) for line in frame["usage"][1]] == spent
    assert frame["usage"].isna().tolist() == [True, False]


def test_a_prompt_without_messages_is_its_text(tmp_path):
    assert prompts_of(read_attempts([jsonl(tmp_path / "a.jsonl", ROW)])) == {"p1": Prompt.of("2 + 3 = ?")}


def test_every_model_has_a_pool_of_its_own(tmp_path):
    rows = [ROW, {**ROW, "arm": " sample( model = large )"}, {**ROW, "arm": "majority(n=4 ,model=large)"}]
    frame = read_attempts([jsonl(tmp_path / "a.jsonl", *rows)])
    assert frame["arm"].tolist() == ["sample", "sample(model=large)", "majority(n=4, model=large)"]
    assert [is_pool(arm) for arm in frame["arm"]] == [True, True, False]
    assert [model_of(arm) for arm in frame["arm"][:2]] == [None, "large"]
    assert [pool_of(model) for model in (None, "large")] == frame["arm"][:2].tolist()


def test_files_are_concatenated_and_arms_respelled(tmp_path):
    one = jsonl(tmp_path / "one.jsonl", ROW)
    two = jsonl(tmp_path / "two.jsonl", "", {**ROW, "arm": "beam_search( m=4,n=16 )"})
    assert read_attempts([one, two])["arm"].tolist() == ["sample", "beam_search(n=16, m=4)"]


def test_parquet_from_elsewhere_may_have_other_widths(tmp_path):
    table = pa.Table.from_pylist([ROW])
    at = table.column_names.index("sample")
    table = table.set_column(at, "sample", table["sample"].cast(pa.int16()))
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_attempts([tmp_path / "a.parquet"])["sample"].tolist() == [0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([ROW, '{"prompt_id": '], ["line 2", "not JSON"]),
        (['["a"]'], ["line 1", "object"]),
        ([{**ROW, "colour": 1}], ["line 1", "unknown colour"]),
        ([{key: value for key, value in ROW.items() if key != "arm"}], ["line 1", "lacks arm"]),
        ([{**ROW, "correct": 1}], ["line 1", "correct", "true or false or null"]),
        ([{**ROW, "sample": "0"}], ["line 1", "sample", "an integer"]),
        ([{**ROW, "text": None}], ["line 1", "text", "a string"]),
        ([{**ROW, "scores": [0.5, -1]}], ["line 1", "-1", "null"]),
        ([{**ROW, "scores": [0.5, None]}], ["line 1", "scores", "list of numbers"]),
        ([{**ROW, "scored_tokens": -1}], ["line 1", "scored_tokens", "negative"]),
        ([{**ROW, "log_prob": 12.5}], ["line 1", "log_prob", "mean log-probability"]),
        ([{**ROW, "propensity": 0}], ["line 1", "propensity", "probability above 0"]),
        ([{**ROW, "propensity": "1"}], ["line 1", "propensity", "a number or null"]),
        ([{**ROW, "prompt": "  "}], ["line 1", "prompt", "blank"]),
        ([ROW, ROW], ["line 2", "'p1'", "sample 0"]),
        ([ROW, {**ROW, "sample": 1, "prompt": "2 + 4 = ?"}], ["line 2", "another prompt"]),
        ([ROW, {**ROW, "sample": 1, "reference": "6"}], ["line 2", "another reference"]),
        ([{**ROW, "arm": "beam_search(n=5, m=4)"}], ["line 1", "divisible"]),
        ([{**ROW, "arm": "magic"}], ["line 1", "unknown strategy"]),
        ([{**ROW, "arm": "sample(n=4)"}], ["line 1", "sample(n=4)", "sample(model=NAME)"]),
        ([{**ROW, "arm": "sample(model=)"}], ["line 1", "sample(model=NAME)"]),
        ([{**ROW, "messages": "2 + 3 = ?"}], ["line 1", "messages", "a list of messages or null"]),
        ([{**ROW, "usage": 3}], ["line 1", "usage", "a list of lines of a bill or null"]),
        ([], ["no attempts"]),
    ],
)
def test_a_bad_file_is_refused_with_the_place_named(tmp_path, rows, words):
    with pytest.raises(InvalidFile) as caught:
        read_attempts([jsonl(tmp_path / "bad.jsonl", *rows)])
    for word in ["bad.jsonl", *words]:
        assert word in str(caught.value)


def test_truncated_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_attempts(pd.DataFrame([ROW]), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidFile, match=r"a\.parquet can't be read as Parquet"):
        read_attempts([path])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("sample", pa.array(["0"]), "sample is string; it must be integers"),
        ("sample", pa.array([None], pa.int64()), "row 0: sample is null"),
        ("scores", pa.array([0.5]), "scores is double; it must be a list of numbers"),
    ],
)
def test_parquet_with_wrong_types_is_refused(tmp_path, column, values, message):
    table = pa.Table.from_pylist([ROW])
    table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidFile, match=message):
        read_attempts([tmp_path / "a.parquet"])


def test_a_missing_file_says_where_attempts_come_from(tmp_path):
    with pytest.raises(InvalidFile, match="router collect"):
        read_attempts([tmp_path / "none.parquet"])


def test_attempts_compress(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{**ROW, "sample": i, "scores": rng.random(4).tolist()} for i in range(1000)]
    write_attempts(pd.DataFrame(rows), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 40_000  # the scores alone are 16,000 bytes of noise


def test_prompts_are_read_and_named(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "1 + 1?"}, "", {"id": "x", "prompt": "1 + 1?", "reference": "2"})
    one, two = read_prompts(path)
    assert (two.id, two.reference, two.solution) == ("x", "2", None)
    # A name, and so what is sampled, does not depend on where the prompt stands; a second one of the same text has one.
    other = jsonl(tmp_path / "q.jsonl", {"prompt": "2 + 2?"}, {"prompt": "1 + 1?"}, {"prompt": "1 + 1?"})
    assert [prompt.id for prompt in read_prompts(other)][1:] == [one.id, f"{one.id}-2"]


def test_prompts_of_several_messages_are_read_and_written(tmp_path):
    rows = [{"id": "x", "messages": CHAT, "reference": "5"}, {"id": "y", "prompt": "1 + 1?", "solution": "2"}]
    problems = read_prompts(jsonl(tmp_path / "p.jsonl", *rows))
    assert [problem.prompt for problem in problems] == [Prompt.read(CHAT), Prompt.of("1 + 1?")]
    assert [problem_json(problem) for problem in problems] == rows
    unnamed = [{"messages": CHAT}, {"messages": [CHAT[1]]}, {"prompt": "2 + 3 = ?"}]
    chat, same, plain = read_prompts(jsonl(tmp_path / "q.jsonl", *unnamed))
    assert (plain.id, same.prompt) == (f"{same.id}-2", plain.prompt)
    assert chat.id != same.id


def test_prompts_are_read_from_parquet_alike(tmp_path):
    rows = [{"id": "x", "prompt": "1 + 1?", "reference": "2"}, {"prompt": "2 + 2?"}, {"messages": CHAT}]
    table = tmp_path / "p.parquet"
    pd.DataFrame(rows).to_parquet(table)
    assert read_prompts(table) == read_prompts(jsonl(tmp_path / "p.jsonl", *rows))
    pd.DataFrame([{"prompt": "1 + 1?"}, {"prompt": " "}]).to_parquet(table)
    with pytest.raises(InvalidFile, match="row 1: prompt is blank"):
        read_prompts(table)
    table.write_text("{}")
    with pytest.raises(InvalidFile, match=r"can't be read as Parquet.*\.jsonl"):
        read_prompts(table)


def test_a_folder_stands_for_its_files(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    with pytest.raises(InvalidFile, match=r"holds no \.parquet or \.jsonl"):
        read_attempts([shards])
    jsonl(shards / "b.jsonl", {**ROW, "sample": 1})
    write_attempts(pd.DataFrame([ROW]), shards / "a.parquet")
    (shards / "collect.json").write_text("{}")
    assert read_attempts([shards])["sample"].tolist() == [0, 1]
    (shards / "c.parquet.journal.jsonl").write_text("{}")
    with pytest.raises(InvalidFile, match=r"left unfinished: c.parquet.journal.jsonl; run `router collect`"):
        read_attempts([shards])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}, "{"], "line 2: not JSON"),
        ([{"prompt": " "}], "line 1: prompt is blank"),
        ([{"reference": "3"}], "line 1: needs either prompt or messages"),
        ([{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}], "line 1: needs either prompt or messages"),
        ([{"messages": [{"role": "assistant", "content": "a"}]}], "line 1: the last message must be the user's"),
        ([{"messages": [{"role": "user", "content": " "}]}], "line 1: prompt is blank"),
        ([{"messages": "a"}], 'line 1: messages must be a list, got "a"'),
        ([{"prompt": None}], "line 1: needs either prompt or messages"),
        ([{"prompt": ["a"]}], "line 1: prompt must be a string"),
        ([{"prompt": "a", "answer": "3"}], "line 1: unknown key 'answer'"),
        ([{"prompt": "a", "reference": [3]}], r"line 1: reference must be a string or a number, got \[3\]"),
        ([{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}], "line 2: id 'x' is there already"),
        ([], "holds no prompts"),
    ],
)
def test_a_bad_prompts_file_is_refused_with_the_line_named(tmp_path, rows, message):
    with pytest.raises(InvalidFile, match=message):
        read_prompts(jsonl(tmp_path / "p.jsonl", *rows))


def test_generated_prompts_are_different_repeatable_and_answered():
    prompts = generate_prompts("chain_sum:min_terms=2,max_terms=2,max_digits=1", 50, seed=3)
    assert prompts == generate_prompts("chain_sum:min_terms=2,max_terms=2,max_digits=1", 50, seed=3)
    assert len({prompt.prompt for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 50
    assert all(prompt.reference is not None for prompt in prompts)
    assert prompts != generate_prompts("chain_sum:min_terms=2,max_terms=2,max_digits=1", 50, seed=4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain_summ", "unknown task 'chain_summ'.*chain_sum"),
        ("chain_sum:terms=3", "can't set 'terms=3'.*min_terms=2"),
        ("chain_sum:min_terms", "can't set 'min_terms'"),
        ("chain_sum:min_terms=two", "min_terms must be int like 2, got 'two'"),
        ("chain_sum:min_terms=9,max_terms=3", "refuses these knobs"),
        ("chain_sum:min_terms=2,max_terms=2,max_digits=1", "gives only .* different prompts, not 500"),
    ],
)
def test_a_bad_task_says_what_exists(spec, message):
    with pytest.raises(InvalidFile, match=message):
        generate_prompts(spec, 500 if "not 500" in message else 5, seed=0)
