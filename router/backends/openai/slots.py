"""How many samples llama.cpp's servers work on at a time.

What is more waits here, in the order of asking: there it would wait without a word, until the server looked dead.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from router.backends.replicas import Replicas

PATH = "/props"  # llama.cpp's own; other servers have none, and no bound


class Slots:
    """Of all replicas of a model together.

    each  of the replica that has fewest; None: not known, or no bound
    """

    def __init__(self, replicas: Replicas):
        self.each: int | None = None
        self._replicas = replicas
        self._asked = False
        self._total: int | None = None
        self._taken = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def take(self, wanted: int) -> AsyncIterator[None]:
        """Hold as many while the server works; more than there are take them all."""
        async with self._turn:
            if not self._asked:
                await self._ask()
            while self._total and self._taken and self._taken + wanted > self._total:
                self._freed.clear()
                await self._freed.wait()
            self._taken += wanted
        try:
            yield
        finally:
            self._taken -= wanted
            self._freed.set()

    async def _ask(self) -> None:
        answers = await self._replicas.ask_each(PATH)
        self._asked = all(answer is not None for answer in answers)  # one that was not there is asked again
        counts = [count for count in map(_count, answers) if count]
        if counts and len(counts) == len(answers):
            self.each, self._total = min(counts), sum(counts)


def _count(answer: Any) -> int | None:
    with suppress(TypeError, LookupError, ValueError):
        return int(answer["total_slots"])
    return None
