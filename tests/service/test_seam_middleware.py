"""A middleware of one's own stands around every call of a real server, with nothing else touched."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from router.errors import Overloaded
from router.service.app import Server
from router.service.auth.callers import Peer
from router.service.bundle_manager import BundleManager
from router.service.middleware.call import Call, CallRecord
from router.service.middleware.chain import Handler, Middleware, chain, streaming
from router.service.middleware.error_status import ErrorStatus
from router.service.middleware.observation import Observation, ObserverBatch
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

EASY = "7 + 7 ="


class CountTenants:
    """Counts the calls of each tenant by method, and how many of them are running; a tenant may make so many."""

    def __init__(self, most: int):
        self.most = most
        self.counts: Counter[tuple[str, str]] = Counter()
        self.running = 0

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            tenant = str(call.metadata.get("x-tenant", "nobody"))
            if self.counts[tenant, method] >= self.most:
                raise Overloaded(f"{tenant} has made its {self.most} calls", retry_seconds=60.0)
            self.counts[tenant, method] += 1
            self.running += 1
            try:
                return await proceed(call)
            finally:
                self.running -= 1

        return handle


@asynccontextmanager
async def served(
    solver: Solver, middleware: Sequence[Middleware], records: list[CallRecord]
) -> AsyncIterator[RouterServiceStub]:
    server = Server(BundleManager(solver), "127.0.0.1", 0, middleware=middleware, observers=[records.append])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield RouterServiceStub(channel)
    await server.stop(grace=0)


async def test_it_counts_and_refuses_calls_of_every_method(solver: Solver) -> None:
    counting, records = CountTenants(most=2), list[CallRecord]()
    acme = [("x-tenant", "acme")]
    async with served(solver, [counting], records) as stub:
        for _ in range(2):
            await stub.Route(pb.RouteRequest(prompt=EASY), metadata=acme)
        events = [event async for event in stub.StreamSolve(pb.StreamSolveRequest(prompt=EASY), metadata=acme)]
        await stub.GetBundle(pb.GetBundleRequest())
        with pytest.raises(grpc.RpcError, match="has made its 2 calls") as raised:
            await stub.Route(pb.RouteRequest(prompt=EASY), metadata=acme)
    assert events[-1].solution.answer == "14"
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert counting.counts == {("acme", "Route"): 2, ("acme", "StreamSolve"): 1, ("nobody", "GetBundle"): 1}
    assert counting.running == 0
    # What it refuses is observed like any call, and its caller is known by then.
    assert [(record.method, record.code) for record in records] == [
        ("Route", "OK"),
        ("Route", "OK"),
        ("StreamSolve", "OK"),
        ("GetBundle", "OK"),
        ("Route", "RESOURCE_EXHAUSTED"),
    ]
    assert {record.caller for record in records} == {"ipv4:127.0.0.1"}


async def test_one_that_has_a_bug_is_an_internal_error(solver: Solver) -> None:
    class Broken:
        def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
            def handle(call: Call) -> Awaitable[Any]:
                raise KeyError(method)

            return handle

    records = list[CallRecord]()
    async with served(solver, [Broken()], records) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Route(pb.RouteRequest(prompt=EASY))
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert [(record.code, record.reason) for record in records] == [("INTERNAL", "INTERNAL")]


async def test_a_door_needs_no_grpc() -> None:
    """Any door makes a Call of what came in, and sends events its own way."""
    records, sent, order = list[CallRecord](), list[object](), list[str]()

    class Named:
        def __init__(self, name: str):
            self.name = name

        def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
            def handle(call: Call) -> Awaitable[Any]:
                order.append(self.name)
                return proceed(call)

            return handle if service == "letters" else proceed

    async def letters(request: str, call: Call) -> AsyncIterator[str]:
        for letter in request:
            yield letter

    async def send(event: object) -> None:
        sent.append(event)

    middleware: list[Middleware] = [
        ErrorStatus(),
        Observation(ObserverBatch([records.append])),
        Named("outer"),
        Named("inner"),
    ]
    handle = chain(middleware, "letters", "Spell", streaming(letters))
    began = time.monotonic()
    await handle(Call("mine-1", "letters", "Spell", {}, Peer("ipv4:10.0.0.1"), began, None, "abc", send))
    await asyncio.sleep(0)
    assert sent == ["a", "b", "c"]
    assert order == ["outer", "inner"]
    (record,) = records
    assert (record.id, record.code, record.decision) == ("mine-1", "OK", None)
    with pytest.raises(AttributeError):
        record.code = "CANCELLED"  # type: ignore[misc]
