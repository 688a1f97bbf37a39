"""The service over a real connection: what callers see of results, limits, bad input and bugs."""

import asyncio
import logging
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from router.errors import AddressUnavailable, EngineUnavailable
from router.service.admission import Admission
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.router_service import ROUTER
from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from router.v1.admin_pb2_grpc import AdminServiceStub
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import Dvts, parse

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


@pytest.fixture
def stub(channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


def options(arm: str = "majority(n=4)", **limits) -> pb.SolveOptions:
    return pb.SolveOptions(arm=arm, **limits)


async def call(stub: RouterServiceStub, method: str, **fields: object) -> object:
    """One call of any method; of a stream, the first event."""
    request = getattr(pb, f"{method}Request")(**fields)
    return await (
        anext(aiter(stub.StreamSolve(request))) if method == "StreamSolve" else getattr(stub, method)(request)
    )


def details(error: grpc.RpcError) -> dict[str, Any]:
    found = {}
    for packed in rpc_status.from_call(error).details:
        for message in (ErrorInfo(), BadRequest(), RetryInfo(), pb.Bill()):
            if packed.Unpack(message):
                found[message.DESCRIPTOR.name] = message
    return found


async def test_route_decides_and_runs_nothing(stub, generator):
    reply = await stub.Route(pb.RouteRequest(prompt=HARD, objective=pb.Objective(budget=16)))
    decision = reply.decision
    assert (decision.level, parse(decision.arm.text)) == (5, parse("lookahead(n=8, m=4, k=1)"))
    assert sum(decision.probabilities) == pytest.approx(1)
    expected = decision.expectation
    assert (expected.accuracy, expected.cost.generations, expected.evidence) == (0.5, 16, pb.EVIDENCE_SUFFICIENT)
    assert reply.bill.route_seconds > 0
    assert generator.counted.calls == 0


@pytest.mark.parametrize(
    ("objective", "arm"),
    [
        (None, "revision(n=4, chains=2)"),  # the default is a budget of 4
        (pb.Objective(budget=4), "revision(n=4, chains=2)"),
        (pb.Objective(budget=15), "revision(n=4, chains=2)"),
        (pb.Objective(budget=16), "lookahead(n=8, m=4, k=1)"),
        (pb.Objective(average_budget=1.5), "single"),
        (pb.Objective(average_budget=100.0), "lookahead(n=8, m=4, k=1)"),
        (pb.Objective(target_accuracy=0.25), "revision(n=4, chains=2)"),
        (pb.Objective(price_per_flop=1e-3), "revision(n=4, chains=2)"),
        (pb.Objective(price_per_flop=1.0), "single"),
    ],
)
async def test_the_objective_chooses_the_arm(stub, objective, arm):
    reply = await stub.Route(pb.RouteRequest(prompt=HARD, objective=objective))
    assert parse(reply.decision.arm.text) == parse(arm)
    assert reply.decision.expectation.evidence == pb.EVIDENCE_SUFFICIENT


async def test_a_target_beyond_the_evidence_is_said_and_still_solved(stub):
    request = pb.SolveRequest(prompt=HARD, objective=pb.Objective(target_accuracy=0.9))
    decision = (await stub.Solve(request)).solution.decision
    assert decision.expectation.evidence == pb.EVIDENCE_INSUFFICIENT
    assert parse(decision.arm.text) == parse("lookahead(n=8, m=4, k=1)")


async def test_solve_answers_with_the_engines_own_count(stub, generator, verifier):
    solution = (await stub.Solve(pb.SolveRequest(prompt=HARD, objective=pb.Objective(budget=16)))).solution
    assert (solution.answer, solution.stop_reason) == ("56", pb.STOP_REASON_COMPLETE)
    assert solution.text.startswith("7 + 7 = 14\n")
    bill, mine, theirs = solution.bill, generator.counted, verifier.counted
    assert bill.prompt_tokens == mine.prompt_tokens
    assert bill.generated_tokens == mine.generated_tokens > 0
    assert bill.scored_tokens == theirs.scored_tokens > 0
    assert bill.engine_calls == mine.calls + theirs.calls
    assert bill.generate_seconds > 0
    assert bill.score_seconds > 0
    assert not solution.candidates


async def test_candidates_come_with_their_scores(stub):
    request = pb.SolveRequest(prompt=EASY, options=options("best_of_n(n=4)", return_candidates=True))
    candidates = (await stub.Solve(request)).solution.candidates
    assert len(candidates) == 4
    assert all(candidate.finished and candidate.answer for candidate in candidates)
    assert all(step.HasField("score") for candidate in candidates for step in candidate.steps)
    request.options.arm = "majority(n=4)"
    candidates = (await stub.Solve(request)).solution.candidates
    assert not any(step.HasField("score") for candidate in candidates for step in candidate.steps)


async def test_a_pinned_arm_bypasses_the_policy(stub):
    decision = (await stub.Solve(pb.SolveRequest(prompt=HARD, options=options("dvts(n=4, m=2)")))).solution.decision
    assert (parse(decision.arm.text), decision.HasField("expectation")) == (Dvts(n=4, m=2), False)


async def test_a_stream_is_rounds_and_then_the_solution(stub):
    request = pb.StreamSolveRequest(prompt=HARD, objective=pb.Objective(budget=16))
    *rounds, text, last = [event async for event in stub.StreamSolve(request)]
    assert text.text == last.solution.text
    assert len(rounds) > 2
    assert [event.round.number for event in rounds] == list(range(1, len(rounds) + 1))
    assert rounds[-1].round.generated_tokens == last.solution.bill.generated_tokens
    assert rounds[-1].round.answer == last.solution.answer == "56"
    solved = await stub.Solve(pb.SolveRequest(prompt=HARD, objective=pb.Objective(budget=16)))
    assert solved.solution.text == last.solution.text


async def test_no_answer_is_absent_not_empty(stub, generator):
    generator.write = lambda prompt, path, rng: "I wonder."
    solution = (await stub.Solve(pb.SolveRequest(prompt=EASY))).solution
    assert not solution.HasField("answer")
    assert (solution.text, solution.stop_reason) == ("I wonder.", pb.STOP_REASON_COMPLETE)
    assert solution.no_answer == "states no answer"
    assert solution.bill.generated_tokens == generator.counted.generated_tokens > 0


@pytest.mark.parametrize(
    ("request_fields", "field", "reason"),
    [
        ({"prompt": ""}, "prompt", "PROMPT_EMPTY"),
        ({"prompt": " \n"}, "prompt", "PROMPT_EMPTY"),
        ({"prompt": "x" * 400_001}, "prompt", "PROMPT_TOO_LONG"),
        ({"prompt": "", "messages": [pb.Message(role="user", content="x")] * 1001}, "messages", "PROMPT_TOO_LONG"),
        ({"objective": pb.Objective(budget=0)}, "objective.budget", "BUDGET_OUT_OF_RANGE"),
        ({"objective": pb.Objective(budget=17)}, "objective.budget", "BUDGET_OUT_OF_RANGE"),
        ({"objective": pb.Objective(budget=17), "options": options()}, "objective.budget", "BUDGET_OUT_OF_RANGE"),
        ({"objective": pb.Objective(average_budget=0.5)}, "objective.average_budget", "BUDGET_OUT_OF_RANGE"),
        ({"objective": pb.Objective(target_accuracy=2.0)}, "objective.target_accuracy", "OBJECTIVE_OUT_OF_RANGE"),
        ({"objective": pb.Objective(price_per_flop=-1.0)}, "objective.price_per_flop", "OBJECTIVE_OUT_OF_RANGE"),
        ({"objective": pb.Objective(on_insufficient=77)}, "objective.on_insufficient", "OBJECTIVE_OUT_OF_RANGE"),  # type: ignore[arg-type]
        ({"options": options("guess")}, "options.arm", "ARM_INVALID"),
        ({"options": options("beam_search(n=10, m=4)")}, "options.arm", "ARM_INVALID"),
        ({"options": options(max_generated_tokens=0)}, "options.max_generated_tokens", "CAP_OUT_OF_RANGE"),
        ({"options": options(max_scored_tokens=0)}, "options.max_scored_tokens", "CAP_OUT_OF_RANGE"),
        ({"options": options(max_tokens=0)}, "options.max_tokens", "CAP_OUT_OF_RANGE"),
        ({"options": options(temperature=-0.1)}, "options.temperature", "TEMPERATURE_OUT_OF_RANGE"),
        ({"options": options(temperature=float("nan"))}, "options.temperature", "TEMPERATURE_OUT_OF_RANGE"),
    ],
)
@pytest.mark.parametrize("method", ["Solve", "StreamSolve"])
async def test_bad_input_names_the_field_and_reaches_no_engine(
    stub, generator, request_fields, field, reason, *, method
):
    with pytest.raises(grpc.RpcError) as raised:
        await call(stub, method, **{"prompt": EASY, **request_fields})
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = details(raised.value)
    assert found["ErrorInfo"].reason == reason
    assert found["BadRequest"].field_violations[0].field == field
    assert generator.counted.calls == 0


async def test_an_error_with_a_long_name_of_a_field_reaches_its_caller(stub):
    request = pb.SolveRequest(prompt=EASY)
    request.inputs.update({"é" * 20_000: 1})
    with pytest.raises(grpc.RpcError, match="unknown input; leave it out") as raised:
        await stub.Solve(request)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(raised.value)["BadRequest"].field_violations
    assert violation.field.startswith("inputs.éé")
    assert len(violation.field.encode()) <= 200


@pytest.mark.parametrize("partial", [True, False])
async def test_a_token_cap(stub, generator, partial):
    request = pb.SolveRequest(prompt=EASY, options=options(max_generated_tokens=30, allow_partial=partial))
    if partial:
        solution = (await stub.Solve(request)).solution
        assert (solution.stop_reason, solution.bill.generated_tokens) == (pb.STOP_REASON_TOKEN_CAP, 30)
    else:
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Solve(request)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(raised.value)["Bill"].generated_tokens == 30
    assert generator.counted.generated_tokens == 30


@pytest.mark.parametrize("partial", [True, False])
async def test_the_grpc_deadline_ends_the_search_in_time_to_answer(stub, generator, partial, monkeypatch):
    monkeypatch.setattr("router.solving.driver._MARGIN", 0.6)  # to send the reply, on a busy machine
    generator.latency = 0.2
    request = pb.SolveRequest(prompt=HARD, options=options(allow_partial=partial))
    if partial:
        solution = (await stub.Solve(request, timeout=3)).solution
        assert solution.stop_reason == pb.STOP_REASON_DEADLINE
        assert solution.bill.generated_tokens == generator.counted.generated_tokens > 0
    else:
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Solve(request, timeout=3)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details(raised.value)["Bill"].generated_tokens == generator.counted.generated_tokens > 0


@pytest.mark.parametrize("method", ["Solve", "StreamSolve"])
async def test_cancelling_a_call_frees_the_engine(stub, generator, method):
    generator.latency = 0.005
    arm = options("beam_search(n=4, m=2)")
    if method == "Solve":
        running = stub.Solve(pb.SolveRequest(prompt=HARD, options=arm))
        while not generator.counted.generated_tokens:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
    else:
        running = stub.StreamSolve(pb.StreamSolveRequest(prompt=HARD, options=arm))
        await running.read()
    running.cancel()
    spent = -1
    while spent != (spent := generator.counted.generated_tokens):  # noqa: ASYNC110 - until it writes no more
        await asyncio.sleep(0.1)
    generator.latency = 0
    whole = await stub.Solve(pb.SolveRequest(prompt=HARD, options=arm))
    assert 0 < spent < whole.solution.bill.generated_tokens


@pytest.mark.parametrize("method", ["Route", "Solve", "StreamSolve", "GetBundle", "RecordOutcome"])
async def test_bytes_that_are_no_message_are_a_clear_error(channel, caplog, method):
    make = channel.unary_stream if method == "StreamSolve" else channel.unary_unary
    call = make(f"/{ROUTER}/{method}")(b"\x0a\xff\xff")
    with pytest.raises(grpc.RpcError) as raised:
        await (call.read() if method == "StreamSolve" else call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(raised.value)["ErrorInfo"].reason == "MESSAGE_MALFORMED"
    assert not caplog.text


@pytest.mark.parametrize(
    ("arm", "seconds", "reads"),
    [
        ("best_of_n(n=64)", 1000, False),  # its solution fills the connection, when the search is done
        ("beam_search(n=4, m=2)", 0.5, False),  # and here the rounds do, in the middle of it
        ("best_of_n(n=64)", 1000, True),
        ("beam_search(n=4, m=2)", 1000, True),
    ],
)
async def test_who_does_not_read_a_stream_keeps_no_place(solver, arm, seconds, reads):
    admission = Admission()
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission, write_seconds=seconds)
    await server.start()
    narrow = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    request = pb.StreamSolveRequest(prompt=HARD * 4, options=options(arm, return_candidates=True))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", narrow) as channel:
        stream = RouterServiceStub(channel).StreamSolve(request)
        await stream.read()
        while admission.running.total() and not reads:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.05)
        if reads:
            event = None
            while (following := await stream.read()) is not grpc.aio.EOF:
                event = following
            assert event.solution.candidates
        assert admission.running.total() == 0
    await server.stop(grace=0)


async def test_an_engine_that_is_down_says_when_to_retry(stub, generator):
    async def extend(prompt, paths, **options):
        raise EngineUnavailable("the engine does not answer; start it")

    generator.extend = extend
    with pytest.raises(grpc.RpcError) as raised:
        await stub.Solve(pb.SolveRequest(prompt=EASY))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details(raised.value)["RetryInfo"].retry_delay.seconds > 0


@pytest.mark.parametrize("method", ["Route", "Solve", "StreamSolve"])
async def test_a_bug_is_logged_here_and_hidden_there(stub, solver, caplog, method):
    solver.decide = lambda *args: 1 / 0
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.RpcError) as raised:
        await call(stub, method, prompt=EASY)
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert details(raised.value)["ErrorInfo"].reason == "INTERNAL"
    assert "division" not in raised.value.details()
    assert "ZeroDivisionError" in caplog.text


async def test_the_bundle_that_is_served(stub, solver):
    bundle = (await stub.GetBundle(pb.GetBundleRequest())).bundle
    assert (bundle.id, bundle.digest) == (solver.bundle.id, solver.bundle.digest)
    assert bundle.default_objective == pb.Objective(budget=4)
    assert (len(bundle.cells), len(bundle.edges)) == (45, 4)
    assert [(model.name, model.parameters) for model in bundle.models] == [("small", 1000)]
    assert (bundle.reference, bundle.verifier.kind, bundle.task) == ("small", "prm", "math")


async def test_health_is_serving_until_the_server_drains(server, channel):
    health = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=ROUTER))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    stopping = asyncio.create_task(server.stop(grace=0.2))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await stopping


async def test_running_calls_finish_while_new_ones_are_refused(server, stub, generator):
    generator.latency = 0.1  # it runs until the other call was refused
    running = stub.Solve(pb.SolveRequest(prompt=EASY))
    while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    stopping = asyncio.create_task(server.stop(grace=60))
    await asyncio.sleep(0.02)
    with pytest.raises(grpc.RpcError) as raised:
        await stub.Solve(pb.SolveRequest(prompt=EASY))
    generator.latency = 0
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details(raised.value)["ErrorInfo"].reason == "STOPPING"
    assert details(raised.value)["RetryInfo"].retry_delay.seconds == 1
    assert (await running).solution.answer == "14"
    await stopping


@pytest.mark.parametrize("partial", [False, True])  # another server may still give a whole answer
async def test_calls_that_outlast_the_grace_period_are_ended(server, stub, generator, partial):
    generator.latency = 0.5
    running = stub.Solve(pb.SolveRequest(prompt=EASY, options=options(allow_partial=partial)))
    while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    await asyncio.wait_for(server.stop(grace=0.1), timeout=60)
    with pytest.raises(grpc.RpcError) as raised:
        await running
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    found = details(raised.value)
    assert (found["ErrorInfo"].reason, found["Bill"].engine_calls) == ("STOPPING", 1)
    assert found["RetryInfo"].retry_delay.seconds == 1


async def test_a_stream_that_outlasts_the_grace_period_ends_with_the_error(server, stub, generator):
    generator.latency = 0.05
    stream = stub.StreamSolve(pb.StreamSolveRequest(prompt=HARD, options=pb.SolveOptions(arm="beam_search(n=4, m=2)")))
    events = aiter(stream)
    assert (await anext(events)).HasField("round")
    generator.latency = 60
    await asyncio.wait_for(server.stop(grace=0.1), timeout=60)
    with pytest.raises(grpc.RpcError) as raised:
        async for _ in events:
            pass
    assert details(raised.value)["ErrorInfo"].reason == "STOPPING"


async def test_reflection_describes_the_service(server):
    def describe() -> tuple[list[str], list[str], str]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            service = DescriptorPool(database).FindServiceByName(ROUTER)
            prompt = service.methods_by_name["Solve"].input_type.fields[0].name
            return list(database.get_services()), [method.name for method in service.methods], prompt

    services, methods, prompt = await asyncio.to_thread(describe)
    assert {ROUTER, "grpc.health.v1.Health"} <= set(services)
    batches = ["RouteBatch", "SolveBatch"]
    assert (methods, prompt) == (["Route", "Solve", "StreamSolve", *batches, "GetBundle", "RecordOutcome"], "prompt")


async def test_a_port_in_use_is_a_clear_error(server, solver):
    with pytest.raises(AddressUnavailable, match=rf"127.0.0.1:{server.port}.*in use.*--port"):
        Server(BundleManager(solver), "127.0.0.1", server.port)


async def test_servers_that_share_a_port_answer_for_each_other(solver):
    first = Server(BundleManager(solver), "127.0.0.1", 0, share_port=True)
    second = Server(BundleManager(solver), "127.0.0.1", first.port, share_port=True)
    await first.start()
    await second.start()
    for server in (first, second):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{first.port}") as channel:
            assert (await RouterServiceStub(channel).Route(pb.RouteRequest(prompt=EASY))).decision.level == 1
            with pytest.raises(grpc.RpcError) as raised:
                await AdminServiceStub(channel).ListBundles(admin.ListBundlesRequest())
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.stop(grace=0)
