"""Strangers hold nothing for long: connections, calls without a message, health watches, silent sockets."""

import asyncio
import hashlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from router.service import grpc_door, health
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import Caller, Token
from router.service.bundle_manager import BundleManager
from router.service.metrics_door import MetricsDoor
from router.service.middleware.call import CallRecord
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.raw_http2 import ROUTE, SOLVE, WATCH, RawClient

TOKENS = [Token(hashlib.sha256(name.encode()).digest(), Caller(name)) for name in ("app", "other")]
BEARER = ("authorization", "Bearer app")
RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, UNAUTHENTICATED = "8", "4", "16"


@asynccontextmanager
async def serving(solver, **options) -> AsyncIterator[tuple[Server, list[CallRecord]]]:
    seen: list[CallRecord] = []
    server = Server(BundleManager(solver), "127.0.0.1", 0, tokens=lambda: TOKENS, observers=[seen.append], **options)
    await server.start()
    yield server, seen
    await server.stop(grace=0)


async def raw(server: Server, **options) -> RawClient:
    return await RawClient.connect(f"127.0.0.1:{server.port}", **options)


async def serves_others(server: Server) -> bool:
    """Whether a probe and another caller are answered, over a connection of their own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        metadata = (("authorization", "Bearer other"),)
        await RouterServiceStub(channel).Route(pb.RouteRequest(prompt="7 + 7 ="), timeout=30, metadata=metadata)
    return reply.status == health_pb2.HealthCheckResponse.SERVING


async def takes_calls(server: Server) -> bool:
    try:
        return await serves_others(server)
    except grpc.aio.AioRpcError:
        return False


async def until(condition, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)


async def test_who_floods_health_with_watches_ends_their_own(solver):
    async with serving(solver) as (server, seen):
        honest = await raw(server, source="127.0.0.2")
        watch = honest.open(WATCH)
        await until(lambda: watch in honest.answered)
        flood = await raw(server)
        for _ in range(health.LARGEST + 50):
            flood.open(WATCH)
        await until(lambda: len(flood.ended) >= 51)
        assert await serves_others(server)
        assert honest.ended == {}
        # The probe needed a place for a moment, too.
        assert set(flood.ended.values()) == {RESOURCE_EXHAUSTED}
        assert len(flood.ended) <= 52
        refused = [record for record in seen if record.reason == "TOO_MANY_CALLS"]
        assert {(record.method, record.code) for record in refused} == {("Watch", "RESOURCE_EXHAUSTED")}
        assert len(refused) == len(flood.ended)
        await flood.close()
        await honest.close()


async def test_probes_that_are_answered_are_not_in_the_log(solver):
    async with serving(solver) as (server, seen):
        assert await serves_others(server)
        await asyncio.sleep(0)
    assert [record.method for record in seen] == ["Route"]


async def test_a_watch_ends_after_a_while(solver):
    service = health.HealthService([""], watch_seconds=0.05)
    shown = [each.status async for each in service.Watch(health_pb2.HealthCheckRequest(), None)]  # type: ignore[arg-type]
    assert shown == [health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_a_stranger_is_refused_before_the_message_is_waited_for(solver):
    async with serving(solver) as (server, seen):
        client = await raw(server)
        for _ in range(1100):
            client.open(SOLVE, None)
        await until(lambda: len(client.ended) == 1100)
        assert Counter(client.ended.values()) == {UNAUTHENTICATED: 1100}
        assert await serves_others(server)
        assert Counter(record.reason for record in seen)["UNAUTHENTICATED"] == 1100
        await client.close()


@pytest.mark.parametrize(("path", "headers"), [(SOLVE, [BEARER]), (WATCH, [])])
async def test_a_message_that_does_not_come_is_not_waited_for(solver, path, headers):
    async with serving(solver, message_seconds=0.1) as (server, seen):
        client = await raw(server)
        assert await client.outcome(client.open(path, None, headers=headers)) == DEADLINE_EXCEEDED
        await until(lambda: seen)
        assert (seen[0].code, seen[0].reason) == ("DEADLINE_EXCEEDED", "MESSAGE_MISSING")
        await client.close()


async def test_a_call_that_ends_without_a_message_is_malformed(solver):
    async with serving(solver) as (server, seen):
        client = await raw(server)
        client.open(ROUTE, b"", headers=[BEARER])
        await until(lambda: seen)
        assert seen[0].reason == "MESSAGE_MALFORMED"
        await client.close()


async def test_one_caller_can_not_hold_all_calls(solver):
    async with serving(solver, admission=Admission(1, 0)) as (server, seen):
        client = await raw(server)
        for _ in range(600):
            client.open(SOLVE, None, headers=[BEARER])
        await until(lambda: len(client.ended) == 100)
        assert set(client.ended.values()) == {RESOURCE_EXHAUSTED}
        assert await serves_others(server)
        assert Counter(record.reason for record in seen)["TOO_MANY_CALLS"] == 100
        await client.close()


async def test_headers_are_bounded(solver):
    async with serving(solver) as (server, _):
        willing = [("grpc.max_metadata_size", 2**25), ("grpc.absolute_max_metadata_size", 2**25)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", willing) as channel:
            large = (BEARER, ("x-large", "a" * 15_000_000))
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await RouterServiceStub(channel).Route(pb.RouteRequest(prompt="7 + 7 ="), metadata=large)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        endless = await raw(server)
        await endless.endless_headers(1500, 10_000)
        await asyncio.wait_for(endless.closed.wait(), 30)
        assert await serves_others(server)
        await endless.close()


@pytest.mark.parametrize("says", ["nothing", "settings"])
async def test_a_silent_connection_is_closed(solver, monkeypatch, says):
    monkeypatch.setattr(grpc_door, "HANDSHAKE_SECONDS", 1)
    monkeypatch.setattr(grpc_door, "IDLE_SECONDS", 1)
    async with serving(solver) as (server, _):
        if says == "settings":
            client = await raw(server)
            await asyncio.wait_for(client.closed.wait(), 60)
            await client.close()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.wait_for(reader.read(), 60)
            writer.close()


async def test_connections_are_bounded(solver, monkeypatch):
    monkeypatch.setattr(grpc_door, "MAX_CONNECTIONS", 5)
    async with serving(solver) as (server, _):
        clients = [await raw(server) for _ in range(5)]
        refused = await raw(server)
        await asyncio.wait_for(refused.closed.wait(), 30)
        assert not any(client.closed.is_set() for client in clients)
        await clients.pop().close()
        async with asyncio.timeout(60):  # until the server has noticed
            while not await takes_calls(server):  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.05)
        for client in (*clients, refused):
            await client.close()


async def test_stopping_does_not_wait_for_who_does_not_read(solver):
    async with serving(solver) as (server, _):
        client = await raw(server, window=0)
        for _ in range(5):
            client.open(WATCH)
        await asyncio.sleep(0.3)
        await asyncio.wait_for(server.stop(grace=0.2), 30)
        await client.close()


# File descriptors


@pytest.mark.parametrize(("limits", "allowed"), [((1024, 20_000), 4096), ((1024, 2000), 2000), ((9000, 20_000), 9000)])
def test_as_many_files_may_be_open_as_are_needed(limits, allowed):
    program = (
        "import resource\nfrom router.service.descriptors import allow_many\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "print(allow_many(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(allowed)] * 2
    assert ("LimitNOFILE" in done.stderr) == (allowed < 4096)


# Metrics over HTTP


@pytest.fixture
def door():
    registry, answers = CollectorRegistry(), [True]
    with closing(MetricsDoor(registry, "127.0.0.1:0", lambda: answers[0], connections=4, seconds=1.0)) as door:
        door.answers = answers  # type: ignore[attr-defined]
        yield door


def test_silent_connections_keep_no_scrape_out(door):
    silent = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(20)]
    with urllib.request.urlopen(f"http://127.0.0.1:{door.port}/metrics", timeout=30) as answer:
        assert answer.status == 200
    for each in silent:
        each.settimeout(30)
        assert each.recv(1) == b""  # closed, the last ones for their silence
        each.close()


def test_a_slow_request_ends(door):
    with socket.create_connection(("127.0.0.1", door.port), timeout=30) as slow:
        ended = False
        for _ in range(100):
            try:
                slow.sendall(b"G")
            except OSError:
                ended = True
                break
            time.sleep(0.1)
        assert ended


def test_health_over_http_says_whether_calls_are_taken(door):
    url = f"http://127.0.0.1:{door.port}/health"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert (answer.status, answer.read()) == (200, b"serving\n")
    door.answers[0] = False
    with pytest.raises(urllib.error.HTTPError) as raised, urllib.request.urlopen(url, timeout=30):
        pass
    assert raised.value.code == 503
    raised.value.close()
