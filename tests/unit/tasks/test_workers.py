"""Worker processes under attack: limits of time and memory, fairness, cancelling, closing."""

import asyncio
import gc
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Coroutine
from typing import Any

import pytest

from router.tasks import Allowance, LimitReached, within, workers
from router.tasks.math import MathTask
from router.tasks.turns import on_behalf_of

JOBS = "tests.unit.tasks.jobs"


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    workers.start()


async def test_runs_and_remembers():
    assert await workers.run(f"{JOBS}:echo", "remembered") == "remembered"
    allowance = Allowance()
    with within(allowance):
        assert await workers.run(f"{JOBS}:echo", "remembered") == "remembered"
    assert allowance.used == 0


async def test_neither_long_arguments_nor_long_results_are_remembered():
    tracemalloc.start()
    for i in range(20):
        assert await workers.run("builtins:len", f"{i:1000000d}") == 1_000_000
        assert len(await workers.run("builtins:format", i, "1000000d")) == 1_000_000
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5_000_000  # of 40 megabytes
    allowance = Allowance()
    with within(allowance):
        assert await workers.run("builtins:len", f"{1:1000000d}") == 1_000_000
    assert allowance.used == 0  # by its digest


async def test_an_answer_has_bounded_time_and_what_ran_out_of_it_is_not_remembered():
    for _ in range(2):
        allowance = Allowance(seconds=0.2)
        with within(allowance), pytest.raises(LimitReached):
            await workers.run(f"{JOBS}:spin", "a")
        assert 0.1 < allowance.used < 1  # seconds of a processor, however busy it is
        assert allowance.as_text == 1


async def test_a_call_has_bounded_time_whatever_the_number_of_its_answers():
    allowance = Allowance(seconds=0.5)
    with within(allowance):
        outcomes = await asyncio.gather(
            *(workers.run(f"{JOBS}:spin", f"call {i}") for i in range(64)), return_exceptions=True
        )
    assert all(isinstance(outcome, LimitReached) for outcome in outcomes)
    assert allowance.used < 2.5  # each of the workers may be at one that began in time
    assert allowance.as_text == 64


async def test_one_call_cant_make_another_wait():
    hostile = Allowance(seconds=30)
    with within(hostile):
        spinning = [asyncio.create_task(workers.run(f"{JOBS}:spin", f"rival {i}")) for i in range(12)]
    await asyncio.sleep(0.1)
    honest = Allowance()
    with within(honest):
        assert [await workers.run(f"{JOBS}:echo", f"honest {i}") for i in range(1, 5)]
    assert sum(not task.done() for task in spinning) >= 11  # all but one were there before, and wait
    for task in spinning:
        task.cancel()
    await asyncio.gather(*spinning, return_exceptions=True)


async def test_of_two_waiting_calls_the_one_that_has_used_less_goes_first():
    greedy, modest = Allowance(seconds=30), Allowance(seconds=30)
    greedy.used = modest.used = workers._FRESH + 1  # neither may have the last worker
    greedy.used += 1
    order: list[str] = []

    async def one(name: str, allowance: Allowance, seconds: float) -> None:
        with within(allowance):
            await workers.run(f"{JOBS}:nap", seconds)
        order.append(name)

    first = [asyncio.create_task(one("running", Allowance(), 0.5 + i / 1000)) for i in range(8)]
    await asyncio.sleep(0)  # they have the workers now, or wait before the others
    await asyncio.gather(one("greedy", greedy, 0.001), one("modest", modest, 0.002), *first)
    assert order[-2:] == ["modest", "greedy"]


async def test_the_last_worker_is_for_a_fresh_call_whoever_waits_before_it():
    """A call that has used much may not have it, and must not keep it from one that may."""
    used = Allowance(seconds=30)
    used.used = workers._FRESH + 1
    count = max(2, min(4, os.cpu_count() or 2))
    with on_behalf_of("greedy"):
        napping = [
            asyncio.create_task(_within(Allowance(), workers.run(f"{JOBS}:nap", 2 + i / 1000)))
            for i in range(count - 1)  # all workers but one
        ]
    await asyncio.sleep(0)
    with on_behalf_of("other"):
        waiting = asyncio.create_task(_within(used, workers.run(f"{JOBS}:echo", "used")))
    await asyncio.sleep(0)
    with on_behalf_of("greedy"):
        assert await _within(Allowance(), workers.run(f"{JOBS}:echo", "fresh")) == "fresh"
    assert not any(each.done() for each in napping)  # it did not wait for them, as the other call does
    assert await waiting == "used"
    await asyncio.gather(*napping)


async def _within(allowance: Allowance, job: Coroutine[Any, Any, Any]) -> Any:
    with within(allowance):
        return await job


async def test_many_calls_of_one_caller_cant_make_another_caller_wait():
    async def one(caller: str, i: int) -> str:
        with on_behalf_of(caller), within(Allowance()):
            await workers.run(f"{JOBS}:nap", 0.1 + i / 1000)
        return caller

    calls = [asyncio.create_task(one("greedy", i)) for i in range(30)]
    await asyncio.sleep(0)  # they have the workers now, or wait before the other
    calls.append(asyncio.create_task(one("modest", 31)))
    order = [await each for each in asyncio.as_completed(calls)]
    assert order.index("modest") <= 2 * 4  # of the most workers: after those that ran, with those that began with it


async def test_cancelling_ends_the_job_at_once():
    allowance = Allowance(seconds=30)
    with within(allowance):
        tasks = [asyncio.create_task(workers.run(f"{JOBS}:spin", f"cancelled {i}")) for i in range(8)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    begun = time.monotonic()
    assert await workers.run(f"{JOBS}:echo", "after cancelling") == "after cancelling"
    assert time.monotonic() - begun < 20  # a busy machine; usually some hundredths, and 30 if they went on
    assert allowance.used < 2


async def test_a_deadline_around_a_key_is_kept():
    with within(Allowance(seconds=100)), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await workers.run(f"{JOBS}:spin", "deadline")


async def test_a_worker_has_bounded_memory():
    with pytest.raises(LimitReached):
        await workers.run(f"{JOBS}:hoard", 2)
    assert await workers.run(f"{JOBS}:echo", "after hoarding") == "after hoarding"


async def test_a_job_that_fails_is_no_answer():
    with pytest.raises(LimitReached) as caught:
        await workers.run(f"{JOBS}:broken", "why")
    assert "why" in str(caught.value.__cause__)


async def test_a_worker_that_cant_be_interrupted_is_killed_and_replaced(monkeypatch):
    monkeypatch.setattr(workers, "_HARD", 0.3)
    with within(Allowance(seconds=0.1)), pytest.raises(LimitReached):
        await workers.run(f"{JOBS}:stuck", "once")
    assert await workers.run(f"{JOBS}:echo", "after killing") == "after killing"


async def test_closing_is_quick_however_busy_the_workers_are():
    tasks = [asyncio.create_task(workers.run(f"{JOBS}:stuck", f"closing {i}")) for i in range(8)]
    await asyncio.sleep(0.3)
    begun = time.monotonic()
    workers.close()
    took = time.monotonic() - begun
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert took < 20  # a busy machine; usually two tenths
    assert all(isinstance(outcome, LimitReached) for outcome in outcomes)
    assert await workers.run(f"{JOBS}:echo", "after closing") == "after closing"  # begins anew


async def test_without_processes_answers_are_text(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    workers.close()
    monkeypatch.setattr(workers, "_Pool", refuse)
    allowance = Allowance()
    with within(allowance):
        assert await MathTask().key("\\sqrt{48} + 1") == "\\sqrt{48} + 1"
    assert allowance.as_text == 1
    monkeypatch.undo()
    assert await MathTask().key("\\sqrt{48} + 1") == "1 + 4 \\sqrt{3}"  # not remembered, and tried again


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9}}",
        "9^{9^{9^{9^9}}}",
        "123456789!",
        "(x+1)^{99}(x-1)^{99}",
        "5^{\\left(5^{\\left(5^{\\left(5^5\\right)}\\right)} - 4\\right)}",
        "x^{1000000000}",
        "((9!)!)!",
        "(1+x+y+z)^{40}",
        "\\sum_{k=1}^{10^9} k!",
        "\\binom{10^9}{5 \\cdot 10^8}",
        "10^{999999999}",
        "1e999999999",
        "(" * 140 + "x" + ")" * 140,
        "\\frac{" * 40 + "1" + "}{2}" * 40,
        "x" + "^{x" * 90 + "}" * 90,
    ],
)
async def test_hostile_expressions_are_cheap_text(hostile):
    allowance = Allowance()
    with within(allowance):
        key = await MathTask().key(hostile)
        assert key
        assert await MathTask().key(hostile) == key
    assert allowance.used < 1.2


async def test_what_is_compared_as_text_is_counted():
    allowance = Allowance()
    with within(allowance):
        assert await MathTask().key("9^{9^{9}}") == "9^{9^{9}}"
        assert await MathTask().key("(x+1)^{99}(x-1)^{99}") == "(x+1)^{99}(x-1)^{99}"
        assert await MathTask().key("72") == "72"
        assert await MathTask().key("Friday") == "friday"
    assert allowance.as_text == 2


@pytest.mark.parametrize(("error", "told"), [("EOFError()", ""), ("ValueError('four')", "ValueError: four\n")])
def test_a_worker_whose_server_ended_while_it_started_says_nothing(error, told):
    program = f"import sys, router.tasks.warm; sys.excepthook(type({error}), {error}, None)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == told


def test_jobs_that_wait_for_a_pool_that_breaks_are_told_so(monkeypatch):
    pool = workers._Pool(1)
    try:
        (place,), pool._free = pool._free, []
        waiting = [pool.submit(workers._Job(f"{JOBS}:echo", (str(i),), Allowance())) for i in range(3)]
        monkeypatch.setattr(pool._pool, "schedule", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("broken")))
        pool._free = [place]
        pool._next()
        assert [type(each.exception(timeout=5)) for each in waiting] == [workers.NoWorkers] * 3
        assert pool.broken
    finally:
        pool.close()
