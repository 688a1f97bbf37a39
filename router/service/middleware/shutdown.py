"""Refuses calls once the server is about to stop."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from router.errors import Stopping
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class ShutdownRefusal:
    """Refuses all calls from the moment that ``stopping`` is set."""

    def __init__(self, stopping: asyncio.Event):
        self._stopping = stopping

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        def handle(call: Call) -> Awaitable[Any]:
            if self._stopping.is_set():
                raise Stopping("this server is about to stop; try again in a moment, at another one")
            return proceed(call)

        return handle
