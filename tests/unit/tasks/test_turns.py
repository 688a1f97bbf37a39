"""Who is given a place that becomes free."""

import asyncio
from collections.abc import Callable

import pytest

from router.tasks.turns import Turns, caller, on_behalf_of


class Bench:
    """Turns, and those who want one: each keeps its place until it is told to leave."""

    def __init__(self, places: int):
        self.turns = Turns(places)
        self.sitting: list[str] = []
        self.leave: dict[str, Callable[[], None]] = {}

    async def sit(self, name: str) -> asyncio.Task[None]:
        """Ask for a turn. The first letter is the caller's name."""

        async def hold() -> None:
            leave = asyncio.Event()
            self.leave[name] = leave.set
            async with self.turns.turn():
                self.sitting.append(name)
                await leave.wait()
            self.sitting.remove(name)

        with on_behalf_of(name[0]):
            task = asyncio.create_task(hold())
        await self.settle()
        return task

    async def stand(self, name: str) -> list[str]:
        self.leave[name]()
        await self.settle()
        return self.sitting

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def bench() -> Bench:
    return Bench(2)


async def test_one_caller_may_have_all_places_while_nobody_else_wants_one(bench):
    for name in ("a1", "a2", "a3"):
        await bench.sit(name)
    assert bench.sitting == ["a1", "a2"]
    assert await bench.stand("a1") == ["a2", "a3"]


async def test_a_free_place_goes_to_who_has_the_fewest(bench):
    for name in ("a1", "a2", "a3", "a4", "b1", "b2"):
        await bench.sit(name)
    assert await bench.stand("a1") == ["a2", "b1"]
    assert await bench.stand("b1") == ["a2", "b2"]  # b has none then, a has one
    assert await bench.stand("a2") == ["b2", "a3"]


async def test_of_equals_the_one_served_longest_ago_goes_first():
    bench = Bench(1)
    for name in ("a1", "b1", "b2", "c1", "a2"):
        await bench.sit(name)
    order = []
    for _ in range(5):
        order += bench.sitting
        await bench.stand(bench.sitting[0])
    assert order == ["a1", "b1", "c1", "a2", "b2"]


async def test_a_turn_that_is_cancelled_goes_to_the_next(bench):
    tasks = [await bench.sit(name) for name in ("a1", "a2", "b1", "c1")]
    tasks[2].cancel()  # while it waits
    assert await bench.stand("a1") == ["a2", "c1"]
    last = await bench.sit("d1")
    bench.leave["a2"]()
    await asyncio.sleep(0)  # given to d, which does not know yet
    last.cancel()
    await bench.settle()
    await bench.sit("e1")
    await bench.sit("e2")
    assert bench.sitting == ["c1", "e1"]
    tasks[1].cancel()
    tasks[3].cancel()


async def test_work_of_no_caller_counts_to_one_without_a_name():
    assert caller() == ""
    with on_behalf_of("search-team"):
        assert await asyncio.create_task(_caller()) == "search-team"
    assert caller() == ""


async def _caller() -> str:
    return caller()
