"""What a request brings for its task, and which task it names: from the message to the search, and in files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import errors
from router.attempts.collect import Tally, Unit, collect
from router.attempts.prompts import Problem, problem_json, read_prompts
from router.attempts.rejudge import rejudge
from router.attempts.schema import read_attempts
from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.errors import InvalidFile, InvalidRequest
from router.prompt import Prompt
from router.service import conversion
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import Tasks, load_task
from router.v1 import router_pb2 as pb
from strategies import Candidate, Result, parse

CITIES = {"choices": ["Rome", "Paris"]}
ASKED = Prompt.of("What is the capital of France?")


def engines(*said: str, longest: int = 512) -> Engines:
    """A model whose samples say these texts in turn."""
    left = list(said)
    writer = FakeGenerator(write=lambda *_: left.pop(0), longest=longest)
    return Engines({"small": writer}, "small", FakeVerifier())


async def result_of(task: str, arm: str, *said: str, inputs: Any = CITIES, longest: int = 512) -> Result:
    models = engines(*said, longest=longest)
    events = drive(parse(arm), Request(ASKED), models, load_task(task).bound(inputs), Bill())
    *_, last = [each async for each in events]
    assert isinstance(last, tuple)
    return last[0]


@pytest.mark.parametrize("kind", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_a_message_carries_them(kind):
    given = {"choices": ["a", "b"], "n": 3, "half": 0.5, "deep": {"none": None, "yes": True, "list": [[1]]}}
    request = conversion.request(kind(prompt="1 + 1 =", inputs=given, task="choice"), None)
    assert request.inputs == given
    assert isinstance(request.inputs["n"], int)
    assert request.task == "choice"
    nothing = conversion.request(kind(prompt="1 + 1 ="), None)
    assert not nothing.inputs
    assert nothing.task is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"x": float("inf")}, "inputs.x"),
        ({"x": 1, "y": {"z": [1, float("nan")]}}, "inputs.y.z[1]"),
        ({"choices": [{"a": -float("inf")}]}, "inputs.choices[0].a"),
    ],
)
@pytest.mark.parametrize("kind", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_a_message_carries_finite_numbers_only(kind, given, field):
    with pytest.raises(InvalidRequest, match="must be a finite number") as raised:
        conversion.request(kind(prompt="1 + 1 =", inputs=given), None)
    assert (raised.value.field, raised.value.reason) == (field, "INPUTS_INVALID")


def test_a_task_is_one_of_the_bundles():
    tasks = Tasks(("math", "choice"))
    assert tasks.of() is load_task("math")
    assert tasks.of("choice", CITIES).extract("It is Paris") == "B"
    with pytest.raises(InvalidRequest, match="it has math, choice") as caught:
        tasks.of("code")
    assert (caught.value.field, caught.value.reason) == ("task", "TASK_UNKNOWN")


@pytest.mark.parametrize(
    ("task", "inputs", "field"),
    [
        ("math", CITIES, "inputs.choices"),
        ("choice", {"choices": ["one"]}, "inputs.choices"),
        ("json", {"schema": {"type": "nonsense"}}, "inputs.schema"),
        ("code", {"tests": ["assert f(1"]}, "inputs.tests[0]"),
        ("choice", {"choices": ["a", "b" * 100_000]}, "inputs"),
    ],
)
def test_wrong_inputs_are_named(task, inputs, field):
    with pytest.raises(InvalidRequest) as caught:
        Tasks((task,)).of(None, inputs)
    assert (caught.value.field, caught.value.reason) == (field, "INPUTS_INVALID")
    assert field in str(caught.value)


def test_code_that_may_not_run_is_refused_before_anything_is_written(tmp_path):
    problem = Problem("f", ASKED, "assert f(2) == 2", inputs={"tests": ["assert f(1) == 1"]})
    with pytest.raises(errors.CodeNotAllowed, match="--allow-code"):
        collect([Unit(problem, None, 2)], engines, tmp_path / "a.parquet", tasks=Tasks(("code",)), settings={})
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I can't say.", "states no answer"),
        ("<think>Rome or Paris? Rome? Pa", "ends while it is thinking"),
        ("x" * 60, "cut at 50 tokens, the longest solution"),
    ],
)
async def test_without_an_answer_the_text_comes_back_with_its_reason(said, reason):
    result = await result_of("choice", "single", said, longest=50)
    assert result.best is None
    assert result.shown == result.unanswered
    assert result.unanswered.text == said[:50]
    assert result.unanswered.no_answer == reason


async def test_of_many_without_an_answer_the_best_scored_is_shown():
    result = await result_of("math", "best_of_n(n=2)", "Who knows?", "Nobody knows", inputs={})
    assert result.shown.text in ("Who knows?", "Nobody knows")
    assert (await result_of("math", "majority(n=2)", "Who knows?", "Answer: 3", inputs={})).unanswered is None


PROMPTS: list[dict[str, Any]] = [
    {"prompt": "Which?", "reference": "B", "inputs": {"choices": ["Rome", "Paris"]}, "task": "choice"},
    {"prompt": "Which?", "reference": "B", "inputs": {"choices": ["York", "Paris"]}, "task": "choice"},
    {"prompt": "1 + 1 =", "reference": "2"},
]


def written(folder: Path, rows: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompt_files_have_them(tmp_path):
    first, second, third = read_prompts(written(tmp_path, PROMPTS))
    assert first.inputs == {"choices": ["Rome", "Paris"]}
    assert (first.task, third.task) == ("choice", None)
    assert len({first.id, second.id, third.id}) == 3
    assert first.id.split("-")[0] == second.id.split("-")[0]
    assert read_prompts(written(tmp_path, map(problem_json, [first, second, third]))) == [first, second, third]


@pytest.mark.parametrize("as_text", [False, True])
def test_tables_of_prompts_have_them(tmp_path, as_text):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    inputs = [row.get("inputs") for row in PROMPTS]
    rows = [
        row | {"inputs": json.dumps(each) if as_text and each else each}
        for row, each in zip(PROMPTS, inputs, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "prompts.parquet")
    assert read_prompts(tmp_path / "prompts.parquet") == read_prompts(written(tmp_path, PROMPTS))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"choices": ["a", "b"]}, "unknown key 'choices'"),
        ({"inputs": ["a", "b"]}, "inputs must be an object"),
        ({"inputs": "{}"}, "inputs must be an object"),
        ({"task": 3}, "task must be a string"),
    ],
)
def test_prompt_files_that_are_wrong_are_refused(tmp_path, row, says):
    with pytest.raises(InvalidFile, match=says):
        read_prompts(written(tmp_path, [{"prompt": "Which?", **row}]))


def collected(folder: Path, *, tasks: Tasks | None = None) -> Path:
    problems = read_prompts(written(folder, PROMPTS))
    said = ["It is Paris.", "Rome", "It is Paris.", "York", "Answer: 2", "pass"]
    units = [Unit(problem, None, 2) for problem in problems]
    tallies: list[Tally] = []
    out = folder / "a.parquet"
    collect(
        units,
        lambda: engines(*said),
        out,
        tasks=tasks or Tasks(("math", "choice")),
        settings={},
        concurrency=2,
        on_unit=lambda unit, tally: tallies.append(tally),
    )
    total = sum(tallies, Tally())
    assert (total.attempts, total.unanswered, total.judged, total.right) == (6, 1, 6, 3)
    assert str(total) == "16.7% without an answer, pass rate 0.500"
    assert (
        str(replace(total, unanswered=3, cut=2)) == "50.0% without an answer (33.3% cut at max_tokens), pass rate 0.500"
    )
    return out


def test_attempts_that_were_cut_are_counted(tmp_path):
    tallies: list[Tally] = []
    unit = Unit(Problem("p", Prompt.of("2 + 2 ="), "4"), None, 2)
    generator = FakeGenerator()
    generator.longest = 2
    made = Engines({"small": generator}, "small", FakeVerifier())
    collect([unit], lambda: made, tmp_path / "a.parquet", settings={}, on_unit=lambda _, tally: tallies.append(tally))
    assert (tallies[0].unanswered, tallies[0].cut) == (2, 2)


def test_collecting_judges_each_prompt_by_its_own_task_and_inputs(tmp_path):
    frame = read_attempts([collected(tmp_path)])
    choices = frame[frame["task"] == "choice"]
    assert set(choices["answer"]) == {"A", "B"}
    assert [json.loads(each)["choices"][1] for each in choices["inputs"]] == ["Paris"] * 4
    assert frame.loc[frame["task"].isna(), "inputs"].isna().all()


async def test_attempts_are_read_and_judged_again_by_them(tmp_path):
    frame = read_attempts([collected_in_thread(tmp_path)])
    tasks = Tasks(("math", "choice"))
    again = await rejudge(frame, tasks)
    kept = frame["text"] != "pass"  # of a pool, the longest without an answer counts as cut
    assert again.loc[kept, "answer"].tolist() == frame.loc[kept, "answer"].tolist()
    assert again["correct"].tolist() == frame["correct"].tolist()
    turned = {
        each: Problem(each, ASKED, "A", inputs={"choices": ["Paris", "Rome"]}, task="choice")
        for each in frame["prompt_id"]
    }
    other = await rejudge(frame, tasks, turned)
    assert other.loc[other["text"] == "It is Paris.", "correct"].all()


def collected_in_thread(folder: Path) -> Path:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(collected, folder).result()


def test_attempts_from_elsewhere_are_judged_by_them(tmp_path):
    row = {
        "prompt_id": "p",
        "prompt": "Which?",
        "reference": "B",
        "sample": 0,
        "text": "It is Paris.",
        "answer": None,
        "correct": None,
        "scores": None,
        "arm": "sample",
        "inputs": CITIES,
        "task": "choice",
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    frame = read_attempts([path], Tasks(("math", "choice")))
    assert frame.loc[0, "answer"] == "B"
    assert frame.loc[0, "correct"]
    with pytest.raises(InvalidFile, match=r"prompt_id 'p': the bundle has no task 'choice'"):
        read_attempts([path], Tasks())
    path.write_text(json.dumps(row | {"inputs": {"choices": ["Paris"]}}) + "\n")
    with pytest.raises(InvalidFile, match=r"prompt_id 'p': inputs.choices"):
        read_attempts([path], Tasks(("choice",)))


def test_a_prompt_with_wrong_inputs_is_named_by_its_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "A?"}\n{"prompt": "B?", "inputs": {"choices": ["x", "x"]}}\n')
    _, wrong = read_prompts(path)
    with pytest.raises(InvalidFile, match=r"mine.jsonl, line 2: inputs.choices: two choices are 'x'"):
        wrong.bound(Tasks(("choice",)))


def test_a_candidate_that_answers_has_no_reason():
    assert Candidate(answer="5").no_answer == ""
