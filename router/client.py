"""Clients, blocking and asyncio: stubs that retry, send a token, and raise the errors that the server raised.

    with connect("127.0.0.1:50551") as router:
        solution = router.Solve(SolveRequest(prompt="71 - 46 + 58 ="), timeout=60).solution

    async with connect_aio("127.0.0.1:50551") as router:
        async for event in router.StreamSolve(StreamSolveRequest(prompt="71 - 46 + 58 ="), timeout=60):
            ...

``timeout`` is the deadline, retries included. If the server is unavailable or overloaded, a call is tried again up to
three times, each after the time that the server asks for; a stream is tried again only until its first event.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from router.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    InvalidFile,
    InvalidRequest,
    RouterError,
)
from router.service import statuses
from router.service.auth.addresses import check_address, is_loopback
from router.v1.router_pb2_grpc import RouterServiceStub

_RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "router.v1.RouterService"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)
_OPTIONS = [("grpc.service_config", _RETRIES)]


@contextmanager
def connect(
    address: str,
    *,
    token: str | None = None,
    tls: bool = False,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> Iterator[RouterServiceStub]:
    """Yield a stub of the server at ``host:port``. Failed calls raise the RouterError that the server raised.

    token      bearer token; sent without encryption only to this machine (loopback), unless ``insecure``
    tls        encrypt; implied by the three files
    ca         PEM file of authorities to trust for the server's certificate; None: gRPC's default ones
    cert, key  this caller's own certificate and key as PEM files, for mutual TLS

    Raises InvalidRequest, InvalidFile.
    """
    encrypted = tls or any((ca, cert, key))
    _check(address, token, encrypted or insecure)
    channel = (
        grpc.secure_channel(address, _credentials(ca, cert, key), _OPTIONS)
        if encrypted
        else grpc.insecure_channel(address, _OPTIONS)
    )
    with channel:
        try:
            yield RouterServiceStub(grpc.intercept_channel(channel, _Bearer(token)) if token else channel)
        except grpc.RpcError as error:
            raise _raised(error, rpc_status.from_call(error), address) from error


@asynccontextmanager
async def connect_aio(
    address: str,
    *,
    token: str | None = None,
    tls: bool = False,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> AsyncIterator[RouterServiceStub]:
    """Yield a stub as :func:`connect` does, for asyncio: await calls, iterate streams with ``async for``."""
    encrypted = tls or any((ca, cert, key))
    _check(address, token, encrypted or insecure)
    interceptors = [_AioBearer(token), _AioStreamBearer(token)] if token else None
    channel = (
        grpc.aio.secure_channel(address, _credentials(ca, cert, key), _OPTIONS, interceptors=interceptors)
        if encrypted
        else grpc.aio.insecure_channel(address, _OPTIONS, interceptors=interceptors)
    )
    async with channel:
        try:
            yield RouterServiceStub(channel)
        except grpc.aio.AioRpcError as error:
            raise _raised(error, rpc_status.from_call(error), address) from error


def _check(address: str, token: str | None, allowed: bool) -> None:
    check_address(address)
    if token and not (allowed or is_loopback(address.rpartition(":")[0])):
        raise InvalidRequest(
            "token",
            f"the token would go to {address} unencrypted; use --tls, or ask for it with --insecure",
            reason="UNSPECIFIED",
        )


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    try:
        roots, private, chain = (file.read_bytes() if file else None for file in (ca, key, cert))
    except OSError as error:
        raise InvalidFile(f"can't read {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(roots, private, chain)


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # untyped
    """Sends the token. gRPC's own call credentials work on encrypted channels only."""

    def __init__(self, token: str):
        self._metadata = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=(*(details.metadata or ()), self._metadata)), request)

    intercept_unary_stream = intercept_unary_unary


class _AioBearer(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # untyped
    def __init__(self, token: str):
        self._token = token

    async def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(details._replace(metadata=_bearing(details.metadata, self._token)), request)


class _AioStreamBearer(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # untyped
    def __init__(self, token: str):
        self._token = token

    async def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return await continuation(details._replace(metadata=_bearing(details.metadata, self._token)), request)


def _bearing(metadata: Any, token: str) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*(metadata or ()), ("authorization", f"Bearer {token}"))


def _raised(error: grpc.RpcError, status: Status | None, address: str) -> RouterError:
    if status is not None:
        return statuses.error(status)
    code, message = error.code(), error.details()
    if code is grpc.StatusCode.UNAVAILABLE:
        return EngineUnavailable(
            f"no router answers at {address} ({message}); start one with `router serve`, or name its --address"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("no answer before the deadline; give it more time, or a smaller budget")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return InvalidRequest("", f"a message is too large: {message}", reason="PROMPT_TOO_LONG")
    return InternalError(f"{address} answered {code.name}: {message}")
