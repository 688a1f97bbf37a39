"""Asks the model servers regularly whether they answer. Health depends on it, and calls need not wait for dead ones."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2  # imported on use: models in this process need no client

SECONDS = 5.0  # between two rounds of questions, and for an answer
AGAIN_SECONDS = 1.0  # between rounds while no engine answers
FAILURES = 2  # rounds in a row without any answer after which the engines count as dead
_log = logging.getLogger(__name__)


class EngineWatch:
    """Watches model servers. ``alive`` is False once no server of any model has answered for a while.

    A server answers when it accepts a connection and replies with a status below 500. Verifiers are not asked, since
    many requests need none.

    servers  base URLs of models, with the headers that each wants; empty: the models are in this process
    changed  called with ``alive`` when it changes
    """

    def __init__(
        self,
        servers: Mapping[str, Mapping[str, str]],
        *,
        changed: Callable[[bool], None] = lambda alive: None,
        seconds: float = SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ):
        self.alive = True
        self.changed = changed
        self._servers = servers
        self._seconds, self._again = seconds, again_seconds
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask the servers once, then regularly in the background."""
        if self._servers:
            async with self._client() as client:
                self._set(await self._any(client))
            self._watching = asyncio.create_task(self._watch(0 if self.alive else FAILURES))

    def follow(self, servers: Mapping[str, Mapping[str, str]]) -> None:
        """Watch these servers from now on, and ask them at once. Call it in the event loop, after :meth:`start`."""
        if servers == self._servers:
            return
        self._servers = servers
        if self._watching:
            self._watching.cancel()
            self._watching = None
        if servers:
            self._watching = asyncio.create_task(self._watch(FAILURES - 1, 0.0))
        else:
            self._set(True)

    async def stop(self) -> None:
        if self._watching:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    def _client(self) -> "httpx2.AsyncClient":
        import httpx2

        return httpx2.AsyncClient(timeout=self._seconds)

    async def _watch(self, failures: int, wait: float | None = None) -> None:
        """Ask regularly. ``failures``: failed rounds so far; ``wait``: seconds before the first; None: as usual."""
        async with self._client() as client:
            while True:
                if wait is None:
                    wait = self._again if failures else self._seconds
                await asyncio.sleep(wait)
                wait = None
                failures = 0 if await self._any(client) else failures + 1
                if not failures or failures >= FAILURES:
                    self._set(not failures)

    async def _any(self, client: "httpx2.AsyncClient") -> bool:
        looks = [asyncio.ensure_future(self._answers(client, url)) for url in self._servers]
        try:
            for look in asyncio.as_completed(looks):
                if await look:
                    return True
            return False
        finally:
            for each in looks:
                each.cancel()
            await asyncio.gather(*looks, return_exceptions=True)

    async def _answers(self, client: "httpx2.AsyncClient", url: str) -> bool:
        import httpx2

        try:
            async with asyncio.timeout(self._seconds):
                response = await client.get(url.rstrip("/") + "/models", headers=dict(self._servers[url]))
        except (httpx2.HTTPError, TimeoutError):
            return False
        return not response.is_server_error

    def _set(self, alive: bool) -> None:
        if alive != self.alive:
            self.alive = alive
            if alive:
                _log.info("a model answers again")
            else:
                _log.error("no model answers at %s", ", ".join(self._servers))
            self.changed(alive)
