"""Collecting: how much is under way at once, on a server that is kept full and in memory that stays small."""

import asyncio
import tracemalloc
from collections import deque
from dataclasses import replace
from itertools import groupby

import pytest

from router.attempts.collect import Tally, Unit, collect
from router.attempts.schema import read_attempts
from router.backends.fake import FakeGenerator
from router.backends.log_probability import LogProbability
from router.errors import InvalidRequest
from strategies import BeamSearch, Majority, Revision, Single
from tests.offline.test_collect import PROBLEMS, UNITS, engines, problem, run
from tests.support.fake_vllm import FakeVllm


class Patient(FakeVllm):
    """A server that answers only while it is full, or has been asked for everything, and then the oldest request."""

    def __init__(self, full: int, samples: int):
        super().__init__()
        self.full = full
        self.to_come = samples
        self.queue: deque[asyncio.Event] = deque()

    async def _begun(self, body: dict) -> None:
        self.to_come -= body["n"]
        turn = asyncio.Event()
        self.queue.append(turn)
        if self.writing == self.full or not self.to_come:
            self.queue.popleft().set()
        await turn.wait()

    def _ended(self) -> None:
        if self.queue and not self.to_come:
            self.queue.popleft().set()


@pytest.mark.timeout(120)
def test_a_server_is_kept_full_until_nothing_is_left(tmp_path):
    """Were it ever left with less than it may have while there is work, it would wait for ever."""
    units = [Unit(problem(i), None, 4) for i in range(40)]
    server = Patient(full=16, samples=160)
    collect(
        units,
        lambda: engines(server.generator(), LogProbability()),
        tmp_path / "a.parquet",
        settings={},
        concurrency=16,
    )
    assert server.most == (4, 16)
    assert len(read_attempts([tmp_path / "a.parquet"])) == 160


def test_no_more_is_asked_of_a_server_than_was_said(tmp_path):
    """Beam search has its own request for each candidate; the narrow fills the room that the wide leaves."""
    arms = [None, BeamSearch(n=6, m=2), Single(), Revision(n=4, chains=2), Majority(n=3)]
    units = [Unit(problem(i, "{i} + 5 - 2 + 3 ="), arm, 4) for i in range(12) for arm in arms]
    server = FakeVllm(latency=0.001)
    collect(
        units,
        lambda: engines(server.generator(), LogProbability()),
        tmp_path / "a.parquet",
        settings={},
        concurrency=10,
    )
    requests, samples = server.most
    assert 4 <= requests <= samples <= 10
    assert samples >= 8


def test_a_unit_that_is_wider_than_all_room_is_refused(tmp_path):
    units = [*UNITS, Unit(PROBLEMS[0], Majority(n=9), 0)]
    with pytest.raises(
        InvalidRequest, match=r"8 attempts at the same time, and majority\(n=9\) needs 9; raise it"
    ) as raised:
        run(tmp_path / "a.parquet", units)
    assert raised.value.field == "concurrency"


def test_one_by_one_nothing_waits_for_anything_else(tmp_path):
    units = [Unit(problem(i), arm, 4) for i in range(3) for arm in (None, Single(), BeamSearch(n=4, m=2))]
    ran: list[str] = []

    class Noting(FakeGenerator):
        async def extend(self, prompt, candidates, **options):
            ran.append(prompt.question)
            await asyncio.sleep(0.001)
            return await super().extend(prompt, candidates, **options)

    collect(
        units,
        lambda: engines(Noting(), LogProbability()),
        tmp_path / "a.parquet",
        settings={},
        concurrency=100,
        one_by_one=True,
    )
    assert [question for question, _ in groupby(ran)] == [problem(i).prompt.question for i in range(3)]


class Long(FakeGenerator):
    """Writes 20,000 characters a sample at once."""

    async def extend(self, prompt, candidates, **options):
        await asyncio.sleep(0)
        text = f"{prompt.question}\n".ljust(20_000, ".")
        written = {"steps": (text,), "tokens": (1,), "token_counts": (1,), "log_probs": (-1.0,), "end": "stop"}
        return [replace(candidate, **written) for candidate in candidates]


@pytest.mark.long
def test_memory_does_not_grow_with_what_was_collected(tmp_path):
    units = [Unit(problem(i, "{i} + 5 ="), None, 4) for i in range(100)]
    held, tasks = [], []

    def on_unit(unit: Unit, tally: Tally) -> None:
        held.append(tracemalloc.get_traced_memory()[0])
        tasks.append(len(asyncio.all_tasks()))

    tracemalloc.start()
    try:
        collect(
            units,
            lambda: engines(Long(), LogProbability()),
            tmp_path / "a.parquet",
            settings={},
            concurrency=16,
            on_unit=on_unit,
        )
    finally:
        tracemalloc.stop()
    assert len(held) == 100
    assert held[-1] - held[20] < 2_000_000  # of 6 million characters
    assert max(tasks) <= 16 // 4 + 1  # a unit is begun when there is room for it
