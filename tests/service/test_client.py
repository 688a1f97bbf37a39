"""The clients, blocking and asyncio: retries, tokens, streams, errors."""

import asyncio
import hashlib

import pytest

from router.client import connect, connect_aio
from router.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest, TokenCapReached, Unauthenticated
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import Caller, Token
from router.service.bundle_manager import BundleManager
from router.v1 import router_pb2 as pb

EASY = "7 + 7 ="
TOKEN = Token(hashlib.sha256(b"s3cret").digest(), Caller("app"))


@pytest.fixture
async def seen(solver):
    """Finished calls of a server that runs one search at a time, lets none wait, and wants a token."""
    calls = []
    server = Server(
        BundleManager(solver),
        "127.0.0.1",
        0,
        tokens=lambda: [TOKEN],
        admission=Admission(1, 0),
        observers=[calls.append],
    )
    await server.start()
    yield calls, f"127.0.0.1:{server.port}"
    await server.stop(grace=0)


async def test_an_overloaded_server_is_asked_again_when_it_says(seen, generator):
    calls, address = seen
    generator.latency = 0.1

    async def hurry() -> None:
        """One ends as soon as the other was refused: who is asked a few times only does not give up."""
        while "OVERLOADED" not in [call.reason for call in calls]:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        generator.latency = 0

    async with connect_aio(address, token="s3cret") as router:
        solves = [router.Solve(pb.SolveRequest(prompt=EASY), timeout=60) for _ in range(2)]
        *replies, _ = await asyncio.gather(*solves, hurry())
    assert [reply.solution.answer for reply in replies] == ["14", "14"]
    assert [call.reason for call in calls].count("OVERLOADED") >= 1
    assert [call.code for call in calls].count("OK") == 2


async def test_a_token_cap_is_not_tried_again(seen):
    calls, address = seen
    request = pb.SolveRequest(prompt=EASY, options=pb.SolveOptions(max_generated_tokens=3))
    with pytest.raises(TokenCapReached):
        async with connect_aio(address, token="s3cret") as router:
            await router.Solve(request, timeout=60)
    assert len(calls) == 1


async def test_streams_carry_the_token_too(seen):
    _, address = seen
    async with connect_aio(address, token="s3cret") as router:
        events = [event async for event in router.StreamSolve(pb.StreamSolveRequest(prompt=EASY), timeout=60)]
    assert events[-1].solution.answer == "14"
    with pytest.raises(Unauthenticated):
        async with connect_aio(address) as router:
            await router.StreamSolve(pb.StreamSolveRequest(prompt=EASY), timeout=60).read()


async def test_the_blocking_client_does_the_same(seen):
    _, address = seen

    def ask(token: str | None) -> tuple[str, str]:
        with connect(address, token=token) as router:
            streamed = list(router.StreamSolve(pb.StreamSolveRequest(prompt=EASY), timeout=60))
            solved = router.Solve(pb.SolveRequest(prompt=EASY), timeout=60)
        return streamed[-1].solution.answer, solved.solution.answer

    assert await asyncio.to_thread(ask, "s3cret") == ("14", "14")
    with pytest.raises(Unauthenticated):
        await asyncio.to_thread(ask, "guess")


@pytest.mark.parametrize(
    ("request_fields", "timeout", "error"),
    [({"prompt": ""}, 60, InvalidRequest), ({"prompt": EASY}, 0.2, DeadlineExceeded)],
)
async def test_errors_are_the_servers_own(seen, generator, request_fields, timeout, error):
    generator.latency = 5
    with pytest.raises(error):
        async with connect_aio(seen[1], token="s3cret") as router:
            await router.Solve(pb.SolveRequest(**request_fields), timeout=timeout)


async def test_no_server_is_unavailable():
    with pytest.raises(EngineUnavailable, match="no router answers"):
        async with connect_aio("127.0.0.1:1") as router:
            await router.Route(pb.RouteRequest(prompt=EASY), timeout=60)
