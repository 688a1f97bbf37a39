"""Refuses calls once the server is about to stop, and ends those that outlast their time."""

import asyncio
from typing import Any

from router.errors import Stopping
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class Shutdown:
    """Refuses all calls from the moment that ``stopping`` is set, and ends those that run at :meth:`end_all`."""

    def __init__(self, stopping: asyncio.Event):
        self._stopping = stopping
        self._running: set[asyncio.Task[Any]] = set()
        self._over = False

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            if self._stopping.is_set():
                raise Stopping("this server is about to stop; try again in a moment, at another one")
            task = asyncio.current_task()
            assert task
            self._running.add(task)
            try:
                return await proceed(call)
            except asyncio.CancelledError:
                # A call that its caller or its door has cancelled as well ends without a word.
                if not self._over or task.uncancel():
                    raise
                error = Stopping("this server stops, and its time for running calls is over; try again at another one")
                error.bill = call.progress.bill
                raise error from None
            finally:
                self._running.discard(task)

        return handle

    def end_all(self) -> None:
        """End the running calls with Stopping and their bills, while their doors can still send these."""
        self._over = True
        for task in self._running:
            task.cancel()
