"""Limits the samples sent to llama.cpp's servers to as many as they work on at a time.

Further samples wait here, in the order of asking. Sent on, they would wait in the server's queue without any sign of
life, until the server looked dead.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from router.backends.replicas import Replicas

AGAIN_SECONDS = 30.0
PATH = "/props"  # only llama.cpp's servers have this path; others get no limit


class Slots:
    """Counts the slots of all replicas of a model together. A slot works on one sample.

    each  slots of the replica with the fewest; None: unknown, or no limit
    """

    def __init__(self, replicas: Replicas):
        self.each: int | None = None
        self._replicas = replicas
        self._ask_at = 0.0  # of time.monotonic; infinite: all have answered
        self._total: int | None = None
        self._taken = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def take(self, wanted: int) -> AsyncIterator[None]:
        """Wait for ``wanted`` free slots and hold them inside the block; where there are fewer in all, hold all."""
        async with self._turn:
            if time.monotonic() >= self._ask_at:
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
        # A replica that did not answer is asked again, but not at each call: an answer may take seconds not to come.
        known = all(answer is not None for answer in answers)
        self._ask_at = math.inf if known else time.monotonic() + AGAIN_SECONDS
        counts = [count for count in map(_count, answers) if count]
        if counts and len(counts) == len(answers):
            self.each, self._total = min(counts), sum(counts)


def _count(answer: Any) -> int | None:
    with suppress(TypeError, LookupError, ValueError):
        return int(answer["total_slots"])
    return None
