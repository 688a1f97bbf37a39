"""The clock jumps, bundles are swapped, the server is told to stop."""

import asyncio
import importlib.util
import json
import platform
import signal
import time
from functools import partial
from pathlib import Path

import grpc
import pytest

from router.bundle.manifest import sha256
from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from tests.support.breakable import Router, on_vllm
from tests.support.faults import ARMS, Caller, many_calls, problem, recorded, settled, told_nothing

pytestmark = pytest.mark.processes


@pytest.mark.skipif(platform.machine() != "x86_64", reason="libfaketime's wheel is for x86-64")
async def test_the_wall_clock_jumps(bundles, engines, often, tallied, tmp_path):
    package = importlib.util.find_spec("libfaketime").origin or ""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": str(next(Path(package).parent.rglob("libfaketime.so.1"))),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    router = Router(bundles / "one", tmp_path, *on_vllm(engines), env=env)
    with tallied("wall clock jumps by an hour or ten years, forth and back, in mid-search") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            await many_calls(caller, 5)
            for i in range(often(1, 8)):
                engines["verifier"].behave("never answer")
                prompt, _ = problem(i)
                options = pb.SolveOptions(arm="best_of_n(n=2)")
                message = pb.SolveRequest(prompt=prompt, options=options)
                began = time.monotonic()
                # The server's own answer: it knows the deadline as well after the jump as before.
                late = caller.stub.Solve(message, timeout=4, metadata=caller.metadata)
                calls = asyncio.gather(*(caller.solve(10 * i + j, "majority(n=4)") for j in range(5)))
                await asyncio.sleep(0.5)
                ahead = ["+3650d", "+0", "-1h", "+1h"][i % 4]
                (tmp_path / "next").write_text(ahead)
                (tmp_path / "next").replace(clock)
                tally.times += 1
                tally.calls += 1
                try:
                    await late
                except grpc.aio.AioRpcError as error:
                    took = time.monotonic() - began
                    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or took < 3:
                        tally.lost.append(f"{error.code().name} after {took:.1f} s with the clock at {ahead}")
                    if often(0, 1) and "the deadline ended the search" not in error.details():
                        tally.lost.append("the server did not keep the deadline")
                else:
                    tally.lost.append("a deadline was not kept")
                await calls
                engines["verifier"].behave()
                await caller.solve(i, "best_of_n(n=4)")
        assert router.stop() == 0
    log = router.log.read_text()
    years = {json.loads(line)["time"][:4] for line in log.splitlines() if line.startswith("{")}
    assert len(years) >= 2, f"the clock did not jump: {years}"


async def test_bundles_are_swapped_under_full_load(router, bundles, engines, often, tallied):
    for engine in engines.values():
        engine.behave(latency=0.0)
    ids = {name: f"{name}@{digest_of(bundles / name)[:12]}" for name in ("one", "two")}
    with tallied("bundle activated or rolled back under full load") as tally:
        async with router.channel() as channel:
            caller, ops = Caller(channel, tally), Caller(channel, tally, "ops")
            # When which bundle may have decided: both during a change.
            history: list[tuple[float, set[str]]] = [(0.0, {ids["one"]})]
            ended = asyncio.Event()

            async def load(worker: int) -> None:
                number = 0
                while not ended.is_set():
                    began, number = time.monotonic(), number + 1
                    reply = await caller.solve(1000 * worker + number, ARMS[number % 3])
                    since = [deciding for at, deciding in history if at >= began]
                    before = [deciding for at, deciding in history if at < began][-1:]
                    if reply and reply.solution.decision.bundle_id not in set().union(*before, *since):
                        tally.lost.append(f"decided by {reply.solution.decision.bundle_id}")

            workers = [asyncio.create_task(load(worker)) for worker in range(24)]
            for i in range(often(2, 20)):
                await asyncio.sleep(0.2)
                to = ("two", "one")[i % 2]
                history.append((time.monotonic(), set(ids.values())))
                if i % 2:
                    call = partial(ops.admin.RollBackBundle, admin.RollBackBundleRequest(), metadata=ops.metadata)
                else:
                    request = admin.ActivateBundleRequest(name=to, digest=digest_of(bundles / to))
                    call = partial(ops.admin.ActivateBundle, request, metadata=ops.metadata)
                await ops.ask("a swap", call, lambda reply, to=to: reply.id == ids[to])  # type: ignore[misc]
                history.append((time.monotonic(), {ids[to]}))
                tally.times += 1
            ended.set()
            await asyncio.gather(*workers)


async def test_sigterm_lets_running_calls_finish(bundles, engines, often, tallied, tmp_path):
    with tallied("server told to stop (SIGTERM) in mid-search") as tally:
        for _ in range(often(1, 5)):
            for engine in engines.values():
                engine.behave(latency=0.3)
            router = Router(bundles / "one", tmp_path, *on_vllm(engines), "--grace=60")
            async with router.channel() as channel, router.channel() as other:
                caller = Caller(channel, tally)
                calls = asyncio.create_task(many_calls(caller, 20, again=False))
                assert await settled(lambda router=router: router.busy() > 5)  # type: ignore[misc]
                router.process.signal(signal.SIGTERM)
                tally.times += 1

                async def ask_until_it_has_noticed(channel=other, metadata=caller.metadata) -> None:
                    while True:
                        await Caller(channel, tally).stub.GetBundle(pb.GetBundleRequest(), metadata=metadata)
                        await asyncio.sleep(0.05)

                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await ask_until_it_has_noticed()
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                replies = await calls
            assert await asyncio.to_thread(router.process.wait) == 0
            answered = {reply.solution.call_id for reply in replies if reply}
            tally.lost += [f"decision {call_id}" for call_id in answered - recorded(router.outcomes)[0]]
            told_nothing(router)


def digest_of(folder: Path) -> str:
    return sha256(folder / "manifest.json")
