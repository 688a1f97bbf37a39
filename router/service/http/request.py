"""One HTTP request: its caller, its deadline, its body within limits, and its reply, which must be read in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import InvalidRequest, StreamNotRead
from router.service.auth.callers import Peer
from router.service.http import bounded_json
from router.service.middleware.call import REQUEST_ID, Call, call_id
from router.service.router_service import ROUTER

MAX_BODY_BYTES = 2**20  # as much as a gRPC message may have
MAX_FIELDS = 50  # of a form
BODY_SECONDS = 30.0  # within which a body must arrive
TIMEOUT = "x-request-timeout"  # header with the seconds that the caller waits, since HTTP has no deadlines
_CLIENTS_OWN = ("x-stainless-read-timeout", "x-stainless-timeout")  # headers in which OpenAI's clients say the same


class BodyTooLarge(InvalidRequest):
    """Over HTTP it has a status of its own: 413."""


class Inbound:
    """A request before it becomes a Call; also sends the reply.

    metadata  its headers, by lower-case name
    id        the call's id
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
        """Set the deadline that the headers give. Raises InvalidRequest."""
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
        """Read the body as JSON. Raises InvalidRequest."""
        if self._content_type != "application/json":  # browsers send other types for any site's page without a check
            raise InvalidRequest(
                "content-type", "send JSON, with the header content-type: application/json", reason="MESSAGE_MALFORMED"
            )
        return bounded_json.loads(await self._body_in_time(MAX_BODY_BYTES))

    async def form(self, most: int = MAX_BODY_BYTES) -> dict[str, str]:
        """Read the body as a page's form of at most ``most`` bytes. Raises InvalidRequest.

        The last of several fields of one name counts.
        """
        if self._content_type != "application/x-www-form-urlencoded":
            raise InvalidRequest("content-type", "this address takes only a page's form", reason="MESSAGE_MALFORMED")
        try:
            body = (await self._body_in_time(most)).decode()
            return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
        except ValueError as error:
            raise InvalidRequest("", f"the body is not a form: {error}", reason="MESSAGE_MALFORMED") from error

    @property
    def _content_type(self) -> str:
        return self.metadata.get("content-type", "").partition(";")[0].strip().lower()

    async def _body_in_time(self, most: int) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._body(most)
        except TimeoutError:
            raise InvalidRequest(
                "", f"the body did not arrive within {BODY_SECONDS:.0f} s", reason="MESSAGE_MALFORMED"
            ) from None

    async def _body(self, most: int) -> bytes:
        too_large = BodyTooLarge("", f"the body is larger than {most} bytes", reason="PROMPT_TOO_LONG")
        if int(self.metadata.get("content-length", 0)) > most:  # a number, or it would not have come so far
            raise too_large
        pieces, size = [], 0
        async for piece in Request(self.scope, self.receive).stream():
            size += len(piece)
            if size > most:
                raise too_large
            pieces.append(piece)
        self._body_read.set()
        return b"".join(pieces)

    async def reply(self, response: Response) -> None:
        """Raises StreamNotRead."""
        response.headers[REQUEST_ID] = self.id
        self.begun = True
        await response(self.scope, self.receive, self._written)

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a reply whose body is then written piece by piece."""
        self.begun = True
        raw = [(name.encode(), value.encode()) for name, value in {**headers, REQUEST_ID: self.id}.items()]
        await self._written({"type": "http.response.start", "status": 200, "headers": raw})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Write a piece of the body, and wait until the connection takes it. Raises StreamNotRead."""
        await self._written({"type": "http.response.body", "body": body, "more_body": more})

    async def _written(self, message: Any) -> None:
        # A caller who does not read must not keep its place to search for ever.
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._send(message)
        except TimeoutError:
            if abort := self._connection.get("abort"):
                abort()
            raise StreamNotRead(f"nothing of the stream was read for {self._write_seconds:.0f} s") from None

    async def gone(self, *, reads: bool) -> None:
        """Return once the caller has closed the connection. ``reads``: wait first until the body has been read."""
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
        except ValueError:  # "None" from a client that waits for ever
            continue
        if 0 < seconds < float("inf"):
            return seconds
    return None


def _address(host: str) -> str:
    """Write an address as gRPC does, so that a caller has the same name over HTTP and gRPC."""
    return f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"


async def _send_nothing(event: Any) -> None:
    raise TypeError("a method with one reply sends no events")
