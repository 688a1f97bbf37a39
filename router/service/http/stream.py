"""A streamed chat completion: server-sent events, each a chunk in OpenAI's format."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from router.backends.specs import ModelSpec
from router.service.http import replies
from router.service.http.request import Inbound
from router.service.http.requests import Chat
from router.solving.solver import Solution
from router.v1 import router_pb2 as pb

QUIET_SECONDS = 15.0  # after which a comment is sent, since a proxy on the way may close idle connections
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}


class Events:
    """Writes a stream's events. Nothing is written before the first one, so that errors until then have a status.

    The text is sent once it is chosen. Callers who asked for progress also get rounds and the stages of
    cascades, in chunks without choices.
    """

    def __init__(self, inbound: Inbound, chat: Chat):
        self._inbound, self._chat = inbound, chat
        self._head = replies.head(inbound.id, "chat.completion.chunk")
        self._solution: pb.Solution | None = None
        self._spoken = False
        self._held: Mapping[str, Any] | None = None
        self._last = time.monotonic()
        self._sending = asyncio.Lock()

    async def take(self, event: pb.StreamSolveResponse) -> None:
        match event.WhichOneof("event"):
            case "round" if self._chat.progress:
                await self._chunk([], router={"progress": replies.as_json(event.round)})
            case "stage" if self._chat.progress:
                await self._chunk([], router={"stage": replies.as_json(event.stage)})
            case "text":
                await self._say(event.text)
            case "solution":
                self._solution = event.solution

    @asynccontextmanager
    async def kept_alive(self, searching: Callable[[], bool]) -> AsyncIterator[None]:
        """Send comments in long silences. ``searching``: whether the search began; until then errors have a status."""

        async def breathe() -> None:
            while True:
                await asyncio.sleep(QUIET_SECONDS / 3)
                if searching() and time.monotonic() - self._last > QUIET_SECONDS:
                    await self._send(": searching\n\n")

        task = asyncio.create_task(breathe())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # the call itself sees a connection that is lost

    async def end(self, found: Solution | None, writers: Sequence[ModelSpec]) -> None:
        """Write the solution's last chunks. ``writers``: the models of the solution's arm."""
        solution = self._solution
        if solution is None:
            raise AssertionError("a stream ends with its solution")
        if not self._spoken:
            await self._say("")
        finish = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": replies.finish_reason(found)}
        await self._chunk([finish], router=replies.router(self._chat, solution, writers))
        if self._chat.fields.stream_options.include_usage:
            await self._chunk([], usage=replies.usage(solution.bill))
        await self._send("data: [DONE]\n\n", more=False)

    async def forward(self, event: Mapping[str, Any]) -> None:
        """Pass on an event of a model's own stream, one behind: the last one gets more fields at the end."""
        if self._held:
            await self._send_json(self._held)
        self._held = replies.forwarded(self._inbound.id, "chat.completion.chunk", event)

    async def end_forwarding(self, bill: pb.Bill, router: Mapping[str, Any]) -> None:
        await self._send_json({**(self._held or {**self._head, "choices": []}), "router": router})
        if self._chat.fields.stream_options.include_usage:
            await self._chunk([], usage=replies.usage(bill))
        await self._send("data: [DONE]\n\n", more=False)

    async def fail(self, body: Mapping[str, Any]) -> None:
        """Write the error of a stream that had begun, as its last event."""
        await self._send(f"data: {json.dumps(body)}\n\n", more=False)

    async def _say(self, text: str) -> None:
        delta = {"content": text} if self._spoken else {"role": "assistant", "content": text}
        self._spoken = True
        await self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    async def _chunk(self, choices: list[Mapping[str, Any]], **more: Any) -> None:
        usage = {"usage": None} if self._chat.fields.stream_options.include_usage else {}
        chunk = {**self._head, "choices": choices, **usage, **more}
        await self._send_json(chunk)

    async def _send_json(self, event: Mapping[str, Any]) -> None:
        await self._send(f"data: {json.dumps(event, ensure_ascii=False)}\n\n")

    async def _send(self, text: str, *, more: bool = True) -> None:
        async with self._sending:
            if not self._inbound.begun:
                await self._inbound.begin(HEADERS)
            self._last = time.monotonic()
            # A model may write half of a surrogate pair, which can't be encoded in UTF-8.
            await self._inbound.write(text.encode(errors="replace"), more=more)
