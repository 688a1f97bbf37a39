"""Limits how many calls may be open at once, since each holds memory and a stream."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from router.errors import TooManyCalls
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class OpenCalls:
    """Refuses a call where ``limit`` calls are open, or where its caller has half of these.

    Stands inside Authentication, so that callers it refuses don't count.
    """

    def __init__(self, limit: int):
        self._limit, self._share = limit, max(1, limit // 2)
        self._open: Counter[str] = Counter()
        self._total = 0

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            caller = call.progress.caller
            with self.place(caller.name if caller else call.peer.address):
                return await proceed(call)

        return handle

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """Count one more open call of a caller; also for what is no call yet, but will be. Raises TooManyCalls."""
        if self._total >= self._limit or self._open.get(name, 0) >= self._share:
            whose = (
                f"{name} has {self._open[name]}" if self._open.get(name, 0) >= self._share else "all callers together"
            )
            raise TooManyCalls(f"{self._total} calls are open, {whose}; end some, or try again in a second")
        self._open[name] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


class NewestCalls:
    """Ends a call when another comes in while ``limit`` are open: the oldest one of the address with the most.

    For calls that need no token and must always be answered. Who floods the server with them loses their own.
    """

    def __init__(self, limit: int):
        self._limit = limit
        # By address, the oldest call first.
        self._open: dict[str, OrderedDict[int, asyncio.Timeout]] = {}
        self._begun = 0

    @property
    def total(self) -> int:
        return sum(map(len, self._open.values()))

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            while self.total >= self._limit:
                self._end_one()
            self._begun += 1
            address, number = call.peer.address, self._begun
            scope = asyncio.timeout(None)
            self._open.setdefault(address, OrderedDict())[number] = scope
            try:
                async with scope:
                    return await proceed(call)
            except TimeoutError:
                if not scope.expired():
                    raise
                raise TooManyCalls("ended for a newer call: too many of these are open from one address") from None
            finally:
                self._forget(address, number)

        return handle

    def _end_one(self) -> None:
        address = max(self._open, key=lambda each: len(self._open[each]))
        number, scope = next(iter(self._open[address].items()))
        self._forget(address, number)
        scope.reschedule(asyncio.get_running_loop().time())

    def _forget(self, address: str, number: int) -> None:
        calls = self._open.get(address)
        if calls is not None:
            calls.pop(number, None)
            if not calls:
                del self._open[address]
