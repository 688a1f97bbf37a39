"""A blocking client: what the commands and the demo use, and an example for services that write their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_status import rpc_status

from router import wire
from router.errors import DeadlineExceeded, EngineUnavailable, InternalError, InvalidRequest, RouterError
from router.v1.router_pb2_grpc import RouterServiceStub


@contextmanager
def connect(address: str) -> Iterator[RouterServiceStub]:
    """A stub of the server at ``host:port``, unencrypted. Failed calls raise the RouterError that the server raised."""
    with grpc.insecure_channel(address) as channel:
        try:
            yield RouterServiceStub(channel)
        except grpc.RpcError as error:
            raise _raised(error, address) from error


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
