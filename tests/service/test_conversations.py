"""Conversations keep their route: by caller, for a time, unless told otherwise, through both doors."""

import hashlib
from typing import Any

import grpc
import pytest

from router.policy.objectives import Budget
from router.prompt import Prompt
from router.service.auth.callers import Caller, Token
from router.service.conversations import Conversations
from router.service.middleware.call import CallRecord
from router.solving.request import Request
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import Majority
from tests.support.http import asked, client_of, serving

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
FIRST, HARDEST = "single", "revision(n=4, chains=2)"  # what the policy chooses for them
TOKENS = [Token(hashlib.sha256(name.encode()).digest(), Caller(name)) for name in ("ann", "bob")]


@pytest.fixture
def stub(channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


async def arm(stub: RouterServiceStub, prompt: str, conversation: str = "c", **fields: Any) -> str:
    """The arm that a prompt is solved with, in a conversation."""
    request = pb.SolveRequest(prompt=prompt, conversation=conversation, **fields)
    decision: pb.Decision = (await stub.Solve(request)).solution.decision
    return decision.arm.text


async def test_a_conversation_keeps_its_first_arm(stub):
    assert await arm(stub, EASY) == FIRST
    request = pb.SolveRequest(prompt=HARD, conversation="c")
    solution = (await stub.Solve(request)).solution
    assert (solution.decision.arm.text, solution.decision.level) == (FIRST, 5)
    assert not solution.decision.HasField("expectation")  # which was measured for other prompts
    assert await arm(stub, HARD, "another") == HARDEST
    assert await arm(stub, HARD, "") == HARDEST


async def test_route_and_streams_keep_it_as_well(stub):
    routed = await stub.Route(pb.RouteRequest(prompt=HARD, conversation="c"))
    assert routed.decision.arm.text == HARDEST
    request = pb.StreamSolveRequest(prompt=EASY, conversation="c")
    last = [event async for event in stub.StreamSolve(request)][-1]
    assert last.solution.decision.arm.text == HARDEST


async def test_another_objective_decides_anew_and_is_kept(stub):
    assert await arm(stub, HARD) == HARDEST
    assert await arm(stub, HARD, objective=pb.Objective(budget=16)) == "lookahead(n=8, m=4, k=1)"
    assert await arm(stub, EASY) == "lookahead(n=8, m=4, k=1)"
    assert await arm(stub, EASY, objective=pb.Objective(budget=16)) == "lookahead(n=8, m=4, k=1)"


async def test_a_pinned_arm_runs_and_is_not_kept(stub):
    assert await arm(stub, HARD) == HARDEST
    assert await arm(stub, HARD, options=pb.SolveOptions(arm="majority(n=4)")) == "majority(n=4)"
    assert await arm(stub, EASY) == HARDEST


async def test_what_is_not_sure_enough_is_refused_at_every_call(stub):
    sure = pb.Objective(target_accuracy=0.999, on_insufficient=pb.ON_INSUFFICIENT_REFUSE)
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match="does not reach target_accuracy"):
            await arm(stub, HARD, objective=sure)
    # A call that names no objective still has the conversation's.
    refuse = pb.Objective(on_insufficient=pb.ON_INSUFFICIENT_REFUSE)
    with pytest.raises(grpc.RpcError, match="does not reach target_accuracy"):
        await arm(stub, HARD, objective=refuse)
    assert await arm(stub, HARD)


async def test_a_pinned_arm_is_refused_as_well_where_it_is_not_sure_enough(stub):
    sure = pb.Objective(target_accuracy=0.999, on_insufficient=pb.ON_INSUFFICIENT_REFUSE)
    with pytest.raises(grpc.RpcError, match="does not reach target_accuracy"):
        await arm(stub, HARD, objective=sure, options=pb.SolveOptions(arm="single"))


async def test_a_conversation_counts_for_the_average_budget_that_it_was_begun_with(solver):
    ended: list[CallRecord] = []
    async with (
        serving(solver, observers=[ended.append]) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = RouterServiceStub(channel)
        await arm(stub, EASY, objective=pb.Objective(average_budget=4))
        await arm(stub, HARD)
        await arm(stub, HARD, "another")
    assert [call.kept.asked if call.kept else None for call in ended] == [4, 4, None]
    assert [call.decision.kept for call in ended if call.decision] == [False, True, False]


async def test_a_name_that_is_too_long_is_a_clear_error(stub):
    with pytest.raises(grpc.RpcError, match="at most 128 characters"):
        await arm(stub, EASY, "c" * 129)


async def test_over_http_and_by_caller(solver):
    async with serving(solver, tokens=lambda: TOKENS) as server:
        arms = []
        for name, prompt in [("ann", EASY), ("ann", HARD), ("bob", HARD)]:
            async with client_of(server, api_key=name) as client:
                reply = await client.chat.completions.create(
                    **asked(prompt), extra_body={"router": {"conversation": "c"}}
                )
                arms.append(reply.router["arm"])
    assert arms == [FIRST, FIRST, HARDEST]


# What is remembered


async def decided(conversations: Conversations, solver: Solver, request: Request, caller: str = "ann") -> str:
    """The arm of a decision as the service makes it."""
    decision = await solver.decide(conversations.routed(caller, request, solver.bundle.id) or request)
    conversations.keep(caller, request, decision)
    return str(decision.arm)


def request(text: str, conversation: str = "c", **fields: Any) -> Request:
    return Request(Prompt.of(text), conversation=conversation, **fields)


async def test_it_is_forgotten_some_time_after_its_last_call(solver):
    now = [0.0]
    conversations = Conversations(seconds=10, timer=lambda: now[0])
    assert await decided(conversations, solver, request(EASY)) == FIRST
    for now[0] in (8.0, 16.0, 24.0):
        assert await decided(conversations, solver, request(HARD)) == FIRST
    now[0] = 35.0
    assert await decided(conversations, solver, request(HARD)) == HARDEST


async def test_a_caller_pushes_out_its_own_only(solver):
    conversations = Conversations(each=2)
    await decided(conversations, solver, request(EASY), "bob")
    for name in "abc":
        await decided(conversations, solver, request(EASY, name))
    assert await decided(conversations, solver, request(HARD, "a")) == HARDEST
    assert await decided(conversations, solver, request(HARD, "c")) == FIRST
    assert await decided(conversations, solver, request(HARD), "bob") == FIRST


async def test_callers_are_bounded(solver):
    conversations = Conversations(callers=2)
    for name in ("ann", "bob", "eve"):
        await decided(conversations, solver, request(EASY), name)
    assert await decided(conversations, solver, request(HARD), "ann") == HARDEST
    assert await decided(conversations, solver, request(HARD), "eve") == FIRST


async def test_another_bundle_or_task_decides_anew(solver):
    conversations = Conversations()
    await decided(conversations, solver, request(EASY))
    assert conversations.routed("ann", request(HARD), "other@1") is None
    assert conversations.routed("ann", request(HARD, task="choice"), solver.bundle.id) is None
    assert conversations.routed("ann", request(HARD, task="math"), solver.bundle.id)
    assert conversations.routed("ann", request(HARD, objective=Budget(16)), solver.bundle.id) is None
    assert conversations.routed("ann", request(HARD, arm=Majority(n=2)), solver.bundle.id) is None
