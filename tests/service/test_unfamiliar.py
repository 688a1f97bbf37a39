"""Prompts that a bundle knows nothing about: what callers, the log and the metrics are told, and what runs."""

import dataclasses
import json
import logging
import shutil

import grpc
import pytest

from difficulty import Familiarity
from router.bundle.bundle import load_bundle
from router.bundle.manifest import FAMILIARITY, digests, read_manifest, write_manifest
from router.errors import InvalidBundle
from router.policy import unfamiliar
from router.policy.objectives import AverageBudget, Budget, TargetAccuracy
from router.prompt import Prompt
from router.service.admission import Admission
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.logs import log_call
from router.service.metrics import Metrics
from router.service.recorder import Recorder
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

KNOWN = [" + ".join(["7"] * terms) + " =" for terms in range(2, 12)]
EASY, STRANGE = KNOWN[0], "What is 3 + 4, and what is the capital of France?"


@pytest.fixture
def knowing(bundle_folder, tmp_path):
    """A bundle that can tell."""
    folder = tmp_path / "knowing"
    shutil.copytree(bundle_folder, folder)
    document = dataclasses.asdict(Familiarity.of(KNOWN))
    (folder / FAMILIARITY).write_text(json.dumps(document))
    manifest, _ = read_manifest(bundle_folder)
    write_manifest(folder, dataclasses.replace(manifest, files=digests(folder)))
    return folder


@pytest.fixture
def solver(knowing, solver):
    return Solver(load_bundle(knowing), solver.engines)


@pytest.fixture
def stub(channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


async def test_a_familiar_prompt_is_decided_as_before(stub):
    expected = (await stub.Route(pb.RouteRequest(prompt=EASY))).decision.expectation
    assert (expected.evidence, expected.accuracy) == (pb.EVIDENCE_SUFFICIENT, pytest.approx(0.9))


async def test_nothing_is_promised_to_an_unfamiliar_prompt(stub):
    decision = (await stub.Route(pb.RouteRequest(prompt=STRANGE))).decision
    expected = decision.expectation
    assert expected.evidence == pb.EVIDENCE_UNFAMILIAR
    assert (expected.accuracy, expected.accuracy_low, expected.accuracy_high) == (0, 0, 1)
    assert decision.level == 3
    assert list(decision.probabilities) == pytest.approx([0.2] * 5)
    assert decision.arm.text == "majority(n=4)"
    assert expected.cost.generations == 4


async def test_it_is_solved_by_a_vote(stub):
    solution = (await stub.Solve(pb.SolveRequest(prompt=STRANGE))).solution
    assert solution.answer == "7"
    assert solution.decision.arm.strategy == "majority"


async def test_a_pinned_arm_runs_whatever_is_known(stub):
    options = pb.SolveOptions(arm="single")
    decision = (await stub.Solve(pb.SolveRequest(prompt=STRANGE, options=options))).solution.decision
    assert (decision.arm.text, decision.HasField("expectation")) == ("single", False)


async def test_a_conversations_arm_is_that_of_its_first_familiar_prompt(stub):
    arms = []
    for text in (STRANGE, EASY, KNOWN[6], STRANGE):
        request = pb.SolveRequest(prompt=text, conversation="c")
        arms.append((await stub.Solve(request)).solution.decision.arm.text)
    assert arms == ["majority(n=4)", "single", "single", "single"]


async def test_unfamiliar_prompts_of_a_batch_get_an_even_share(stub):
    batch = [pb.BatchPrompt(prompt=text) for text in (EASY, STRANGE, STRANGE)]
    request = pb.RouteBatchRequest(prompts=batch, budget=pb.BatchBudget(generations=15))
    reply = await stub.RouteBatch(request)
    assert [each.decision.arm.text for each in reply.decisions] == ["single", "majority(n=5)", "majority(n=5)"]
    assert [each.decision.expectation.evidence for each in reply.decisions] == [
        pb.EVIDENCE_SUFFICIENT,
        pb.EVIDENCE_UNFAMILIAR,
        pb.EVIDENCE_UNFAMILIAR,
    ]
    assert reply.expected <= 15


async def test_it_is_counted_and_logged_by_digest_and_never_promised(solver, tmp_path, caplog):
    recorder = Recorder(f"sqlite:///{tmp_path}/outcomes.db")
    bundles, admission = BundleManager(solver), Admission()
    metrics = Metrics(bundles, admission, recorder)
    server = Server(
        bundles, "127.0.0.1", 0, admission=admission, recorder=recorder, observers=[log_call, metrics.observe]
    )
    await server.start()
    with caplog.at_level(logging.INFO, "router.service.logs"):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = RouterServiceStub(channel)
            known = await stub.Route(pb.RouteRequest(prompt=EASY))
            strange = await stub.Route(pb.RouteRequest(prompt=STRANGE))
            batch = [pb.BatchPrompt(prompt=text) for text in (EASY, STRANGE)]
            await stub.RouteBatch(pb.RouteBatchRequest(prompts=batch, budget=pb.BatchBudget(generations=9)))
            for reply in (known, strange):
                await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=reply.call_id, correct=True))
    await server.stop(0)
    records = [record.call for record in caplog.records if hasattr(record, "call")]
    digest = Prompt.of(STRANGE).digest
    first, second, third = records[:3]
    assert "unfamiliar" not in first
    assert (second["unfamiliar"], second["prompt_sha256"]) == (True, digest)
    assert (third["unfamiliar"], third["unfamiliar_sha256"]) == (1, [digest])
    assert STRANGE not in json.dumps(records)
    count = metrics.registry.get_sample_value
    assert count("router_unfamiliar_total") == 2
    assert count("router_outcomes_total", {"level": "3", "arm": "majority(n=4)"}) in (None, 0)
    assert count("router_outcomes_total", {"level": "1", "arm": "single"}) == 1


async def test_another_task_than_that_of_training_is_unfamiliar(knowing, solver):
    manifest, _ = read_manifest(knowing)
    setup = dataclasses.replace(manifest.setup, task=("math", "exact"))
    write_manifest(knowing, dataclasses.replace(manifest, setup=setup))
    server = Server(BundleManager(Solver(load_bundle(knowing), solver.engines)), "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        evidence = [
            (await stub.Route(pb.RouteRequest(prompt=EASY, task=task))).decision.expectation.evidence
            for task in ("", "math", "exact")
        ]
    await server.stop(0)
    assert evidence == [pb.EVIDENCE_SUFFICIENT, pb.EVIDENCE_SUFFICIENT, pb.EVIDENCE_UNFAMILIAR]


def test_a_bundle_without_the_file_loads_and_tells_nothing(bundle_folder):
    assert load_bundle(bundle_folder).familiarity is None


def test_a_broken_file_is_refused_by_name(knowing, bundle_folder):
    (knowing / FAMILIARITY).write_text('{"words": []}')
    manifest, _ = read_manifest(bundle_folder)
    write_manifest(knowing, dataclasses.replace(manifest, files=digests(knowing)))
    with pytest.raises(InvalidBundle, match=r"familiarity\.json"):
        load_bundle(knowing)


@pytest.mark.parametrize(
    ("objective", "arm"),
    [
        (Budget(16), "majority(n=16, stop=0.95)"),
        (Budget(64), "majority(n=16, stop=0.95)"),
        (Budget(8), "majority(n=8, stop=0.95)"),
        (Budget(4), "majority(n=4)"),
        (AverageBudget(2.9), "single"),
        (TargetAccuracy(0.99), "majority(n=16, stop=0.95)"),
    ],
)
def test_the_plan_is_a_vote_of_what_the_budget_pays(solver, objective, arm):
    plan = unfamiliar.plan(solver.policy, objective, solver.shares)
    assert str(plan.arm) == arm
    assert plan.cost.generations <= max(1, plan.arm.budget())
