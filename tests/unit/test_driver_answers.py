"""Comparing answers is part of a call: under its deadline, cancelled with it, and bounded whatever was written."""

import asyncio
import time

import pytest

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.errors import DeadlineExceeded
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import StopReason, drive
from router.solving.request import Request
from router.tasks import Allowance, PlainTask, workers
from tests.support.searches import finished, named

LONG = 60.0  # seconds, which no test waits


class Slow(PlainTask):
    """Takes its time over each answer. ``asked`` has the answers, ``ended`` how many were given up."""

    def __init__(self, seconds: float = LONG):
        self.seconds = seconds
        self.asked: list[str] = []
        self.ended = 0

    async def key(self, answer: str) -> str:
        self.asked.append(answer)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.ended += 1
            raise
        return "a key"


class Endless(PlainTask):
    """Has a worker process compute each answer, which never ends."""

    async def key(self, answer: str) -> str:
        return str(await workers.run("tests.unit.tasks.jobs:spin", answer))


def search(task, write, *, n=4, allowance=None, **request):
    """A majority of ``n`` whose candidates are written by ``write(number)``."""
    numbers = iter(range(10_000))
    generator = FakeGenerator(write=lambda prompt, candidate, rng: write(next(numbers)))
    engines = Engines({"small": generator}, "small", FakeVerifier())
    return drive(
        named("majority", n=n),
        Request(Prompt.of("7 + 7 ="), **request),
        engines,
        task,
        Bill(),
        **({"allowance": allowance} if allowance else {}),
    )


async def test_at_the_deadline_answers_not_compared_yet_are_their_texts():
    task, begun = Slow(), time.monotonic()
    _, result, stop = await finished(search(task, lambda i: f"the {i % 2}", seconds=0.5, allow_partial=True))
    assert time.monotonic() - begun < LONG / 2
    assert (stop, result.answer, result.share) == (StopReason.DEADLINE, "the 0", 0.5)
    assert task.ended == 2


async def test_without_allow_partial_the_deadline_is_an_error():
    with pytest.raises(DeadlineExceeded):
        await finished(search(Slow(), str, seconds=0.5))


async def test_a_call_that_is_cancelled_compares_no_further():
    task = Slow()

    async def run() -> None:
        await finished(search(task, str))

    running = asyncio.create_task(run())
    while len(task.asked) < 4:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert task.ended == 4


async def test_all_answers_of_a_call_are_paid_from_one_allowance():
    workers.start()
    allowance = Allowance(seconds=0.3)
    _, result, stop = await finished(search(Endless(), lambda i: f"endless {i}", n=16, allowance=allowance))
    assert stop is StopReason.COMPLETE
    assert (result.answer, result.share) == ("endless 0", 1 / 16)
    assert allowance.used < 2.5  # each of the workers may be at one that began in time
    assert allowance.as_text == 16
