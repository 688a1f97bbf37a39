"""How many calls may be open at once: finished ones cost nothing, open ones hold memory and a stream."""

import asyncio
from collections import Counter, OrderedDict
from typing import Any

from router.errors import TooManyCalls
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class OpenCalls:
    """Refuses a call where ``limit`` are open, or where its caller holds half of these.

    Stands within Authentication: who is refused there holds nothing.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._open: Counter[str] = Counter()
        self._total = 0

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        share = max(1, self._limit // 2)

        async def handle(call: Call) -> Any:
            caller = call.progress.caller
            name = caller.name if caller else call.peer.address
            if self._total >= self._limit or self._open[name] >= share:
                whose = f"{name} holds {self._open[name]}" if self._open[name] >= share else "all callers together"
                raise TooManyCalls(f"{self._total} calls are open, {whose}; end some, or try again in a second")
            self._open[name] += 1
            self._total += 1
            try:
                return await proceed(call)
            finally:
                self._total -= 1
                self._open[name] -= 1
                if not self._open[name]:
                    del self._open[name]

        return handle


class NewestCalls:
    """Ends the oldest open call of the address that has most, where there are ``limit`` and another one comes in.

    For calls that need no token and must always be answered: whoever floods them ends their own.
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
