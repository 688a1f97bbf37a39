"""max_seconds, asked for over the network."""

import grpc
import pytest

from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.http import asked, client_of, serving

HARD = " + ".join(["7"] * 8) + " ="
SLOW, FAST = "revision(n=4, chains=2)", "majority(n=4)"


def request(**objective) -> pb.SolveRequest:
    return pb.SolveRequest(prompt=HARD, objective=pb.Objective(**objective))


async def test_it_leaves_out_what_takes_longer_with_and_without_an_objective(timed):
    async with serving(timed) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        for objective in ({}, {"budget": 4}):
            free = (await stub.Solve(request(**objective))).solution.decision
            bound = (await stub.Solve(request(max_seconds=5, **objective))).solution.decision
            assert free.arm.text == SLOW
            assert free.expectation.cost.seconds == 10
            assert bound.arm.text != SLOW
            assert bound.expectation.evidence == pb.EVIDENCE_SUFFICIENT
            assert bound.expectation.cost.seconds == 1


async def test_where_nothing_is_fast_enough_the_evidence_says_so(timed):
    async with serving(timed) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        route = pb.RouteRequest(prompt=HARD, objective=pb.Objective(max_seconds=0.5))
        decision = (await RouterServiceStub(channel).Route(route)).decision
        assert decision.expectation.evidence == pb.EVIDENCE_TOO_SLOW


async def test_over_http(timed):
    async with serving(timed) as server, client_of(server) as client:
        body = {"router": {"objective": {"budget": 4, "max_seconds": 5}}}
        reply = await client.chat.completions.create(**asked(HARD), extra_body=body)
        assert reply.router["arm"] != SLOW


async def test_a_bundle_without_measured_seconds_is_a_clear_error(channel):
    with pytest.raises(grpc.RpcError, match="were not measured") as raised:
        await RouterServiceStub(channel).Solve(request(max_seconds=5))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
