"""What is recorded of calls, and of what became of them, in a real database."""

import asyncio
import contextlib
from collections import Counter

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from router.backends import Engines
from router.bundle.bundle import load_bundle
from router.outcomes import tables as database
from router.policy.objectives import Budget
from router.prompt import Prompt
from router.service.app import Server
from router.service.auth.callers import Caller, Token, digest_of
from router.service.bundle_manager import BundleManager
from router.service.middleware.call import Verdict
from router.service.recorder import Recorder
from router.solving.request import Request
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.recording import EASY, HARD, decided, record, rows, serving


async def test_a_decision_and_what_became_of_it(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        solution = (await stub.Solve(pb.SolveRequest(prompt=HARD))).solution
        routed = await stub.Route(pb.RouteRequest(prompt=EASY), metadata=[("x-request-id", "mine")])
        assert routed.call_id == "mine"
        assert await record(stub, solution.call_id, correct=True, score=0.75)
        by_id = {row["call_id"]: row for row in rows(url, database.decisions)}  # acknowledged: so is all before
    row = by_id[solution.call_id]
    assert (row["level"], row["arm"], row["propensity"]) == (5, "revision(n=4, chains=2)", 1.0)
    assert (row["bundle"], row["generated_tokens"]) == (solution.decision.bundle_id, solution.bill.generated_tokens)
    assert row["probabilities"] == list(solution.decision.probabilities)
    assert (row["prompt"], len(row["prompt_sha256"]), row["code"]) == (None, 64, "OK")
    assert (row["objective"], row["objective_value"], row["objective_given"]) == ("budget", 4, False)
    assert (row["choice"], row["explore"], row["stop"]) == (row["arm"], 0, "complete")
    assert (row["levels_by"], row["answer"], row["text"]) == (solver.bundle.levels_by, None, None)
    assert (by_id["mine"]["method"], by_id["mine"]["stop"]) == ("Route", None)
    ((outcome),) = rows(url, database.outcomes)
    assert (outcome["call_id"], outcome["correct"], outcome["score"]) == (solution.call_id, True, 0.75)


async def test_recording_again_changes_nothing_and_a_correction_counts(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        for name in ("one", "many"):
            await stub.Route(pb.RouteRequest(prompt=EASY), metadata=[("x-request-id", name)])
        assert await record(stub, "one", correct=False)
        assert not await record(stub, "one", correct=False)
        assert await record(stub, "one", correct=True)
        assert await asyncio.gather(*(record(stub, "many", score=0.5) for _ in range(20))) != [True] * 20
    assert {row["call_id"]: (row["correct"], row["score"]) for row in rows(url, database.outcomes)} == {
        "one": (True, None),
        "many": (None, 0.5),
    }


async def test_an_outcome_of_no_call_names_its_field(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await record(stub, "nobodys", correct=True)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated(raised.value) == "call_id"
    assert rows(url, database.outcomes) == []


async def test_an_outcome_waits_for_a_decision_that_another_server_is_about_to_write(
    solver, recorder, url, monkeypatch
):
    monkeypatch.setattr("router.service.router_service._DECISION_SECONDS", 2.0)
    with contextlib.closing(Recorder(url)) as other:
        async with serving(solver, recorder) as stub:
            told = asyncio.create_task(record(stub, "elsewhere", correct=True))
            await asyncio.sleep(0.1)
            decided(other, "elsewhere", caller="ipv4:127.0.0.1")
            assert await told


async def test_callers_overwrite_nothing_of_each_other(solver, recorder, url):
    known = [Token(digest_of(name), Caller(name)) for name in ("one", "two")]
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder, tokens=lambda: known)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)

        def sent(name: str) -> list[tuple[str, str]]:
            return [("authorization", f"Bearer {name}"), ("x-request-id", "same")]

        for name, prompt in (("one", EASY), ("two", HARD)):
            await stub.Route(pb.RouteRequest(prompt=prompt), metadata=sent(name))
            message = pb.RecordOutcomeRequest(call_id="same", correct=name == "one")
            assert (await stub.RecordOutcome(message, metadata=sent(name))).changed
    await server.stop(grace=0)
    assert {(row["caller"], row["level"]) for row in rows(url, database.decisions)} == {("one", 1), ("two", 5)}
    assert {(row["caller"], row["correct"]) for row in rows(url, database.outcomes)} == {("one", True), ("two", False)}


async def test_an_outcome_is_held_against_what_was_promised(solver, recorder, url):
    seen = []
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder, observers=[seen.append])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)

        async def verdict(call_id: str, **learned: object) -> Verdict | None:
            assert await record(stub, call_id, **learned)
            return seen[-1].verdict

        solution = (await stub.Solve(pb.SolveRequest(prompt=HARD))).solution
        assert await verdict(solution.call_id, score=0.5) is None
        told = await verdict(solution.call_id, correct=True)
        # The answer's confidence, not what its arm was expected to give.
        assert solution.confidence != solution.decision.expectation.accuracy
        promised = Verdict(5, "revision(n=4, chains=2)", solution.decision.bundle_id, solution.confidence, right=True)
        assert told == promised
        assert await verdict(solution.call_id, correct=False) is None  # a correction
        routed = await stub.Route(pb.RouteRequest(prompt=EASY))
        assert (await verdict(routed.call_id, correct=False)).right is False
        for options in (
            pb.SolveOptions(arm="majority(n=2)"),
            pb.SolveOptions(max_generated_tokens=3, allow_partial=True),
        ):
            solution = (await stub.Solve(pb.SolveRequest(prompt=HARD, options=options))).solution
            assert await verdict(solution.call_id, correct=True) is None
    await server.stop(grace=0)
    assert [row["expected"] for row in rows(url, database.decisions)].count(None) == 2


async def test_of_two_calls_under_one_id_the_first_has_the_outcome(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        for prompt in (EASY, HARD):
            await stub.Route(pb.RouteRequest(prompt=prompt), metadata=[("x-request-id", "same")])
        await record(stub, "same", correct=True)
    assert {row["call_id"] == "same": row["level"] for row in rows(url, database.decisions)} == {True: 1, False: 5}


async def test_a_pinned_arm_has_no_propensity_and_a_bad_request_no_row(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        options = pb.SolveOptions(arm="majority(n=2)")
        await stub.Solve(pb.SolveRequest(prompt=EASY, options=options))
        with pytest.raises(grpc.RpcError):
            await stub.Solve(pb.SolveRequest(prompt=""))
    recorder.close()
    ((row),) = rows(url, database.decisions)
    assert (row["arm"], row["propensity"]) == ("majority(n=2)", None)
    assert [row[name] for name in ("objective", "objective_value", "objective_given", "choice")] == [None] * 4


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"correct": True}, "call_id"),
        ({"call_id": "a b", "correct": True}, "call_id"),
        ({"call_id": "a"}, "correct"),
        ({"call_id": "a", "score": 1.5}, "score"),
        ({"call_id": "a", "score": float("nan")}, "score"),
    ],
)
async def test_a_wrong_outcome_names_its_field(solver, recorder, fields, field):
    async with serving(solver, recorder) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await stub.RecordOutcome(pb.RecordOutcomeRequest(**fields))
    assert violated(raised.value) == field


def violated(error: grpc.RpcError) -> str:
    violation = BadRequest()
    assert any(each.Unpack(violation) for each in rpc_status.from_call(error).details)
    return violation.field_violations[0].field


async def test_without_a_database_outcomes_are_refused(solver):
    async with serving(solver, None) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await record(stub, "a", correct=True)
    info = ErrorInfo()
    assert rpc_status.from_call(raised.value).details[0].Unpack(info)
    assert info.reason == "OUTCOMES_OFF"


async def test_prompts_are_kept_by_choice(solver, url):
    recorder = Recorder(url, prompts=True)
    async with serving(solver, recorder) as stub:
        await stub.Route(pb.RouteRequest(prompt=EASY))
    assert [row["prompt"] for row in rows(url, database.decisions)] == [EASY]  # written when the server stopped


@pytest.mark.parametrize(("explore", "budget"), [(0.0, 16), (0.5, 16), (1.0, 16), (1.0, 4)])
async def test_explored_arms_have_the_probability_that_is_recorded(bundle_folder, generator, verifier, explore, budget):
    bundle = load_bundle(bundle_folder)
    engines = Engines({"small": generator}, "small", verifier)
    request = Request(Prompt.of(HARD), Budget(budget))
    chosen = await Solver(bundle, engines).decide(request)
    solver = Solver(bundle, engines, explore=explore)
    draws = 2000 if explore else 100
    drawn: Counter[str] = Counter()
    told: dict[str, float] = {}
    for _ in range(draws):
        decision = await solver.decide(request)
        assert decision.arm.budget() <= budget
        assert decision.choice == chosen.arm
        assert (decision.expectation is None) == (decision.arm != chosen.arm)
        drawn[str(decision.arm)] += 1
        told[str(decision.arm)] = decision.propensity
    assert sum(told.values()) == pytest.approx(1)
    for arm, propensity in told.items():
        assert drawn[arm] / draws == pytest.approx(propensity, abs=0.055)  # five standard errors
