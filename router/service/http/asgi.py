"""An endpoint of the HTTP server as an ASGI application."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import InternalError, RouterError, Stopping, StreamNotRead
from router.service.http.request import Inbound
from router.service.middleware.error_status import log_bug

Endpoint = Callable[[Inbound], Awaitable[Response | None]]
"""Answers a request: returns the reply, or None where it has written one. Raises RouterError."""
Failed = Callable[[RouterError, Inbound], Response]
"""Returns the reply to a request that failed with an error."""


class Asgi:
    """Runs an endpoint, and cancels it, and so its search, when the caller has gone.

    write_seconds  after which a reply ends that its caller does not read
    reads          whether the endpoint reads the body
    """

    def __init__(self, endpoint: Endpoint, write_seconds: float, *, reads: bool, failed: Failed):
        self._endpoint, self._write_seconds, self._reads, self._failed = endpoint, write_seconds, reads, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inbound = Inbound(scope, receive, send, self._write_seconds)
        working = asyncio.ensure_future(self._respond(inbound))
        leaving = asyncio.ensure_future(inbound.gone(reads=self._reads))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the server stops, and its time for running calls is over
            await _cancel(working)
            if not inbound.begun:
                await inbound.reply(self._failed(Stopping("this server stops; try again at another one"), inbound))
        finally:
            await _cancel(working)
            await _cancel(leaving)

    async def _respond(self, inbound: Inbound) -> None:
        try:
            try:
                response = await self._endpoint(inbound)
            except RouterError as error:
                response = self._failed(error, inbound)
            except ClientDisconnect:
                return
            except Exception as error:
                log_bug(inbound.scope["path"], error, inbound.id)
                response = self._failed(InternalError("internal error; the server's log says more"), inbound)
            if response and not inbound.begun:
                await inbound.reply(response)
        except StreamNotRead:
            return  # the connection is gone


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
