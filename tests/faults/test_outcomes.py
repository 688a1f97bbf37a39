"""The outcome database fails, and the server dies while it records."""

import asyncio
import random
import resource
from collections.abc import Callable

import grpc
import pytest

from router.v1 import router_pb2 as pb
from tests.support.breakable import Router
from tests.support.faults import Caller, Tally, recorded, settled

pytestmark = pytest.mark.processes


async def recording(router: Router, tally: Tally, times: int, breaks: Callable, mends: Callable) -> None:
    """Calls and outcomes while the database is broken and mended: what is acknowledged must be there in the end."""
    answered, acknowledged = set(), set()
    async with router.channel() as channel:
        caller = Caller(channel, tally, exact=False)

        async def one(number: int) -> None:
            reply = await caller.solve(number, "single")
            if reply:
                answered.add(reply.solution.call_id)
                if await caller.record(reply.solution.call_id):
                    acknowledged.add(reply.solution.call_id)

        for i in range(times):
            await asyncio.gather(*(one(100 * i + j) for j in range(5)))
            breaks()
            tally.times += 1
            before = len(acknowledged)
            await asyncio.gather(*(one(100 * i + 10 + j) for j in range(10)))
            assert len(acknowledged) == before, "acknowledged without a database"
            mends()

            async def acknowledge(call_id: str) -> None:
                message = pb.RecordOutcomeRequest(call_id=call_id, correct=True)
                await caller.ask(
                    "an outcome", lambda: caller.stub.RecordOutcome(message, timeout=60, metadata=caller.metadata)
                )
                acknowledged.add(call_id)

            await asyncio.gather(*map(acknowledge, answered - acknowledged))
    decisions, outcomes = recorded(router.outcomes)
    tally.lost += [f"decision {call_id}" for call_id in answered - decisions]
    tally.lost += [f"outcome {call_id}" for call_id in acknowledged - outcomes]
    assert router.metric("router_decisions_dropped_total") == 0


async def routed(caller: Caller, call_id: str) -> bool:
    """Whether a call of this id was answered."""
    metadata = (*caller.metadata, ("x-request-id", call_id))
    try:
        await caller.stub.Route(pb.RouteRequest(prompt="7 + 7 ="), timeout=30, metadata=metadata)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_full_disk(scripted, often, tallied):
    _, hard = resource.prlimit(scripted.process.pid, resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.prlimit(scripted.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    with tallied("no file may grow, outcome database and log alike, then they may again") as tally:
        try:
            await recording(scripted, tally, often(1, 10), lambda: limit(1), lambda: limit(resource.RLIM_INFINITY))
        finally:
            limit(resource.RLIM_INFINITY)


async def test_a_database_that_is_gone_and_comes_back(scripted, often, tallied):
    folder = scripted.data
    away = folder.with_name("away")
    with tallied("the outcome database's folder is gone, then back") as tally:
        await recording(scripted, tally, often(1, 10), lambda: folder.rename(away), lambda: away.rename(folder))


async def test_a_postgresql_that_is_killed_and_comes_back(bundle_folder, postgresql, often, tallied, tmp_path):
    router = Router(bundle_folder, tmp_path, "--backend=fake", outcomes=postgresql.url)
    with tallied("PostgreSQL killed (kill -9), and started again") as tally:
        await recording(router, tally, often(1, 5), postgresql.kill, postgresql.start)
    assert router.stop() == 0


async def test_a_killed_server_loses_no_acknowledged_outcome(bundle_folder, often, tallied, tmp_path):
    with tallied("server killed (kill -9) while outcomes are recorded, and started again") as tally:
        acknowledged: set[str] = set()

        async def outcomes(caller: Caller, name: str) -> None:
            number = 0
            while await routed(caller, f"{name}.{number}") and await caller.record(f"{name}.{number}"):
                acknowledged.add(f"{name}.{number}")
                tally.calls += 1
                number += 1

        for i in range(often(1, 6)):
            router = Router(bundle_folder, tmp_path, "--backend=fake")
            async with router.channel() as channel:
                caller = Caller(channel, tally)

                writers = [asyncio.create_task(outcomes(caller, f"{i}.{j}")) for j in range(8)]
                await asyncio.sleep(random.uniform(0.2, 1.0))
                assert await settled(lambda i=i: any(each.startswith(f"{i}.") for each in acknowledged))  # type: ignore[misc]
                router.process.kill()
                tally.times += 1
                await asyncio.gather(*writers)
            tally.lost += [f"outcome {each}" for each in acknowledged - recorded(router.outcomes)[1]]
