"""A model in the server's own process: its time and its memory are everybody's."""

import asyncio
from functools import partial

import grpc
import pytest

from router.v1 import router_pb2 as pb
from tests.faults.conftest import IN_PROCESS_CONTEXT
from tests.support.breakable import Router
from tests.support.faults import Caller, problem, settled, stopped_within, told_nothing

pytestmark = pytest.mark.processes

MEMORY = 0.25  # GiB for keys and values, the least; the largest call would take four times as much
OPTIONS = ("--backend=in_process", f"--memory={MEMORY}")
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # several threads would only wait for each other, on so small a model
LONGEST = "7" * (IN_PROCESS_CONTEXT - 200)  # characters, each a token; the template and a solution take the rest
ARMS = ["majority(n=256)", "best_of_n(n=256)", "beam_search(n=64, m=4)", "single @0.9 > majority(n=128)", "single"]


def call(caller: Caller, prompt: str, arm: str, seconds: float, seed: int = 0) -> grpc.aio.UnaryUnaryCall:
    options = pb.SolveOptions(arm=arm, seed=seed, allow_partial=True)
    return caller.stub.Solve(pb.SolveRequest(prompt=prompt, options=options), timeout=seconds, metadata=caller.metadata)


async def test_the_longest_prompts_and_the_largest_arms(in_process, often, tallied, tmp_path):
    router = Router(in_process, tmp_path, *OPTIONS, env=ENVIRONMENT)
    with tallied("longest prompts for the largest arms on a model in the process, beside short calls") as tally:
        async with router.channel() as channel, router.channel() as other:
            caller, honest = Caller(channel, tally), Caller(other, tally, "ops")

            async def same(number: int) -> str:
                """What a short call writes when nobody else calls: the same whatever ran before."""
                short = partial(call, honest, problem(1)[0], "majority(n=4)", 100, number % 2)
                reply = await honest.ask("a short call", short, lambda reply: bool(reply.solution.text))
                return reply.solution.text if reply else ""

            usual = [await same(0), await same(1)]
            memory = router.memory()
            for i in range(often(1, 5)):
                attacks = [
                    caller.ask(
                        f"the longest prompt for {arm}",
                        partial(call, caller, f"{i}{j}{LONGEST}", arm, 4 * (j + 1)),
                        also=grpc.StatusCode.DEADLINE_EXCEEDED,
                    )
                    for j, arm in enumerate(ARMS)
                ]
                left = call(caller, f"{i}{LONGEST}", ARMS[0], 100)
                attack = asyncio.gather(*attacks)
                tally.times += len(attacks) + 1
                number = 0
                while not attack.done():
                    short = partial(call, honest, problem(number)[0], "single", often(200, 30))
                    await honest.ask("a short call beside", short, lambda reply: bool(reply.solution.text))
                    number += 1
                left.cancel()
                await attack
                if not await settled(lambda: router.busy() == 0):
                    tally.lost.append("a place is not given back")
                if [await same(0), await same(1)] != usual:
                    tally.lost.append("an equal seed wrote something else than before")
            grown = router.memory() - memory
            assert grown < MEMORY * 2**30 + 400e6, f"{grown / 1e6:.0f} MB"
    assert router.stop() == 0
    told_nothing(router)


async def test_sigterm_while_the_longest_prompts_are_read(in_process, often, tallied, tmp_path):
    with tallied("server told to stop (SIGTERM) while a model in the process reads the longest prompts") as tally:
        for i in range(often(1, 3)):
            router = Router(in_process, tmp_path, *OPTIONS, "--grace=1", env=ENVIRONMENT)
            async with router.channel() as channel:
                caller = Caller(channel, tally)
                calls = [asyncio.ensure_future(call(caller, f"{i}{j}{LONGEST}", ARMS[0], 300)) for j in range(4)]
                assert await settled(lambda router=router: router.busy() == 4)  # type: ignore[misc]
                await asyncio.sleep(0.3)
                await stopped_within(router, tally, often(60, 16), calls)
            told_nothing(router)


async def test_prompts_that_the_model_has_room_for_and_the_verifier_has_not(small_verifier, often, tallied, tmp_path):
    with tallied("prompts longer than the verifier's context, and not than the model's") as tally:
        router = Router(small_verifier, tmp_path, *OPTIONS, env=ENVIRONMENT)
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 10)):
                tally.times += 1
                long, fits = f"{i}" + "7" * (IN_PROCESS_CONTEXT // 2), f"{i}" + "7" * (IN_PROCESS_CONTEXT // 6)
                for arm in ("best_of_n(n=4)", "beam_search(n=4, m=2)"):
                    refused = partial(call, caller, long, arm, 100)
                    await caller.refused(f"{arm} of a long one", refused, "INVALID_ARGUMENT", "the verifier's context")
                    await caller.ask(f"{arm} of a shorter one", partial(call, caller, fits, arm, 100), written)
                await caller.ask("majority", partial(call, caller, long, "majority(n=4)", 100), written)
        assert router.busy() == 0
        assert router.stop() == 0
        told_nothing(router)


def written(reply: pb.SolveResponse) -> bool:
    return bool(reply.solution.text)
