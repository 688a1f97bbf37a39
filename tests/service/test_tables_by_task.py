"""A bundle with a table for each task: each request is decided, shown and counted by its task's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.bundle.bundle import load_bundle
from router.policy.confidence import Confidence, Weights
from router.policy.objectives import AverageBudget
from router.policy.table import LEVELS, Policy
from router.prompt import Prompt
from router.service.average_budgets import AverageBudgets
from router.solving.batch import Total, decide
from router.solving.request import Request
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import parse
from tests.support.browsing import browsing

EASY, HARD = "7 + 7 =", " + ".join(["7"] * 8) + " ="
VOTES = parse("majority(n=4)")


@pytest.fixture
def solver(bundle_folder: Path, generator: FakeGenerator) -> Solver:
    """Of choices, four votes are right at every level, and solutions are ten times shorter."""
    bundle = load_bundle(bundle_folder)
    setup = replace(bundle.setup, task=("math", "choice"))
    cells = [
        replace(
            cell,
            accuracy=0.95 if cell.arm == VOTES else 0.2,
            low=0.2,
            prompts=10 * cell.level,
            cost=replace(cell.cost, generated_tokens=cell.cost.generated_tokens / 10, prompt_tokens=5),
        )
        for cell in bundle.policy.cells
    ]
    whole = bundle.policy
    options: dict[str, Any] = {"budget_points": whole.budget_points, "deciding": whole.deciding, "worth": whole.worth}
    policy = Policy(whole.cells, whole.default, tasks={"choice": cells}, **options)
    bundle = replace(bundle, policy=policy, manifest=replace(bundle.manifest, setup=setup))
    return Solver(bundle, Engines({"small": generator}, "small", FakeVerifier()))


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


async def test_requests_of_one_level_and_two_tasks_get_different_arms(stub):
    found = {
        task: (await stub.Route(pb.RouteRequest(prompt=HARD, task=task))).decision for task in ("", "math", "choice")
    }
    assert {decision.level for decision in found.values()} == {5}
    assert found[""].arm.text == found["math"].arm.text == "revision(n=4, chains=2)"
    assert found["choice"].arm.text == "majority(n=4)"
    assert found["choice"].expectation.accuracy == pytest.approx(0.95)
    solved = await stub.Solve(pb.SolveRequest(prompt=HARD, task="choice"))
    assert solved.solution.decision.arm.text == "majority(n=4)"


@pytest.mark.parametrize(
    "objective", [{"average_budget": 4}, {"target_accuracy": 0.2}, {"price_per_flop": 1e-9}, {"budget": 16}]
)
async def test_every_objective_goes_by_the_table_of_the_task(stub, solver, objective):
    asked = pb.RouteRequest(prompt=EASY, task="choice", objective=pb.Objective(**objective))
    decision = (await stub.Route(asked)).decision
    cells = {str(cell.arm): cell for cell in solver.policy.for_task("choice").cells if cell.level == 1}
    assert decision.expectation.accuracy == cells[decision.arm.text].accuracy


async def test_confidence_goes_by_the_weights_of_the_task(solver):
    model = Confidence({}, 0.0, tasks={"number": Weights({}, 3.0)})
    setup = replace(solver.bundle.setup, task=("math", "number"))
    bundle = replace(solver.bundle, confidence=model, manifest=replace(solver.bundle.manifest, setup=setup))
    solver = Solver(bundle, solver.engines)
    found = {task: (await solver.solve(Request(Prompt.of(EASY), task=task))).confidence for task in ("math", "number")}
    assert found == {"math": pytest.approx(0.5), "number": pytest.approx(1 / (1 + np.exp(-3.0)))}


async def test_a_batch_decides_each_prompt_by_its_task(stub):
    prompts = [pb.BatchPrompt(prompt=HARD, task=task) for task in ("choice", "math", "choice")]
    asked = pb.RouteBatchRequest(prompts=prompts, budget=pb.BatchBudget(generations=14))
    found = [each.decision for each in (await stub.RouteBatch(asked)).decisions]
    assert [each.arm.text for each in found] == ["majority(n=4)", "revision(n=4, chains=2)", "majority(n=4)"]
    assert [each.expectation.accuracy for each in found] == pytest.approx([0.95, 0.45, 0.95])


async def test_what_is_left_of_a_batch_is_divided_by_each_prompts_table(solver):
    requests = [Request(Prompt.of(HARD), task=task) for task in ("choice", "math")]
    batch = await decide(solver, requests, Total(9))
    assert batch.decisions[0].arm == VOTES
    assert batch.costs[0].tolist() == batch.costs[1].tolist()  # the same arms, in the same order
    begun = batch.begin(0, solver.new_bill())
    assert (begun.arm, begun.expectation.accuracy) == (VOTES, pytest.approx(0.95))


async def test_the_bundle_shows_the_table_of_each_task_that_has_one(stub, solver):
    bundle = (await stub.GetBundle(pb.GetBundleRequest())).bundle
    assert [table.task for table in bundle.task_tables] == ["choice"]
    assert len(bundle.task_tables[0].cells) == len(bundle.cells) == len(solver.policy.cells)
    votes = [cell.accuracy for cell in bundle.task_tables[0].cells if cell.arm.text == "majority(n=4)"]
    assert votes == [0.95] * len(LEVELS)


async def test_the_page_of_the_policy_has_a_part_for_each_table(solver):
    async with browsing(solver) as client:
        text = (await client.get("/ui/policy")).text
        models = (await client.get("/v1/models")).json()
    assert "Task choice, within a budget for each prompt" in text
    assert text.index("Task choice") < text.index("<h2>Within a budget for each prompt")
    assert "task_tables" not in models["data"][0]


def test_a_caller_has_one_ledger_for_all_tasks(solver):
    ledgers = AverageBudgets()
    asked = [Request(Prompt.of(EASY), AverageBudget(4), task=task) for task in ("math", "choice")]
    first, second = (ledgers.of("ann", request, solver) for request in asked)
    assert first is second


def test_what_a_prompt_spent_is_in_solutions_of_its_task(solver):
    bill = solver.new_bill()
    bill.line("small", "generator").add(generated_tokens=40)
    certain = [1.0, 0, 0, 0, 0]
    math, choice = (solver.generations(bill, certain, task) for task in ("math", "choice"))
    assert (math, choice) == (pytest.approx(2), pytest.approx(20))


async def test_an_unfamiliar_prompt_has_the_level_shares_of_its_task(solver):
    assert solver.shares_of("math") == solver.shares == (0.2,) * 5
    assert solver.shares_of("choice") == pytest.approx(np.arange(1, 6) / 15)
