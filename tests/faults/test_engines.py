"""Engines die, hang or answer garbage while calls run."""

import asyncio
import random
import time

import grpc
import pytest

from router.v1 import router_pb2 as pb
from tests.support.fake_vllm import MALFORMED_BODIES, MALFORMED_CHOICES, MALFORMED_SCORES
from tests.support.faults import CASCADE, Caller, many_calls, problem, settled

pytestmark = pytest.mark.processes


async def test_one_of_two_engines_is_killed_in_mid_search(router, engines, often, tallied):
    with tallied("one of two engines killed (kill -9) in mid-search, and started again") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(2, 20)):
                victim = engines["ab"[i % 2]]
                calls = [asyncio.create_task(many_calls(caller, 10, first=10 * i))]
                # Since its last death it may be left alone for half a minute, longer than ten calls take.
                while not await settled(lambda victim=victim: victim.running() > 0, seconds=1):  # type: ignore[misc]
                    assert len(calls) < 60
                    calls.append(asyncio.create_task(many_calls(caller, 10, first=10 * i)))
                await asyncio.sleep(random.uniform(0, 0.2))
                victim.kill()
                tally.times += 1
                await asyncio.sleep(random.uniform(0, 0.5))
                await asyncio.to_thread(victim.revive)
                await asyncio.gather(*calls)


async def test_all_engines_are_killed_in_mid_search(router, engines, often, tallied):
    with tallied("all engines killed in mid-search, and started again after a second") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 10)):
                calls = asyncio.create_task(many_calls(caller, 10, first=10 * i))
                assert await settled(lambda: engines["a"].running() + engines["b"].running() > 0)
                for engine in engines.values():
                    engine.kill()
                tally.times += 1
                await asyncio.sleep(1)
                for engine in engines.values():
                    await asyncio.to_thread(engine.revive)
                await calls


async def test_with_no_engine_left_calls_hear_so_at_once(router, engines, often, tallied):
    with tallied("all engines gone for longer: health says so, and calls are refused at once") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 5)):
                for engine in engines.values():
                    engine.kill()
                tally.times += 1
                if not await settled(lambda: not router.healthy()):
                    tally.lost.append("health says SERVING without an engine")
                began = time.monotonic()
                if await caller.solve(i, "single", again=False):
                    tally.lost.append("an answer of no engine")
                if time.monotonic() - began > often(60, 5):
                    tally.lost.append("a refusal was waited for")
                for engine in engines.values():
                    await asyncio.to_thread(engine.revive)
                if not await settled(router.healthy):
                    tally.lost.append("health does not say SERVING again")
                await caller.solve(i, "single")


async def test_a_verifier_that_hangs_costs_no_more_than_the_deadline(router, engines, often, tallied):
    with tallied("verifier hangs; calls have 3 s, and half of them take partial results") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 10)):
                engines["verifier"].behave("never answer")
                tally.times += 1

                async def late(number: int, *, partial: bool) -> None:
                    arm = ["best_of_n(n=4)", CASCADE][number // 2 % 2]  # its stages are scored, too
                    options = pb.SolveOptions(arm=arm, allow_partial=partial)
                    message = pb.SolveRequest(prompt=problem(number)[0], options=options)
                    reply = await caller.ask(
                        f"partial={partial}",
                        lambda: caller.stub.Solve(message, timeout=3, metadata=caller.metadata),
                        lambda reply: reply.solution.stop_reason == pb.STOP_REASON_DEADLINE,
                        also=grpc.StatusCode.DEADLINE_EXCEEDED,
                    )
                    if partial and reply is None and often(0, 1):  # a busy machine may be too late to send it
                        tally.lost.append("no partial result")

                await asyncio.gather(
                    *(late(10 * i + j, partial=bool(j % 2)) for j in range(4)),
                    *(caller.solve(10 * i + j, "majority(n=4)", timeout=60) for j in range(4)),
                )
                engines["verifier"].behave()
                await caller.solve(i, "best_of_n(n=4)")


STREAMED = ["truncate answer", "reset stream", "omit end", "abort samples", "error event", "close connection"]
STREAMED += ["500", "503", *MALFORMED_BODIES, *MALFORMED_CHOICES]
SCORED = ["truncate answer", "close connection", "500", "503", "400", "impossible usage"]
SCORED += [*MALFORMED_BODIES, *MALFORMED_SCORES]


@pytest.mark.parametrize("what", ["generator", "verifier"])
async def test_engines_that_answer_garbage(router, engines, often, tallied, what):
    failures, arm = (STREAMED, "single") if what == "generator" else (SCORED, "best_of_n(n=4)")
    with tallied(f"{what} answers garbage ({len(failures)} kinds), then is well again") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            broken = [engines[name] for name in ("ab" if what == "generator" else ["verifier"])]
            for i, failure in enumerate(failures[:: often(4, 1)]):
                for engine in broken:
                    engine.behave(failure, latency=0.0)
                tally.times += 1
                calls = [asyncio.create_task(caller.solve(100 * i + j, arm, return_candidates=True)) for j in range(3)]
                await asyncio.sleep(0.3)
                for engine in broken:
                    engine.behave()
                for reply in await asyncio.gather(*calls):
                    scores = [
                        step.score
                        for candidate in (reply.solution.candidates if reply else ())
                        for step in candidate.steps
                        if step.HasField("score")
                    ]
                    if arm != "single" and not (scores and all(0 <= score <= 1 for score in scores)):
                        tally.lost.append(f"{failure}: scores {scores}")
