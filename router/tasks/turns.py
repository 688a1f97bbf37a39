"""Gives turns at something scarce, fairly among those for whom the work is done."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

_caller: "ContextVar[str]" = ContextVar("caller", default="")


@contextmanager
def on_behalf_of(caller: str) -> Iterator[None]:
    """Count what is begun inside to this caller. Work outside, as a command's, counts to one caller without a name."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def caller() -> str:
    """Return the name of the caller for whom this code runs."""
    return _caller.get()


class Turns:
    """Places, each held for a turn. A free place goes to the waiting caller that holds the fewest, and of these to the
    one that was served longest ago. An instance belongs to one event loop.
    """

    def __init__(self, places: int):
        self._free = places
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by caller, longest ago first; none is empty

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it: ``async with turns.turn(): ...``."""
        name = caller()
        await self._enter(name)
        try:
            yield
        finally:
            self._leave(name)

    async def _enter(self, name: str) -> None:
        if self._free:
            self._take(name)
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(name, place)
            else:  # given just before the cancellation
                self._leave(name)
            raise

    def _take(self, name: str) -> None:
        self._free -= 1
        self._held[name] += 1

    def _leave(self, name: str) -> None:
        """Free a place, and give it to the caller whose turn it is."""
        self._free += 1
        self._held[name] -= 1
        self._held += Counter()  # drops callers without a place
        while self._free and self._waiting:
            following = min(self._waiting, key=lambda each: self._held[each])
            places = self._waiting.pop(following)
            place = places.popleft()
            if places:
                self._waiting[following] = places  # behind all others
            if not place.done():  # a call that was cancelled a moment ago is done
                self._take(following)
                place.set_result(None)

    def _forget(self, name: str, place: "asyncio.Future[None]") -> None:
        places = self._waiting.get(name, deque())
        if place in places:
            places.remove(place)
        if not places:
            self._waiting.pop(name, None)
