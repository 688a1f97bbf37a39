"""The door for gRPC: makes a Call of what came in, and a gRPC status of the error that ended it."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_status import rpc_status

from router.errors import AddressUnavailable, InvalidRequest, RouterError, StreamNotRead
from router.service import conversion
from router.service.admin import ADMIN
from router.service.auth.addresses import address_of
from router.service.auth.callers import Peer
from router.service.middleware.call import REQUEST_ID, Call, call_id
from router.service.middleware.chain import Middleware, chain, replying, streaming
from router.service.router_service import ROUTER
from router.v1 import admin_pb2_grpc, router_pb2_grpc

MAX_MESSAGE_BYTES = 2**20  # more than any model's context has room for
MAX_OTHER_CALLS = 1000  # at once, besides searches: decisions, health watches, refusals
# A caller whose machine or network is gone closes no connection: it is asked so often, and has so long to answer.
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 30, 20
WRITE_SECONDS = 30.0  # that a stream may stand still because its caller does not read


class GrpcDoor:
    """A listening gRPC server whose services' calls run within middleware. ``port`` is the bound one.

    Health is the exception: nothing stands around it, for it must always work.
    """

    def __init__(
        self,
        host: str,
        port: int,
        middleware: Sequence[Middleware],
        *,
        router: object,
        admin: object | None = None,
        credentials: grpc.ServerCredentials | None = None,
        share_port: bool = False,
        max_calls: int = MAX_OTHER_CALLS,
        write_seconds: float = WRITE_SECONDS,
    ):
        """Needs a running event loop. Raises AddressUnavailable.

        router, admin  what answers the calls of RouterService and AdminService; no ``admin``: nothing does
        credentials    of TLS; None: not encrypted
        share_port     with other servers that also do; each connection goes to one of them
        max_calls      at once; gRPC refuses others before anything else sees them
        write_seconds  that a stream may stand still because its caller does not read
        """
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=max_calls,
            options=[
                # gRPC's default is to share, silently.
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 1000 * KEEPALIVE_SECONDS),
                ("grpc.keepalive_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
                # A keepalive's answer has at least this long.
                ("grpc.http2.ping_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
                ("grpc.http2.max_pings_without_data", 0),  # a long search sends nothing for minutes
            ],
        )
        registry = _Registry(self._server, middleware, certificates=credentials is not None, seconds=write_seconds)
        router_pb2_grpc.add_RouterServiceServicer_to_server(router, registry)
        if admin:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, registry)
        shown = ROUTER, *([ADMIN] if admin else []), health.SERVICE_NAME, reflection.SERVICE_NAME
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(shown), registry)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        address = address_of(host, port)
        try:
            self.port: int = (
                self._server.add_secure_port(address, credentials)
                if credentials
                else self._server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise AddressUnavailable(
                f"can't listen on {address}: the port is in use, or the address is not this machine's; "
                "stop what listens there, or choose another with --host and --port (0: any free port)"
            ) from error

    async def start(self) -> None:
        """Listen, and report SERVING."""
        await self._server.start()
        for service in ("", ROUTER):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def report_stopping(self) -> None:
        """Report NOT_SERVING from now on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Give running calls ``grace`` seconds, then end them."""
        await self._server.stop(grace)


class _Registry:
    """What the generated ``add_…_to_server`` functions are given instead of a server: methods are coroutines or
    asynchronous generators of ``(message, call)``. No gRPC interceptor: gRPC asks those anew at every call."""

    def __init__(
        self, server: grpc.aio.Server, middleware: Sequence[Middleware], *, certificates: bool, seconds: float
    ):
        self._server = server
        self._middleware = middleware
        self._certificates = certificates
        self._write_seconds = seconds

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers are registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        wrapped = {method: self._handler(service, method, handler) for method, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def _handler(self, service: str, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        kind = "_".join(
            "stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming)
        )
        endpoint = (streaming if handler.response_streaming else replying)(getattr(handler, kind))
        proceed = chain(self._middleware, service, method, endpoint)
        refuse = chain(self._middleware, service, method, _refuse_malformed)
        # One message is decoded here and not by gRPC, which answers UNKNOWN where that fails, and logs it by itself.
        decode = None if handler.request_streaming else handler.request_deserializer

        async def answer(sent: Any, context: grpc.aio.ServicerContext) -> Any:
            started, handle, request = time.monotonic(), proceed, sent
            if decode:
                try:
                    request = decode(sent)
                except DecodeError:
                    handle = refuse
            metadata = dict(context.invocation_metadata() or ())
            seconds = context.time_remaining()
            deadline = None if seconds is None else started + seconds
            send = partial(_send, context, self._write_seconds) if handler.response_streaming else _send_nothing
            call = Call(
                call_id(metadata), service, method, metadata, self._peer(context), started, deadline, request, send
            )
            context.set_trailing_metadata(((REQUEST_ID, call.id),))
            try:
                return await handle(call)
            except RouterError as error:
                await _abort(context, call, error)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(answer, None if decode else handler.request_deserializer, handler.response_serializer)

    def _peer(self, context: grpc.aio.ServicerContext) -> Peer:
        return peer_of(context.peer(), context.auth_context() if self._certificates else {})


def peer_of(address: str, certificate: Mapping[str, Sequence[bytes]]) -> Peer:
    """``address`` and ``certificate`` are the context's ``peer()`` and ``auth_context()``."""
    names = certificate.get("x509_common_name")
    return Peer(address.rpartition(":")[0] or address, names[0].decode(errors="replace") if names else None)


def _refuse_malformed(call: Call) -> Awaitable[Any]:
    raise InvalidRequest("", "what was sent is not a message of this method's request type", reason="MESSAGE_MALFORMED")


async def _send_nothing(event: Any) -> None:
    raise TypeError("a method with one reply sends no events")


async def _send(context: grpc.aio.ServicerContext, seconds: float, event: Any) -> None:
    """Waits until the connection takes the event. Who does not read may not keep a place to search for ever."""
    try:
        async with asyncio.timeout(seconds):
            await context.write(event)
    except TimeoutError:
        raise StreamNotRead(f"nothing of the stream was read for {seconds:.0f} s") from None
    except grpc.aio.InternalError as error:  # who should read it is gone, which the cancellation is about to say
        raise asyncio.CancelledError from error


async def _abort(context: grpc.aio.ServicerContext, call: Call, error: RouterError) -> None:
    """End the call with the error's status, details and time to retry."""
    code, message, metadata = rpc_status.to_status(conversion.status(error))
    # gRPC's own retries, where a client has them on, keep to this; a negative delay is "don't".
    pushback = -1 if error.retry_seconds is None else round(1000 * error.retry_seconds)
    await context.abort(code, message, (*metadata, ("grpc-retry-pushback-ms", str(pushback)), (REQUEST_ID, call.id)))
