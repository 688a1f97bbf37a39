"""docs/deploy/haproxy.cfg in front of a real server: calls pass, strangers are bounded by address."""

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.breakable import ROOT, Router
from tests.support.faults import settled
from tests.support.raw_http2 import ROUTE, RawClient

pytestmark = pytest.mark.front
METADATA = (("authorization", "Bearer app"),)
ROUTED = pb.RouteRequest(prompt="7 + 7 =").SerializeToString()
ASKED = b"\0" + len(ROUTED).to_bytes(4, "big") + ROUTED  # as gRPC frames it


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def front(bundle_folder: Path, tmp_path: Path):
    """The address of the front, and the router behind it. Peers that do not read have 5 s instead of 60."""
    quick = tmp_path / "haproxy.cfg"
    quick.write_text((ROOT / "docs/deploy/haproxy.cfg").read_text().replace("timeout client 60s", "timeout client 5s"))
    router = Router(bundle_folder, tmp_path, "--backend=fake")
    host, port = router.metrics_address
    address = f"127.0.0.1:{free_port()}"
    env = {
        "FRONT_ADDRESS": address,
        "ROUTER_ADDRESS": router.address,
        "HEALTH_HOST": host,
        "HEALTH_PORT": str(port),
        "STATS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    command = ["haproxy", "-f", str(quick)]
    with (tmp_path / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
    yield address, router
    process.terminate()
    process.wait(60)
    router.stop()


async def test_calls_and_streams_pass_the_front_and_one_address_is_bounded(front):
    address, _ = front
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        health = health_pb2_grpc.HealthStub(channel)
        reply = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        stub = RouterServiceStub(channel)
        options = pb.SolveOptions(arm="beam_search(n=4, m=2)")
        stream = stub.StreamSolve(pb.StreamSolveRequest(prompt="7 + 7 =", options=options), metadata=METADATA)
        events = [event async for event in stream]
        assert events[-1].HasField("solution")
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # our own status and details come through
            await stub.Solve(pb.SolveRequest(prompt="7 + 7 ="))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        flood, refused = [], 0
        for _ in range(60):
            try:
                flood.append(await RawClient.connect(address, source="127.0.0.2"))
            except ConnectionResetError:
                refused += 1
        await asyncio.sleep(1)
        assert refused + sum(each.closed.is_set() for each in flood) >= 5
        await stub.Route(pb.RouteRequest(prompt="7 + 7 ="), metadata=METADATA)
        for each in flood:
            await each.close()


async def test_replies_that_nobody_reads_are_not_kept(front):
    """What gRPC's server can't: once it has a reply, only the call's deadline or its connection's end ends it."""
    address, router = front
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        stub = RouterServiceStub(channel)
        await stub.Route(pb.RouteRequest(prompt="7 + 7 ="), metadata=METADATA, wait_for_ready=True, timeout=60)
        before = router.tasks()
        client = await RawClient.connect(address, window=0, source="127.0.0.2")
        for _ in range(100):
            client.open(ROUTE, ASKED, headers=[*METADATA])
        assert await settled(lambda: len(router.log.read_text().splitlines()) > 100)  # all were answered
        assert await settled(lambda: router.tasks() <= before + 20)
        assert await settled(lambda: client.closed.is_set() or len(client.ended) == 100)
        await client.close()
