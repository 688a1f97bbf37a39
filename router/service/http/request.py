"""One HTTP request: who sent it, until when, its body within limits, and its reply, which must be read."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import InvalidRequest, StreamNotRead
from router.service.auth.callers import Peer
from router.service.middleware.call import REQUEST_ID, Call, call_id
from router.service.router_service import ROUTER

MAX_BODY_BYTES = 2**20  # as much as a gRPC message may have
MAX_FIELDS = 50  # of a form
BODY_SECONDS = 30.0  # that a body may take to arrive
TIMEOUT = "x-request-timeout"  # seconds that the caller waits: HTTP itself has no deadline
_CLIENTS_OWN = ("x-stainless-read-timeout", "x-stainless-timeout")  # what OpenAI's clients say of theirs


class Inbound:
    """A request before it is a Call, and the way back.

    metadata  its headers, by lower-case name;  id  of the call
    begun     whether its reply has begun
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, write_seconds: float):
        self.scope, self.receive = scope, receive
        self.started = time.monotonic()
        self.metadata: Mapping[str, str] = dict(Request(scope).headers)
        self.id = call_id(self.metadata)
        self.begun = False
        self._send, self._write_seconds = send, write_seconds
        self._connection: Mapping[str, Any] = scope.get("state", {})
        client = scope.get("client")
        self.peer = Peer(_address(client[0] if client else ""), self._connection.get("certificate_name"))
        self._deadline: float | None = None
        self._body_read = asyncio.Event()

    def set_deadline(self) -> None:
        """From the headers. Raises InvalidRequest."""
        seconds = _seconds(self.metadata)
        self._deadline = None if seconds is None else self.started + seconds

    def call(self, method: str, content: Any, send: Callable[[Any], Awaitable[None]] | None = None) -> Call:
        return Call(
            self.id,
            ROUTER,
            method,
            self.metadata,
            self.peer,
            self.started,
            self._deadline,
            content,
            send or _send_nothing,
            door="http",
        )

    async def json(self) -> Any:
        """The body. Raises InvalidRequest."""
        if self._content_type != "application/json":  # a page of another site can send all others without being asked
            raise InvalidRequest(
                "content-type", "send JSON, with the header content-type: application/json", reason="MESSAGE_MALFORMED"
            )
        body = await self._body_in_time()
        try:
            return json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("", f"the body is no JSON: {error}", reason="MESSAGE_MALFORMED") from error

    async def form(self) -> dict[str, str]:
        """The body as a page's form sends it; of a field that is there twice the last one. Raises InvalidRequest."""
        if self._content_type != "application/x-www-form-urlencoded":
            raise InvalidRequest("content-type", "this takes a page's form", reason="MESSAGE_MALFORMED")
        try:
            body = (await self._body_in_time()).decode()
            return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
        except ValueError as error:
            raise InvalidRequest("", f"the body is no form: {error}", reason="MESSAGE_MALFORMED") from error

    @property
    def _content_type(self) -> str:
        return self.metadata.get("content-type", "").partition(";")[0].strip().lower()

    async def _body_in_time(self) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._body()
        except TimeoutError:
            raise InvalidRequest(
                "", f"the body did not arrive within {BODY_SECONDS:.0f} s", reason="MESSAGE_MALFORMED"
            ) from None

    async def _body(self) -> bytes:
        pieces, size = [], 0
        async for piece in Request(self.scope, self.receive).stream():
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise InvalidRequest("", f"the body is larger than {MAX_BODY_BYTES} bytes", reason="PROMPT_TOO_LONG")
            pieces.append(piece)
        self._body_read.set()
        return b"".join(pieces)

    async def reply(self, response: Response) -> None:
        """Raises StreamNotRead."""
        response.headers[REQUEST_ID] = self.id
        self.begun = True
        await response(self.scope, self.receive, self._written)

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Of a reply whose body is written bit by bit."""
        self.begun = True
        raw = [(name.encode(), value.encode()) for name, value in {**headers, REQUEST_ID: self.id}.items()]
        await self._written({"type": "http.response.start", "status": 200, "headers": raw})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Waits until the connection takes it. Raises StreamNotRead."""
        await self._written({"type": "http.response.body", "body": body, "more_body": more})

    async def _written(self, message: Any) -> None:
        # Who does not read may not keep a place to search for ever.
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._send(message)
        except TimeoutError:
            if abort := self._connection.get("abort"):
                abort()
            raise StreamNotRead(f"nothing of the stream was read for {self._write_seconds:.0f} s") from None

    async def gone(self, *, reads: bool) -> None:
        """Returns once the caller has closed the connection, looked at after its body was read where that is needed."""
        if reads:
            await self._body_read.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass


def _seconds(metadata: Mapping[str, str]) -> float | None:
    if TIMEOUT in metadata:
        try:
            seconds = float(metadata[TIMEOUT])
            if not 0 < seconds < float("inf"):
                raise ValueError
        except ValueError:
            raise InvalidRequest(TIMEOUT, f"{TIMEOUT} must be seconds above 0", reason="MESSAGE_MALFORMED") from None
        return seconds
    for name in _CLIENTS_OWN:
        try:
            seconds = float(metadata.get(name, ""))
        except ValueError:  # "None" where it waits for ever
            continue
        if 0 < seconds < float("inf"):
            return seconds
    return None


def _address(host: str) -> str:
    """As gRPC writes it: callers have one name, whichever door they come through."""
    return f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


async def _send_nothing(event: Any) -> None:
    raise TypeError("a method with one reply sends no events")
