"""A task of one's own is a class and its place: searches, collecting and judging again use it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router import tasks
from router.attempts.collect import Unit, collect
from router.attempts.prompts import Problem
from router.attempts.rejudge import rejudge
from router.attempts.schema import read_attempts
from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.cli.main import main
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import PlainTask, Tasks, load_task
from strategies import Result, parse

PLACE = f"{__name__}:Capital"
ASKED = Prompt.of("What is the capital of Australia?")


class Capital(PlainTask):
    """Names of cities: the last word of a solution, in whatever case."""

    def extract(self, text: str) -> str | None:
        words = text.rstrip(". \n").split()
        return words[-1] if words and words[-1] != "pass" else None

    async def key(self, answer: str) -> str:
        return answer.strip("!").casefold()

    async def right(self, answer: str, reference: str) -> bool:
        return await self.key(answer) in {await self.key(each) for each in reference.split("|")}


@pytest.fixture
def registered() -> Iterator[str]:
    tasks.register("capital", PLACE)
    yield "capital"
    del tasks._TASKS["capital"]


def engines(*said: str) -> Engines:
    """A model whose samples say these texts in turn, again and again."""
    left: list[str] = []

    def write(prompt: str, candidate: Any, rng: Any) -> str:
        if not left:
            left.extend(said)
        return left.pop(0)

    return Engines({"small": FakeGenerator(write=write)}, "small", FakeVerifier(judge=lambda prompt, steps: [0.5]))


async def solve(task: str, *said: str) -> Result:
    request = Request(Prompt.of("What is the capital of Australia?"))
    arm = parse(f"majority(n={len(said)})")
    *_, last = [each async for each in drive(arm, request, engines(*said), load_task(task), Bill())]
    assert isinstance(last, tuple)
    return last[0]


async def test_a_search_counts_votes_by_its_keys():
    result = await solve(PLACE, "It is Sydney.", "I say canberra", "CANBERRA!", "pass")
    assert result.answer == "canberra"
    assert result.share == pytest.approx(2 / 3)
    assert (await solve("math", "It is Sydney.", "I say canberra", "CANBERRA!", "pass")).answer is None


async def test_by_name_it_is_the_same(registered):
    assert (await solve(registered, "It is Sydney.", "Canberra", "Canberra")).answer == "canberra"
    assert isinstance(load_task(registered), Capital)
    assert load_task(registered) is load_task(registered)


def test_a_name_that_is_registered_again_has_the_new_task(registered):
    load_task(registered)
    tasks.register(registered, "router.tasks.math:MathTask")
    assert load_task(registered) is not load_task(PLACE)
    assert load_task(registered).extract("Answer: 5") == "5"


def attempts(out: Path, task: str) -> Path:
    problem = Problem("australia", Prompt.of("What is the capital of Australia?"), "Canberra|Kanberra")
    said = "It is Sydney.", "I say CANBERRA!", "kanberra", "pass"
    units = [Unit(problem, None, 4), Unit(problem, parse("single"), 1)]
    collect(units, lambda: engines(*said), out, tasks=Tasks((task,)), settings={})
    return out


@pytest.mark.parametrize("by_name", [False, True])
def test_collecting_finds_and_judges_by_it(tmp_path, registered, by_name):
    frame = read_attempts([attempts(tmp_path / "a.parquet", registered if by_name else PLACE)])
    pool = frame[frame["arm"] == "sample"]
    assert pool["answer"].tolist()[:3] == ["sydney", "canberra", "kanberra"]
    assert pool["answer"].isna().tolist() == [False, False, False, True]
    assert pool["correct"].tolist() == [False, True, True, False]
    assert frame[frame["arm"] == "single"]["answer"].tolist() == ["sydney"]


def test_attempts_of_another_task_are_judged_again(tmp_path):
    math = read_attempts([attempts(tmp_path / "math.parquet", "math")])
    assert math["answer"].isna().all()
    assert not math["correct"].any()
    expected = read_attempts([attempts(tmp_path / "capital.parquet", PLACE)])
    judged = asyncio.run(rejudge(math, Tasks((PLACE,))))
    # Of a run only the solution that was chosen is there, and of a pool the longest without an answer counts as cut.
    pool = expected["arm"] == "sample"
    kept = pool & (expected["generated_tokens"] < expected.loc[pool, "generated_tokens"].max())
    assert kept.sum() == 3
    assert judged.loc[kept, "answer"].fillna("").tolist() == expected.loc[kept, "answer"].fillna("").tolist()
    assert judged.loc[kept, "correct"].tolist() == expected.loc[kept, "correct"].tolist()
    other = asyncio.run(rejudge(expected, Tasks((PLACE,)), {"australia": Problem("australia", ASKED, "Sydney")}))
    assert other.loc[other["answer"] == "sydney", "correct"].all()


def test_the_command_judges_by_it(tmp_path):
    file = attempts(tmp_path / "capital.parquet", PLACE)
    arguments = ["rejudge", str(file), "--task", PLACE, "--out", str(tmp_path / "again.parquet")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert read_attempts([tmp_path / "again.parquet"]).equals(read_attempts([file]))
    wrong = CliRunner().invoke(main, [*arguments[:3], f"{__name__}:Nothing", *arguments[4:]])
    assert wrong.exit_code != 0
    assert "can't import the task" in wrong.stderr
