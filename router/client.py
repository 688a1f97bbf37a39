"""A blocking client: what the commands and the demo use, and an example for services that write their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_status import rpc_status

from router import wire
from router.access import is_loopback
from router.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    InvalidFile,
    InvalidRequest,
    RouterError,
)
from router.v1.router_pb2_grpc import RouterServiceStub


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
    """A stub of the server at ``host:port``. Failed calls raise the RouterError that the server raised.

    token      bearer token; sent without encryption only on loopback, unless ``insecure``
    tls        encrypt; implied by the three files
    ca         PEM file of the authorities that may have signed the server's certificate; None: the usual ones
    cert, key  this caller's own certificate, for mutual TLS

    Raises InvalidRequest, InvalidFile.
    """
    encrypted = tls or any((ca, cert, key))
    if token and not (encrypted or insecure or is_loopback(address.rpartition(":")[0])):
        raise InvalidRequest(
            "token",
            f"the token would go to {address} unencrypted; use --tls, or ask for it with --insecure",
            reason="UNSPECIFIED",
        )
    channel = grpc.secure_channel(address, _credentials(ca, cert, key)) if encrypted else grpc.insecure_channel(address)
    with channel:
        try:
            yield RouterServiceStub(grpc.intercept_channel(channel, _Bearer(token)) if token else channel)
        except grpc.RpcError as error:
            raise _raised(error, address) from error


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    try:
        roots, private, chain = (file.read_bytes() if file else None for file in (ca, key, cert))
    except OSError as error:
        raise InvalidFile(f"can't read {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(roots, private, chain)


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # untyped
    """Sends the token. gRPC's own call credentials would do so on encrypted channels only."""

    def __init__(self, token: str):
        self._metadata = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=(*(details.metadata or ()), self._metadata)), request)

    intercept_unary_stream = intercept_unary_unary


def _raised(error: grpc.RpcError, address: str) -> RouterError:
    status = rpc_status.from_call(error)
    if status is not None:
        return wire.error(status)
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
