"""What every call goes through, whatever its method: a record of it, and the functions that stand around it."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from secrets import token_hex
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from router.errors import InternalError, InvalidRequest, PermissionDenied, RouterError, Stopping, StreamNotRead
from router.service import auth as access
from router.service import conversion as wire
from router.service.admin import ADMIN
from router.service.admission import Admission
from router.service.auth import Caller, Token
from router.solving.bill import Bill
from router.solving.driver import Request, StopReason
from router.solving.solver import Decision, Solution

REQUEST_ID = "x-request-id"
SEARCHES = frozenset({"Solve", "StreamSolve"})
SHOWN_SECONDS = 0.02  # that a finished call may wait until it is logged and counted
UNREAD_SECONDS = 30.0  # that a stream may stand still because its caller does not read
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a caller reported of a decision: ``expected`` is the accuracy it promised, ``right`` what came of it."""

    level: int
    arm: str
    bundle_id: str
    expected: float
    right: bool


@dataclass(slots=True)
class Call:
    """One call, as far as it has come: what has not happened yet is None, 0 or empty.

    service, method  "router.v1.RouterService", "Solve"
    metadata         what the caller sent beside the message
    id               the caller's x-request-id, or one made here; returned as trailing metadata
    caller           known once it is authenticated
    queued           seconds that it waited for a place to search
    leave            gives that place back before the call ends; doing so again does nothing
    bill             grows while the call runs
    verdict          of RecordOutcome, where the outcome is the first of a decision that promised an accuracy
    code, reason     the gRPC status's name and the ErrorReason, at the end
    seconds          all in all, at the end
    """

    service: str
    method: str
    metadata: Mapping[str, str | bytes]
    id: str
    started: float = field(default_factory=time.monotonic)
    caller: Caller | None = None
    queued: float = 0.0
    leave: Callable[[], Awaitable[None]] | None = None
    request: Request | None = None
    decision: Decision | None = None
    bill: Bill | None = None
    solution: Solution | None = None
    verdict: Verdict | None = None
    code: str = ""
    reason: str = ""
    seconds: float = 0.0

    @property
    def promised(self) -> float | None:
        """The accuracy that the decision promised; None: the arm was not the policy's choice, or did not run whole."""
        whole = self.solution.stop is StopReason.COMPLETE if self.solution else self.method == "Route"
        return self.decision.expectation.accuracy if self.decision and self.decision.expectation and whole else None


_current: ContextVar[Call] = ContextVar("call")
current = _current.get  # the call that is being answered


Proceed = Callable[[], Awaitable[Any]]
# Awaits the rest of the call, once, and returns what that returned; raises instead, or does something before or after.
Around = Callable[[Call, grpc.aio.ServicerContext, Proceed], Awaitable[Any]]
Check = Callable[[Call, grpc.aio.ServicerContext], None]  # raises


class Calls:
    """Services are added to it instead of to the server, whose calls of them then run within ``around``, the first
    outermost. No interceptor: gRPC asks those anew at every call."""

    def __init__(self, server: grpc.aio.Server, *around: Around):
        self._server = server
        self._around = around[::-1]

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers are registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        surrounded = {method: self._surrounded(service, method, handler) for method, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, surrounded)

    def _surrounded(self, service: str, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = "_".join(
            "stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming)
        )
        behaviour = getattr(handler, kind)
        # Parsed here and not by gRPC, which answers UNKNOWN where that fails, and logs it outside of our logs.
        parse = None if handler.request_streaming else handler.request_deserializer

        async def unary(sent: Any, context: grpc.aio.ServicerContext) -> Any:
            async def reply() -> Any:
                return await behaviour(_parsed(parse, sent), context)

            return await self._run(service, method, context, reply)

        # A coroutine that writes, not a generator: cancelling it ends the search at once, and not when it is collected.
        async def stream(sent: Any, context: grpc.aio.ServicerContext) -> None:
            async def write() -> None:
                async with aclosing(behaviour(_parsed(parse, sent), context)) as events:
                    async for event in events:
                        await _write(context, event)

            await self._run(service, method, context, write)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped = stream if handler.response_streaming else unary
        return make(wrapped, None if parse else handler.request_deserializer, handler.response_serializer)

    async def _run(self, service: str, method: str, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        given = str(metadata.get(REQUEST_ID, ""))
        call = Call(service, method, metadata, given if re.fullmatch(wire.CALL_ID, given) else token_hex(16))
        context.set_trailing_metadata(((REQUEST_ID, call.id),))
        _current.set(call)
        for around in self._around:
            proceed = partial(around, call, context, proceed)
        return await proceed()


def _parsed(parse: Callable[[bytes], Any] | None, sent: Any) -> Any:
    """``parse`` is None for a stream of requests, which is parsed already. Raises InvalidRequest."""
    try:
        return parse(sent) if parse else sent
    except DecodeError as error:
        raise InvalidRequest(
            "", "what was sent is not a message of this method's request type", reason="MESSAGE_MALFORMED"
        ) from error


async def _write(context: grpc.aio.ServicerContext, event: Any) -> None:
    """Waits until the connection takes the event. Who does not read may not keep a place to search for ever."""
    try:
        async with asyncio.timeout(UNREAD_SECONDS):
            await context.write(event)
    except TimeoutError:
        raise StreamNotRead(f"nothing of the stream was read for {UNREAD_SECONDS:.0f} s") from None
    except grpc.aio.InternalError as error:  # who should read it is gone, which the cancellation is about to say
        raise asyncio.CancelledError from error


async def answered(call: Call, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
    """Ends a failed call with the error's status. What is no RouterError is a bug: logged, and kept from the caller."""
    try:
        return await proceed()
    except RouterError as error:
        await _abort(call, context, error)
    except Exception as error:
        # Where it was raised, and not its text, which could quote a prompt.
        lines = "".join(traceback.format_tb(error.__traceback__))
        _log.error("%s failed: %s", call.method, type(error).__name__, extra={"call_id": call.id, "traceback": lines})
        await _abort(call, context, InternalError("internal error; the server's log says more"))


async def _abort(call: Call, context: grpc.aio.ServicerContext, error: RouterError) -> None:
    code, message, metadata = rpc_status.to_status(wire.status(error))
    # gRPC's own retries, where a client has them on, keep to this; a negative delay is "don't".
    pushback = -1 if error.retry_seconds is None else round(1000 * error.retry_seconds)
    await context.abort(code, message, (*metadata, ("grpc-retry-pushback-ms", str(pushback)), (REQUEST_ID, call.id)))


Observer = Callable[[Call], None]


class Together:
    """An observer that shows finished calls to others a few at a time, within SHOWN_SECONDS: code that runs again at
    once is still in the processor's caches, and takes a third of the time. ``show`` shows at once what waits."""

    def __init__(self, *observers: Observer):
        self._observers = observers
        self._waiting: list[Call] = []

    def __call__(self, call: Call) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(SHOWN_SECONDS, self.show)
        self._waiting.append(call)

    def show(self) -> None:
        calls, self._waiting = self._waiting, []
        for observe in self._observers:
            for call in calls:
                _show(observe, call)


def _show(observe: Observer, call: Call) -> None:
    """One that fails is logged, and harms no call."""
    try:
        observe(call)
    except Exception as error:
        _log.error("a finished call could not be shown: %s", type(error).__name__)


def observed(*observers: Observer) -> Around:
    """Shows every finished call to the observers, once it is answered."""

    async def around(call: Call, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
        try:
            reply = await proceed()
            call.code = "OK"
            return reply
        except RouterError as error:
            call.code, call.reason = error.status, error.reason
            raise
        except asyncio.CancelledError:
            left = context.time_remaining()
            call.code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except Exception:
            call.code = call.reason = "INTERNAL"
            raise
        finally:
            call.seconds = time.monotonic() - call.started
            for observe in observers:
                asyncio.get_running_loop().call_soon(_show, observe, call)  # the caller need not wait for it

    return around


def checked(*checks: Check) -> Around:
    """Calls are refused where a check raises; in this order."""

    async def around(call: Call, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
        for check in checks:
            check(call, context)
        return await proceed()

    return around


def welcomed(stopping: asyncio.Event) -> Check:
    """Calls are refused once the server is about to stop."""

    def check(call: Call, context: grpc.aio.ServicerContext) -> None:
        if stopping.is_set():
            raise Stopping("this server is about to stop; try again in a moment, and another one answers")

    return check


def authenticated(tokens: Callable[[], Sequence[Token]] | None) -> Check:
    """Who is calling: by bearer token where there are tokens, else by certificate or address."""

    def check(call: Call, context: grpc.aio.ServicerContext) -> None:
        if tokens:
            call.caller = access.bearer(tokens(), str(call.metadata.get("authorization", "")))
        else:
            call.caller = access.peer(context.peer(), context.auth_context())
        if call.service == ADMIN and not call.caller.admin:
            raise PermissionDenied(
                f"{call.method} needs a bearer token with admin = true; see `router token --help` and `serve --tokens`"
            )

    return check


def admitted(admission: Admission) -> Around:
    """A place to search, for calls that search."""

    async def around(call: Call, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
        if call.method not in SEARCHES:
            return await proceed()
        assert call.caller
        arrived = time.monotonic()
        async with AsyncExitStack() as place:
            await place.enter_async_context(admission.place(call.caller.name, context.time_remaining()))
            call.queued = time.monotonic() - arrived
            call.leave = place.aclose
            return await proceed()

    return around
