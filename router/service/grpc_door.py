"""The gRPC server: turns what comes in into a Call, and the error that ends a call into a gRPC status."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_status import rpc_status

from router.errors import AddressUnavailable, InvalidRequest, MessageMissing, RouterError, StreamNotRead
from router.service import statuses
from router.service.admin import ADMIN
from router.service.auth.addresses import address_of
from router.service.auth.callers import Peer
from router.service.auth.certificates import name_of
from router.service.health import HEALTH, HealthService
from router.service.middleware.call import REQUEST_ID, Call, call_id
from router.service.middleware.chain import Middleware, chain, replying, streaming
from router.service.router_service import ROUTER
from router.v1 import admin_pb2_grpc, router_pb2_grpc

MAX_MESSAGE_BYTES = 2**20  # more than any model's context has room for
READ_BYTES = 2**16  # read from a connection at once; gRPC's default of 4 MB adds up over many connections
MAX_METADATA_BYTES = 2**14  # names and values of one call, as HTTP/2 counts them
MESSAGE_SECONDS = 10.0  # within which a call's message must arrive
WRITE_SECONDS = 30.0  # after which a stream ends that its caller does not read
# A caller whose machine or network is gone closes no connection. So each is sent pings this often, to answer in time.
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 30, 20
HANDSHAKE_SECONDS = 10  # within which a new connection must have set up TLS and HTTP/2
IDLE_SECONDS = 300  # after which a connection without calls is closed; a gRPC client opens another one by itself
MAX_CONNECTIONS = 1000
# Calls of one connection at once; a gRPC client lets further ones wait. A stream counts a while longer than its call.
# gRPC itself refuses those beyond (UNAVAILABLE, without our details), which with a low limit hit honest bursts.
STREAMS = 5000
PENDING = 5000  # calls that have arrived but not begun; gRPC itself ends those beyond, with CANCELLED
PENDING_SECONDS = 600  # that such calls may wait before gRPC ends them; its default is 30
CANCEL_SECONDS = 2.0  # that calls may take to end once they are cancelled
_log = logging.getLogger(__name__)


class GrpcDoor:
    """A listening gRPC server whose services' calls run inside middleware. ``port`` is the bound one.

    gRPC offers one limit for all calls together, those of strangers and of health included. So it is not used:
    middleware limits calls, and this class limits what comes before a call: connections, headers and messages.
    """

    def __init__(
        self,
        host: str,
        port: int,
        middleware: Sequence[Middleware],
        *,
        router: object,
        health: HealthService,
        around_health: Sequence[Middleware],
        admin: object | None = None,
        credentials: grpc.ServerCredentials | None = None,
        share_port: bool = False,
        message_seconds: float = MESSAGE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ):
        """Needs a running event loop. Raises AddressUnavailable.

        router, admin    answer the calls of RouterService and AdminService; without ``admin`` there is no AdminService
        around_health    the middleware of health's calls, which need no token
        credentials      for TLS; None: not encrypted
        share_port       whether other servers may listen on the same port; each connection goes to one of them
        message_seconds  within which a call's message must arrive
        write_seconds    after which a stream ends that its caller does not read
        """
        self._server = grpc.aio.server(
            options=[
                # gRPC shares ports by default, without a word.
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.experimental.tcp_max_read_chunk_size", READ_BYTES),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", STREAMS),
                ("grpc.server.max_pending_requests", PENDING),
                ("grpc.server.max_pending_requests_hard_limit", PENDING),
                ("grpc.server_max_unrequested_time_in_server", PENDING_SECONDS),
                ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
                ("grpc.server_handshake_timeout_ms", 1000 * HANDSHAKE_SECONDS),
                ("grpc.max_connection_idle_ms", 1000 * IDLE_SECONDS),
                ("grpc.keepalive_time_ms", 1000 * KEEPALIVE_SECONDS),
                ("grpc.keepalive_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
                # Time for the answer to a keepalive ping.
                ("grpc.http2.ping_timeout_ms", 1000 * KEEPALIVE_TIMEOUT_SECONDS),
                ("grpc.http2.max_pings_without_data", 0),  # a long search sends nothing for minutes
            ],
        )
        registry, open_registry = (
            _Registry(
                self._server,
                around,
                certificates=credentials is not None,
                message_seconds=message_seconds,
                write_seconds=write_seconds,
            )
            for around in (middleware, around_health)
        )
        router_pb2_grpc.add_RouterServiceServicer_to_server(router, registry)
        if admin:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, registry)
        shown = ROUTER, *([ADMIN] if admin else []), HEALTH, reflection.SERVICE_NAME
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(shown), registry)
        health_pb2_grpc.add_HealthServicer_to_server(health, open_registry)
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
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Give running calls ``grace`` seconds, then cancel them, and wait no longer than CANCEL_SECONDS for that."""
        try:
            await asyncio.wait_for(self._server.stop(grace), grace + CANCEL_SECONDS)
        except TimeoutError:
            _log.error("calls did not end within %.0f s of being cancelled; the server leaves them", CANCEL_SECONDS)


class _Registry:
    """Given to the generated ``add_…_to_server`` functions in place of a server; puts middleware around methods.

    Methods are coroutines or asynchronous generators of ``(message, call)``. gRPC's interceptors are not used, since
    gRPC asks them for a handler again at every call.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        middleware: Sequence[Middleware],
        *,
        certificates: bool,
        message_seconds: float,
        write_seconds: float,
    ):
        self._server = server
        self._middleware = middleware
        self._certificates = certificates
        self._message_seconds = message_seconds
        self._write_seconds = write_seconds

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: the same handlers are registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        wrapped = {method: self._handler(service, method, handler) for method, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, wrapped)

    def _handler(self, service: str, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        sent_as, replied_as = (
            "stream" if each else "unary" for each in (handler.request_streaming, handler.response_streaming)
        )
        endpoint = (streaming if handler.response_streaming else replying)(getattr(handler, f"{sent_as}_{replied_as}"))
        handle = chain(self._middleware, service, method, endpoint)
        # The message is read and decoded here, since gRPC would wait for it for ever, and answer UNKNOWN where it is
        # malformed.
        decode = None if handler.request_streaming else handler.request_deserializer

        async def answer(messages: Any, context: grpc.aio.ServicerContext) -> Any:
            started = time.monotonic()
            metadata = dict(context.invocation_metadata() or ())
            seconds = context.time_remaining()
            deadline = None if seconds is None else started + seconds
            send = partial(_send, context, self._write_seconds) if handler.response_streaming else _send_nothing
            call = Call(
                call_id(metadata),
                service,
                method,
                metadata,
                self._peer(context),
                started,
                deadline,
                None if decode else messages,
                send,
                partial(_receive, context, self._message_seconds, decode) if decode else None,
            )
            context.set_trailing_metadata(((REQUEST_ID, call.id),))
            try:
                return await handle(call)
            except RouterError as error:
                await _abort(context, call, error)

        # To gRPC every method takes a stream of messages, of which :func:`_receive` reads one. The bytes are the same.
        make = getattr(grpc, f"stream_{replied_as}_rpc_method_handler")
        return make(answer, None if decode else handler.request_deserializer, handler.response_serializer)

    def _peer(self, context: grpc.aio.ServicerContext) -> Peer:
        return peer_of(context.peer(), context.auth_context() if self._certificates else {})


def peer_of(address: str, certificate: Mapping[str, Sequence[bytes]]) -> Peer:
    """Return the peer of a call. ``address``: the context's ``peer()``; ``certificate``: its ``auth_context()``."""
    name = None
    if pem := certificate.get("x509_pem_cert"):
        candidates = (*certificate.get("x509_common_name", ()), *certificate.get("x509_subject_alternative_name", ()))
        name = name_of((each.decode(errors="replace") for each in candidates), pem[0])
    return Peer(address.rpartition(":")[0] or address, name)


async def _receive(context: grpc.aio.ServicerContext, seconds: float, decode: Callable[[bytes], Any]) -> Any:
    """Read the one message of a call. Raises MessageMissing, InvalidRequest."""
    try:
        async with asyncio.timeout(seconds):
            sent = await context.read()
    except TimeoutError:
        raise MessageMissing(f"the call's message did not come within {seconds:.0f} s") from None
    try:
        if sent is not grpc.aio.EOF:
            return decode(sent)
    except DecodeError:
        pass
    raise InvalidRequest("", "what was sent is not a message of this method's request type", reason="MESSAGE_MALFORMED")


async def _send_nothing(event: Any) -> None:
    raise TypeError("a method with one reply sends no events")


async def _send(context: grpc.aio.ServicerContext, seconds: float, event: Any) -> None:
    """Wait until the connection takes the event, for a limited time: a caller who does not read must free its place."""
    try:
        async with asyncio.timeout(seconds):
            await context.write(event)
    except TimeoutError:
        raise StreamNotRead(f"nothing of the stream was read for {seconds:.0f} s") from None
    except grpc.aio.InternalError as error:  # the caller is gone, and gRPC is about to cancel the call
        raise asyncio.CancelledError from error


async def _abort(context: grpc.aio.ServicerContext, call: Call, error: RouterError) -> None:
    """End the call with the error's status, details and time to retry."""
    code, message, metadata = rpc_status.to_status(statuses.status(error))
    # gRPC's own retries, where a client has them enabled, wait so long; a negative number means: don't retry.
    pushback = -1 if error.retry_seconds is None else round(1000 * error.retry_seconds)
    await context.abort(code, message, (*metadata, ("grpc-retry-pushback-ms", str(pushback)), (REQUEST_ID, call.id)))
