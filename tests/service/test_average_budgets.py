"""Average budgets are kept by what each caller's searches really spent; what is corrected can be seen."""

import hashlib
from collections import Counter

import grpc
import pytest

from router.policy.objectives import AverageBudget, Budget
from router.prompt import Prompt
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import Caller, Token
from router.service.average_budgets import AverageBudgets
from router.service.bundle_manager import BundleManager
from router.service.metrics import Metrics
from router.solving.request import Request
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import parse

HARD = " + ".join(["7"] * 8) + " ="
AVERAGE = pb.Objective(average_budget=4)


async def chosen(stub: RouterServiceStub, objective: pb.Objective = AVERAGE, **more) -> pb.Decision:
    request = pb.SolveRequest(prompt=HARD, objective=objective, **more)
    return (await stub.Solve(request)).solution.decision


@pytest.fixture
def stub(channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


async def test_what_was_spent_moves_what_the_next_arm_is_chosen_for(stub):
    first = await chosen(stub)
    assert not first.expectation.HasField("corrected_average_budget")
    moved = [(await chosen(stub)).expectation.corrected_average_budget for _ in range(3)]
    assert all(each != 4 for each in moved)
    assert len(set(moved)) == 3


async def test_other_objectives_and_pinned_arms_neither_count_nor_are_corrected(stub):
    for _ in range(2):
        decision = await chosen(stub, pb.Objective(budget=4))
        assert not decision.expectation.HasField("corrected_average_budget")
        await chosen(stub, options=pb.SolveOptions(arm="majority(n=16)"))
    assert not (await chosen(stub)).expectation.HasField("corrected_average_budget")


async def test_route_shows_the_correction_and_spends_nothing(stub):
    await chosen(stub)
    request = pb.RouteRequest(prompt=HARD, objective=AVERAGE)
    shown = [(await stub.Route(request)).decision.expectation.corrected_average_budget for _ in range(2)]
    assert shown[0] == shown[1] != 0


async def test_callers_are_kept_apart_and_metrics_say_what_was_spent(solver):
    bundles = BundleManager(solver)
    metrics = Metrics(bundles, Admission())
    tokens = [Token(hashlib.sha256(name.encode()).digest(), Caller(name)) for name in ("ann", "bob")]
    server = Server(bundles, "127.0.0.1", 0, tokens=lambda: tokens, observers=[metrics.observe])
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub, corrected = RouterServiceStub(channel), Counter[str]()
            for name in ("ann", "ann", "bob"):
                request = pb.SolveRequest(prompt=HARD, objective=AVERAGE)
                reply = await stub.Solve(request, metadata=[("authorization", f"Bearer {name}")])
                corrected[name] += reply.solution.decision.expectation.HasField("corrected_average_budget")
    finally:
        await server.stop(grace=0)
    assert corrected == {"ann": 1, "bob": 0}
    value = metrics.registry.get_sample_value
    assert value("router_average_budget_asked_total") == 12
    assert value("router_average_budget_chosen_for_total") != 12
    assert (value("router_average_budget_spent_total") or 0) > 0


def test_no_more_is_remembered_than_some_callers_and_budgets(solver):
    kept = AverageBudgets(callers=2, each=2)

    def of(caller: str, budget: float):
        ledger = kept.of(caller, Request(Prompt.of(HARD), AverageBudget(budget)), solver)
        assert ledger
        return ledger

    first = of("ann", 2)
    first.ahead = 5
    assert of("ann", 2) is first
    of("ann", 3), of("ann", 4)
    assert of("ann", 2) is not first  # the least recent of three
    of("ann", 2).ahead = 5
    of("bob", 2), of("cid", 2)
    assert of("ann", 2).ahead == 0


def test_nothing_is_kept_of_other_objectives(solver):
    kept, prompt = AverageBudgets(), Prompt.of(HARD)
    assert kept.of("ann", Request(prompt, Budget(4)), solver) is None
    assert kept.of("ann", Request(prompt), solver) is None  # the bundle's default is a budget
    assert kept.of("ann", Request(prompt, AverageBudget(4), arm=parse("single")), solver) is None
