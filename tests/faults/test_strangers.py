"""Who has no token floods the server from raw HTTP/2 connections; probes and callers notice nothing."""

import asyncio
import signal
import socket
import time
from functools import partial

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.v1 import router_pb2 as pb
from tests.support.breakable import Router
from tests.support.faults import Caller, settled, told_nothing
from tests.support.raw_http2 import SOLVE, WATCH, RawClient

pytestmark = pytest.mark.processes

SERVING = health_pb2.HealthCheckResponse.SERVING


async def probe(caller: Caller) -> None:
    """Health over a connection that stands."""
    check = health_pb2_grpc.HealthStub(caller.channel).Check
    request = health_pb2.HealthCheckRequest()
    await caller.ask("health", lambda: check(request, timeout=30), lambda reply: reply.status == SERVING)


def _closed(clients: list[RawClient]) -> bool:
    return all(client.closed.is_set() for client in clients)


async def serves(router: Router, tally, number: int) -> None:
    """A probe and a caller come anew, one after the other."""
    async with router.channel() as channel:
        caller = Caller(channel, tally, exact=False)
        await probe(caller)
        await caller.solve(number, "majority(n=4)", timeout=30)


async def test_health_watches(scripted, often, tallied):
    with tallied("1,200 health watches from one connection without a token") as tally:
        for i in range(often(1, 10)):
            flood = await RawClient.connect(scripted.address)
            for _ in range(1200):
                flood.open(WATCH)
            tally.times += 1
            for j in range(5):
                await serves(scripted, tally, 10 * i + j)
            if not await settled(partial(lambda flood: len(flood.ended) >= 1000, flood)):
                tally.lost.append(f"only {len(flood.ended)} watches ended")
            if set(flood.ended.values()) != {"8"}:
                tally.lost.append(f"watches ended with {set(flood.ended.values())}")
            await flood.close()


async def test_calls_whose_message_never_comes(scripted, often, tallied):
    with tallied("1,100 calls without a token and without their message, from one connection") as tally:
        for i in range(often(1, 10)):
            flood = await RawClient.connect(scripted.address)
            for _ in range(1100):
                flood.open(SOLVE, None, headers=[("x-large", "a" * 700)])
            tally.times += 1
            for j in range(5):
                await serves(scripted, tally, 10 * i + j)
            if not await settled(partial(lambda flood: len(flood.ended) == 1100, flood)):
                tally.lost.append(f"{1100 - len(flood.ended)} calls are held")
            await flood.close()


async def test_endless_headers(scripted, often, tallied):
    with tallied("headers of 15 MB without end, 40 connections at once") as tally:
        for i in range(often(1, 5)):
            before = scripted.memory()
            clients = [await RawClient.connect(scripted.address) for _ in range(40)]
            await asyncio.gather(*(client.endless_headers(1500, 10_000) for client in clients))
            tally.times += 1
            await serves(scripted, tally, i)
            if not await settled(partial(_closed, clients)):
                tally.lost.append("a connection is held")
            if (grown := scripted.memory() - before) > 300e6:
                tally.lost.append(f"{grown / 1e6:.0f} MB are held")
            for client in clients:
                await client.close()


async def test_silent_connections(scripted, often, tallied):
    with tallied("100 silent connections to gRPC and 100 to /metrics") as tally:
        host, port = scripted.address.split(":")
        for i in range(often(1, 2)):
            files = scripted.files()
            silent = [socket.create_connection((host, int(port))) for _ in range(100)]
            silent += [socket.create_connection(scripted.metrics_address) for _ in range(100)]
            tally.times += 1
            await serves(scripted, tally, i)
            scripted.metric("router_running")
            if not await settled(partial(lambda most: scripted.files() < most, files + 10)):
                tally.lost.append(f"{scripted.files() - files} are held")
            for each in silent:
                each.close()


async def test_bursts(scripted, often, tallied):
    with tallied("4,000 calls at once over one connection") as tally:
        for _ in range(often(1, 5)):
            async with scripted.channel() as channel:
                caller = Caller(channel, tally)
                request = pb.RouteRequest(prompt="7 + 7 =")
                route = partial(caller.stub.Route, request, timeout=100, metadata=caller.metadata)
                tally.times += 1
                await asyncio.gather(*(caller.ask("Route", route) for _ in range(4000)))
                await probe(caller)


async def test_calls_that_wait_long_to_be_looked_at(scripted, tallied):
    with tallied("100 calls come while the server stands still for 35 s") as tally:
        async with scripted.channel() as channel:
            caller = Caller(channel, tally)
            await probe(caller)
            scripted.process.signal(signal.SIGUSR2)
            await asyncio.sleep(1)
            route = partial(caller.stub.Route, pb.RouteRequest(prompt="7 + 7 ="), timeout=100, metadata=caller.metadata)
            tally.times += 1
            await asyncio.gather(*(caller.ask("Route", route) for _ in range(100)))


async def test_calls_that_are_reset_at_once(scripted, often, tallied):
    with tallied("calls reset as soon as they are begun, for 5 s (HTTP/2 rapid reset)") as tally:
        for i in range(often(1, 5)):
            flood = await RawClient.connect(scripted.address)
            before, began = scripted.memory(), time.monotonic()
            while time.monotonic() - began < 5 and not flood.closed.is_set():
                for _ in range(50):
                    flood.reset(flood.open(SOLVE, None, headers=[("authorization", "Bearer app")]))
                await flood.drain()
                await asyncio.sleep(0)
            tally.times += 1
            await serves(scripted, tally, i)
            if (grown := scripted.memory() - before) > 300e6:
                tally.lost.append(f"{grown / 1e6:.0f} MB are held")
            await flood.close()


async def test_sigterm_while_nobody_reads(bundle_folder, often, tallied, tmp_path):
    with tallied("server told to stop (SIGTERM) while health watches are not read") as tally:
        for _ in range(often(1, 5)):
            router = Router(bundle_folder, tmp_path, "--backend=fake", "--grace=1")
            await serves(router, tally, 1)
            client = await RawClient.connect(router.address, window=0)
            for _ in range(5):
                client.open(WATCH)
            await asyncio.sleep(0.5)
            began = time.monotonic()
            router.process.signal(signal.SIGTERM)
            tally.times += 1
            if code := await asyncio.to_thread(router.process.wait):
                tally.lost.append(f"ended with {code}")
            if (took := time.monotonic() - began) > often(60, 16):
                tally.lost.append(f"ended after {took:.0f} s")
            await client.close()
            told_nothing(router)
