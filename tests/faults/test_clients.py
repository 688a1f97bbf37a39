"""Clients vanish, freeze, or do not read what they asked for."""

import asyncio
import signal
import sys
import time

import grpc
import pytest

from router.v1 import router_pb2 as pb
from tests.support.breakable import Process
from tests.support.faults import Caller, many_calls, problem, settled

pytestmark = pytest.mark.processes

VANISHING = """
import asyncio, sys, grpc
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        stub, metadata = RouterServiceStub(channel), (("authorization", "Bearer app"),)
        options = pb.SolveOptions(arm="beam_search(n=16, m=4)")
        calls = [stub.Solve(pb.SolveRequest(prompt=sys.argv[2], options=options), metadata=metadata) for _ in range(10)]
        streams = [
            stub.StreamSolve(pb.StreamSolveRequest(prompt=sys.argv[2], options=options), metadata=metadata)
            for _ in range(10)
        ]
        for stream in streams:
            await stream.read()
        print("running", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_clients_that_vanish_leave_nothing_behind(router, engines, often, tallied, tmp_path):
    prompt, _ = problem(1)
    with tallied("client killed (kill -9) with 20 searches running") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            await many_calls(caller, 5)
            assert await settled(lambda: router.busy() == 0)
            tasks, files = router.tasks(), router.files()
            for i in range(often(1, 10)):
                for engine in engines.values():
                    engine.behave(latency=0.3)
                client = Process([sys.executable, "-c", VANISHING, router.address, prompt], tmp_path / "client.log")
                await asyncio.to_thread(client.hear, "running")
                assert router.busy() > 0
                client.kill()
                tally.times += 1
                tally.calls += 20
                gone = time.monotonic()
                if not await settled(lambda: not any(engine.running() for engine in engines.values())):
                    tally.lost.append("an engine works on for a client that is gone")
                tally.slowest = max(tally.slowest, time.monotonic() - gone)
                if not await settled(lambda: router.busy() == 0):
                    tally.lost.append("a place is not given back")
                for engine in engines.values():
                    engine.behave(latency=0.0)
                await caller.solve(i, "single")
            if not await settled(lambda: router.tasks() <= tasks):
                tally.lost.append(f"{router.tasks()} tasks, {tasks} before")
            # Connections to engines are kept for a while; those of clients are not.
            if not await settled(lambda: router.files() <= files + 64):
                tally.lost.append(f"{router.files()} open files, {files} before")


@pytest.mark.faults
async def test_a_client_that_is_frozen_is_noticed(router, engines, tallied, tmp_path):
    """As one whose machine or network is gone: nothing closes the connection."""
    prompt, _ = problem(1)
    with tallied("client frozen (SIGSTOP) with 20 searches running") as tally:
        for engine in engines.values():
            engine.behave(latency=30)  # a piece
        client = Process([sys.executable, "-c", VANISHING, router.address, prompt], tmp_path / "client.log")
        assert await settled(lambda: router.busy() == 20)
        client.signal(signal.SIGSTOP)
        tally.times += 1
        tally.calls += 20
        frozen = time.monotonic()
        if not await settled(lambda: router.busy() == 0, seconds=200):
            tally.lost.append("a place is not given back")
        tally.slowest = time.monotonic() - frozen
        client.kill()


# A solution does not fit into what the connection holds.
NARROW = [("grpc.http2.lookahead_bytes", 8192), ("grpc.http2.bdp_probe", 0)]


async def test_streams_that_are_read_slowly_or_not_at_all(scripted, often, tallied):
    seconds = often(3, 15)
    prompt = " + ".join(["7"] * 33) + " ="
    message = pb.StreamSolveRequest(
        prompt=prompt, options=pb.SolveOptions(arm="best_of_n(n=64)", return_candidates=True)
    )
    with tallied(f"16 streams read for {seconds} s at a message a second, or not at all") as tally:
        async with scripted.channel() as channel:
            caller = Caller(channel, tally, exact=False)
            await asyncio.gather(*(caller.solve(i, "single") for i in range(20)))
            assert await settled(lambda: scripted.busy() == 0)
            before, tally.slowest = scripted.memory(), 0.0
            slow = [scripted.channel(*NARROW) for _ in range(16)]
            streams = [
                Caller(each, tally).stub.StreamSolve(message, metadata=caller.metadata, timeout=300) for each in slow
            ]
            tally.times += len(streams)

            async def read_on(stream: grpc.aio.UnaryStreamCall) -> None:
                while (event := await stream.read()) is not grpc.aio.EOF:
                    last = event
                    await asyncio.sleep(1)
                if last.WhichOneof("event") != "solution":
                    tally.lost.append("a slow reader got no solution")

            readers = [asyncio.create_task(read_on(stream)) for stream in streams[::2]]
            ended, number = time.monotonic() + seconds, 0
            while time.monotonic() < ended:
                number += 1
                await caller.solve(number, "single")
                await asyncio.sleep(0.02)
            await asyncio.gather(*readers)
            if not await settled(lambda: scripted.busy() == 0):
                tally.lost.append("who does not read holds a place")
            grown = scripted.memory() - before
            for each in slow:
                await each.close()
            if not await settled(lambda: scripted.busy() == 0):
                tally.lost.append("a place is not given back")
            assert grown < 200e6, f"{grown / 1e6:.0f} MB for streams that nobody reads"
