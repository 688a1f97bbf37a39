"""One caller does what is allowed, at its worst; others must not notice."""

import asyncio
import time
from functools import partial

import grpc
import pytest

from router.outcomes.tables import read
from router.v1 import router_pb2 as pb
from tests.support.breakable import Router, on_vllm
from tests.support.faults import CASCADE, Caller, problem, settled, stopped_within, told_nothing

pytestmark = pytest.mark.processes

# An answer that sympy works on for longer than an answer may take, each its own; and one that it reads at once.
ENDLESS = r"Answer: (#+\sqrt{2}+\sqrt{3}+\sqrt{5}+\sqrt{7}+\sqrt{11})^{41}"
QUICK = r"Answer: # + \sqrt{48}"


async def test_answers_that_take_for_ever_to_compare(router, engines, often, tallied):
    with tallied("64 samples whose answers take for ever to compare, beside honest calls") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)

            async def hostile(number: int, timeout: float | None = None) -> pb.SolveResponse:
                options = pb.SolveOptions(arm="majority(n=16)", allow_partial=True)
                message = pb.SolveRequest(prompt=problem(number)[0], options=options)
                return await caller.stub.Solve(message, timeout=timeout, metadata=caller.metadata)

            async def honest(number: int) -> None:
                options = pb.SolveOptions(arm="majority(n=4)")
                message = pb.SolveRequest(prompt=problem(number)[0], options=options)

                def exact(reply: pb.SolveResponse) -> bool:
                    return r"4 \sqrt{3}" in reply.solution.answer and not reply.solution.answers_compared_as_text

                await caller.ask(
                    "an honest call", lambda: caller.stub.Solve(message, timeout=60, metadata=caller.metadata), exact
                )

            for i in range(often(1, 5)):
                begun = engines["a"].begun() + engines["b"].begun()
                for name in "ab":
                    engines[name].behave(says=ENDLESS)
                attacks = [asyncio.create_task(hostile(10 * i + j)) for j in range(3)]
                late = asyncio.create_task(hostile(10 * i + 3, timeout=4))
                tally.times += 1
                assert await settled(lambda all=begun + 64: engines["a"].begun() + engines["b"].begun() >= all)  # type: ignore[misc]
                for name in "ab":
                    engines[name].behave(says=QUICK)
                await asyncio.gather(*(honest(10 * i + j) for j in range(4)))
                replies = await asyncio.gather(*attacks)
                try:
                    replies.append(await late)
                except grpc.aio.AioRpcError as error:  # a busy machine may be too late to send it
                    if often(0, 1) or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                        tally.lost.append(f"an answer by the deadline: {error.code().name}")
                else:
                    if often(0, 1) and replies[-1].solution.bill.generate_seconds > 4:
                        tally.lost.append("a deadline was not kept")
                for reply in replies:
                    if not reply.solution.answer or not reply.solution.answers_compared_as_text:
                        tally.lost.append(f"an answer: {reply.solution}")
        assert await settled(lambda: router.busy() == 0)


async def test_one_caller_takes_all_places(bundles, engines, often, tallied, tmp_path):
    with tallied("one caller takes all places with long searches; another waits for one") as tally:
        options = ("--concurrency=4", "--queue=8", "--longest-search=60")
        router = Router(bundles / "one", tmp_path, *on_vllm(engines), *options)
        async with router.channel() as channel, router.channel() as other:
            many, few = Caller(channel, tally), Caller(other, tally, "ops")
            for i in range(often(1, 3)):
                for engine in engines.values():
                    engine.behave(latency=5.0)  # a piece
                calls = [asyncio.create_task(many.solve(100 * i + j, "majority(n=4)")) for j in range(6)]
                assert await settled(lambda: router.busy() == 6)
                tally.times += 1
                gave_way, began = router.ended("GAVE_WAY"), time.monotonic()
                waiting = asyncio.create_task(few.solve(100 * i + 50, "single"))
                if not await settled(lambda before=gave_way: router.ended("GAVE_WAY") > before, seconds=often(100, 15)):  # type: ignore[misc]
                    tally.lost.append("nobody gave way")
                if often(0, 1) and time.monotonic() - began < 9:
                    tally.lost.append("a search was ended before others had waited")
                for engine in engines.values():
                    engine.behave()
                await asyncio.gather(waiting, *calls)
        assert router.stop() == 0
        told_nothing(router)


async def test_searches_that_would_never_end(bundles, engines, often, tallied, tmp_path):
    with tallied("engines that never answer, and callers without a deadline: --longest-search is 5 s") as tally:
        router = Router(bundles / "one", tmp_path, *on_vllm(engines), "--longest-search=5")
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 5)):
                for engine in engines.values():
                    engine.behave("never end", latency=0.5)
                tally.times += 1

                async def endless(number: int, *, partial_too: bool) -> None:
                    arm = ["majority(n=4)", CASCADE][number // 2 % 2]
                    options = pb.SolveOptions(arm=arm, allow_partial=partial_too)
                    message = pb.SolveRequest(prompt=problem(number)[0], options=options)
                    solve = partial(caller.stub.Solve, message, metadata=caller.metadata)
                    if partial_too:
                        stopped = pb.STOP_REASON_LONGEST_SEARCH
                        await caller.ask("a part", solve, lambda reply: reply.solution.stop_reason == stopped)
                    else:
                        await caller.refused("a search", solve, "DEADLINE_EXCEEDED")

                await asyncio.gather(*(endless(10 * i + j, partial_too=bool(j % 2)) for j in range(6)))
                for engine in engines.values():
                    engine.behave()
                await caller.solve(i, "single")
        assert router.stop() == 0
        told_nothing(router)


async def test_callers_who_choose_the_same_ids(scripted, often, tallied):
    with tallied(
        "two callers use each other's ids, send ids again, and report outcomes of calls that never were"
    ) as tally:
        async with scripted.channel() as channel:
            callers = [Caller(channel, tally, name, exact=False) for name in ("app", "ops")]
            for i in range(often(2, 20)):
                call_id = f"shared.{i}"
                tally.times += 1
                for caller in callers:
                    metadata = (*caller.metadata, ("x-request-id", call_id))

                    async def route(prompt: str, caller=caller, metadata=metadata) -> pb.RouteResponse:
                        return await caller.stub.Route(pb.RouteRequest(prompt=prompt), timeout=60, metadata=metadata)

                    first = await caller.ask("a call", partial(route, "7 + 7 ="), lambda reply: bool(reply.call_id))
                    await caller.ask("its id again", partial(route, "nul \0 and " + "7 + " * 99 + "7 ="))
                    if first and not await caller.record(first.call_id, correct=caller is callers[0]):
                        tally.lost.append(f"the outcome of {call_id}")
                    message = pb.RecordOutcomeRequest(call_id=f"never.{i}", correct=True)
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await caller.stub.RecordOutcome(message, timeout=60, metadata=caller.metadata)
                    if raised.value.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                        tally.lost.append(f"an outcome of no call: {raised.value.code().name}")
    found = [row for row in read(scripted.outcomes, ["caller", "call_id", "correct", "level"]) if row["call_id"]]
    for i in range(tally.times):
        own = {row["caller"]: row["correct"] for row in found if row["call_id"] == f"shared.{i}"}
        if own != {"app": True, "ops": False}:
            tally.lost.append(f"records of shared.{i}: {own}")
    assert len(found) >= 4 * tally.times
    assert not tally.lost
    assert scripted.metric("router_decisions_dropped_total") == 0


async def test_sigterm_while_answers_are_compared(bundles, engines, often, tallied, tmp_path):
    with tallied("server told to stop (SIGTERM) while answers are compared that take for ever") as tally:
        for _ in range(often(1, 3)):
            for name in "ab":
                engines[name].behave(says=ENDLESS)
            router = Router(bundles / "one", tmp_path, *on_vllm(engines), "--grace=1")
            async with router.channel() as channel:
                caller = Caller(channel, tally)
                message = pb.SolveRequest(prompt=problem(1)[0], options=pb.SolveOptions(arm="majority(n=64)"))
                calls = [asyncio.ensure_future(caller.stub.Solve(message, metadata=caller.metadata)) for _ in range(4)]
                assert await settled(lambda router=router: router.busy() == 4)  # type: ignore[misc]
                await asyncio.sleep(0.3)
                await stopped_within(router, tally, often(60, 8), calls)
            told_nothing(router)
