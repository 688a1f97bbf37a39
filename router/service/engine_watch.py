"""Whether the models answer, asked all the time: health goes by it, and no call waits for engines that are dead."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2  # imported on use: models in this process need no client

SECONDS = 5.0  # between two looks, and for an answer
AGAIN_SECONDS = 1.0  # between looks while an engine does not answer
FAILURES = 2  # looks in a row without any answer, until engines count as dead
_log = logging.getLogger(__name__)


class EngineWatch:
    """``alive`` is False once no server of any model has answered for a while.

    A server answers when it accepts a connection and says anything below 500. Verifiers are not looked at: what they
    score is not all that is asked for.

    servers  base URLs of models, and the headers that each wants; none: the models are in this process
    changed  is called with ``alive`` when it changes
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
        """Look once, and then from time to time."""
        if self._servers:
            async with self._client() as client:
                self._set(await self._any(client))
            self._watching = asyncio.create_task(self._watch(0 if self.alive else FAILURES))

    def follow(self, servers: Mapping[str, Mapping[str, str]]) -> None:
        """Look at these from now on, for the first time at once. Within the event loop, once started."""
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
        """``failures``: looks in a row that were in vain; ``wait``: seconds until the first, None: as usual."""
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
