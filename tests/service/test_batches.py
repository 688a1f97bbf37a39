"""RouteBatch and SolveBatch over a real connection: one budget, each prompt's own result, limits and fairness."""

import asyncio
import contextlib
import json
import logging

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from router.errors import EngineUnavailable
from router.prompt import Prompt
from router.service.admission import Admission
from router.service.app import Server
from router.service.batch_searches import BatchSearches
from router.service.bundle_manager import BundleManager
from router.service.logs import log_call
from router.service.metrics import Metrics
from router.service.recorder import Recorder
from router.solving.batch import Total, decide
from router.solving.request import Request
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

EASY, MIDDLE, HARD = ("7 + 7 =", "7 + 7 + 7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 =")


@pytest.fixture
def stub(channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


def prompts(*texts: str) -> list[pb.BatchPrompt]:
    return [pb.BatchPrompt(prompt=text) for text in texts]


def route(*texts: str, **total: float) -> pb.RouteBatchRequest:
    return pb.RouteBatchRequest(prompts=prompts(*texts), budget=pb.BatchBudget(**total))


def solve(*texts: str, options: pb.SolveOptions | None = None, **total: float) -> pb.SolveBatchRequest:
    return pb.SolveBatchRequest(prompts=prompts(*texts), budget=pb.BatchBudget(**total), options=options)


def violation(error: grpc.RpcError) -> tuple[str, str]:
    """Field and reason."""
    info, bad = ErrorInfo(), BadRequest()
    for packed in rpc_status.from_call(error).details:
        packed.Unpack(info)
        packed.Unpack(bad)
    return bad.field_violations[0].field, info.reason


async def events(call) -> tuple[dict[int, pb.BatchResult], pb.BatchSummary]:
    """Results by index, and the summary, which must come last and once."""
    *results, last = [event async for event in call]
    assert last.WhichOneof("event") == "summary"
    found = {event.result.index: event.result for event in results}
    assert len(found) == len(results)
    return found, last.summary


async def test_a_batch_decides_every_prompt_within_the_total(stub, generator):
    reply = await stub.RouteBatch(route(EASY, MIDDLE, HARD, generations=21))
    assert [each.decision.level for each in reply.decisions] == [1, 3, 5]
    costs = [each.decision.expectation.cost.generations for each in reply.decisions]
    assert sum(costs) == pytest.approx(reply.expected)
    assert reply.expected <= 21
    assert generator.counted.calls == 0


async def test_others_have_their_turns_while_a_long_batch_is_decided(solver):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    requests = [Request(Prompt.of(f"{'7 + ' * 200}{i} =")) for i in range(200)]
    together = await decide(solver, requests, Total(10_000))
    running.cancel()
    assert turns >= 9
    alone = await decide(solver, requests[-1:], Total(10_000))
    assert together.decisions[-1].probabilities == pytest.approx(alone.decisions[0].probabilities)


async def test_decisions_are_those_of_route_where_the_total_pays_for_everything(stub):
    reply = await stub.RouteBatch(route(EASY, MIDDLE, HARD, generations=1000))
    for text, each in zip((EASY, MIDDLE, HARD), reply.decisions, strict=True):
        alone = await stub.Route(pb.RouteRequest(prompt=text, objective=pb.Objective(budget=16)))
        assert each.decision == alone.decision


async def test_more_goes_where_it_buys_more(stub):
    poor = await stub.RouteBatch(route(EASY, HARD, generations=6))
    # At level 1 the cheapest arm is the best; at level 5 four generations buy 0.4.
    assert [each.decision.arm.text for each in poor.decisions] == ["single", "revision(n=4, chains=2)"]


@pytest.mark.parametrize(("total", "unit"), [({"generations": 6}, "generations"), ({"flops": 400}, "flops")])
async def test_a_total_may_be_in_flops(stub, total, unit):
    reply = await stub.RouteBatch(route(EASY, HARD, **total))
    costs = [each.decision.expectation.cost for each in reply.decisions]
    spent = {"generations": lambda cost: cost.generations, "flops": lambda c: c.generator_flops + c.verifier_flops}
    assert sum(map(spent[unit], costs)) == pytest.approx(reply.expected)
    assert reply.expected <= next(iter(total.values()))


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (route(generations=4), "prompts", "BATCH_INVALID"),
        (route(*["1 + 1 ="] * 1001, generations=9999), "prompts", "BATCH_INVALID"),
        (route(EASY), "budget", "BATCH_INVALID"),
        (route(EASY, generations=0), "budget.generations", "BUDGET_OUT_OF_RANGE"),
        (route(EASY, generations=float("nan")), "budget.generations", "BUDGET_OUT_OF_RANGE"),
        (route(EASY, generations=float("inf")), "budget.generations", "BUDGET_OUT_OF_RANGE"),
        (route(EASY, HARD, generations=1.5), "budget.generations", "BUDGET_OUT_OF_RANGE"),
        (route(EASY, money=3), "budget.money", "BATCH_INVALID"),
        (route(EASY, " ", generations=9), "prompts[1].prompt", "PROMPT_EMPTY"),
        (route(EASY, HARD, "x" * 400_001, generations=9), "prompts[2].prompt", "PROMPT_TOO_LONG"),
        (
            pb.RouteBatchRequest(
                prompts=[pb.BatchPrompt(messages=[pb.Message(role="user", content="x")] * 1001)],
                budget=pb.BatchBudget(generations=9),
            ),
            "prompts[0].messages",
            "PROMPT_TOO_LONG",
        ),
        (solve(EASY, generations=9, options=pb.SolveOptions(arm="single")), "options.arm", "BATCH_INVALID"),
        (
            solve(EASY, generations=9, options=pb.SolveOptions(max_generated_tokens=0)),
            "options.max_generated_tokens",
            "CAP_OUT_OF_RANGE",
        ),
    ],
)
async def test_bad_input_names_the_field_and_the_prompt(stub, request_, field, reason):
    routes = isinstance(request_, pb.RouteBatchRequest)
    call = stub.RouteBatch(request_) if routes else anext(aiter(stub.SolveBatch(request_)))
    with pytest.raises(grpc.RpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(raised.value) == (field, reason)


@pytest.mark.parametrize(("count", "advice"), [(0, "send at least one"), (1001, "split it into several")])
async def test_a_batch_of_no_or_too_many_prompts_is_told_what_to_do(stub, count, advice):
    with pytest.raises(grpc.RpcError, match=f"this one {count}; {advice}"):
        await stub.RouteBatch(route(*[EASY] * count, generations=9999))


async def test_an_unknown_task_names_its_prompt(stub):
    request = pb.RouteBatchRequest(
        prompts=[pb.BatchPrompt(prompt=EASY), pb.BatchPrompt(prompt=EASY, task="rhymes")],
        budget=pb.BatchBudget(generations=9),
    )
    with pytest.raises(grpc.RpcError) as raised:
        await stub.RouteBatch(request)
    assert violation(raised.value) == ("prompts[1].task", "TASK_UNKNOWN")


async def test_a_message_beyond_the_limit_is_refused(stub):
    with pytest.raises(grpc.RpcError) as raised:
        await stub.RouteBatch(route(*["x" * 300_000] * 4, generations=9))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_every_prompt_is_solved_and_the_bill_is_the_engines_count(stub, generator, verifier):
    found, summary = await events(stub.SolveBatch(solve(EASY, MIDDLE, HARD, generations=21)))
    assert [found[index].solution.answer for index in range(3)] == ["14", "28", "56"]
    assert (summary.solved, summary.failed) == (3, 0)
    assert summary.bill.generated_tokens == generator.counted.generated_tokens
    assert summary.bill.scored_tokens == verifier.counted.scored_tokens
    assert summary.bill.generated_tokens == sum(each.solution.bill.generated_tokens for each in found.values())
    assert summary.spent > 0


async def test_what_easy_prompts_saved_goes_to_hard_ones(solver, generator):
    """One place: prompts are solved in turn. A solution of the bundle has 20 tokens, these have 10 with their end: each
    EASY leaves half a generation, and ten of them what HARD's better arm costs more."""
    generator.write = lambda prompt, path, rng: "Answer: 1"
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=Admission(1))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        request = solve(*[EASY] * 10, HARD, generations=13)
        planned = (await stub.RouteBatch(route(*[EASY] * 10, HARD, generations=13))).decisions[10]
        found, summary = await events(stub.SolveBatch(request))
    await server.stop(0)
    assert planned.decision.arm.text == "single"
    assert found[10].solution.decision.arm.text == "revision(n=4, chains=2)"
    assert summary.spent < summary.expected


async def test_prompts_have_ids_of_their_own_in_log_metrics_and_outcomes(solver, tmp_path, caplog):
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
            metadata = (("x-request-id", "mine"),)
            routed = await stub.RouteBatch(route(EASY, HARD, generations=6), metadata=metadata)
            call = stub.SolveBatch(solve(EASY, HARD, generations=6), metadata=(("x-request-id", "yours"),))
            found, _ = await events(call)
            assert [each.call_id for each in routed.decisions] == ["mine.0", "mine.1"]
            assert {found[1].call_id, found[1].solution.call_id} == {"yours.1"}
            for call_id in ("mine.1", "yours.0", "yours.1"):
                outcome = pb.RecordOutcomeRequest(call_id=call_id, correct=True)
                assert (await stub.RecordOutcome(outcome)).changed
    await server.stop(0)
    records = {record.call["id"]: record.call for record in caplog.records if hasattr(record, "call")}
    assert records["mine"]["prompts"] == 2
    assert records["mine"]["arms"] == {"single": 1, "revision(n=4, chains=2)": 1}
    assert records["yours.1"]["method"] == "SolveBatch.prompt"
    assert records["yours.1"]["arm"] == "revision(n=4, chains=2)"
    assert records["yours"]["generated_tokens"] == sum(records[f"yours.{i}"]["generated_tokens"] for i in range(2))
    count = metrics.registry.get_sample_value
    assert count("router_decisions_total", {"level": "5", "arm": "revision(n=4, chains=2)"}) == 2
    assert count("router_outcomes_total", {"level": "5", "arm": "revision(n=4, chains=2)"}) == 2
    json.dumps(records["mine"])


async def test_one_prompts_failure_leaves_the_others(stub, generator):
    write = generator.write

    def fail(prompt, path, rng):
        if prompt == MIDDLE:
            raise EngineUnavailable("no engine")
        return write(prompt, path, rng)

    generator.write = fail
    found, summary = await events(stub.SolveBatch(solve(EASY, MIDDLE, HARD, generations=21)))
    assert found[1].error.reason == pb.ERROR_REASON_ENGINE_UNAVAILABLE
    assert (summary.solved, summary.failed) == (2, 1)


async def test_a_cap_holds_for_each_prompt_by_itself(stub):
    options = pb.SolveOptions(max_generated_tokens=40)
    found, summary = await events(stub.SolveBatch(solve(EASY, HARD, generations=6, options=options)))
    assert found[0].solution.answer == "14"
    assert found[1].error.reason == pb.ERROR_REASON_TOKEN_CAP_REACHED
    assert found[1].error.bill.generated_tokens == 40
    assert (summary.solved, summary.failed) == (1, 1)


async def test_at_the_deadline_what_is_known_is_sent(solver, generator, monkeypatch):
    for module in ("router.solving.driver", "router.service.batch_searches"):
        monkeypatch.setattr(f"{module}._MARGIN", 0.6)  # to send the reply, on a busy machine
    generator.latency = 0.02
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=Admission(1))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = solve(*[EASY] * 40, generations=40)
        found, summary = await events(RouterServiceStub(channel).SolveBatch(request, timeout=3))
    await server.stop(0)
    assert summary.solved > 0
    late = {found[index].error.reason for index in found if found[index].HasField("error")}
    assert late == {pb.ERROR_REASON_DEADLINE_EXCEEDED}
    assert summary.solved + summary.failed == len(found) == 40


async def test_cancelling_a_batch_frees_its_places(solver, generator):
    generator.latency = 0.05
    admission = Admission(2)
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = RouterServiceStub(channel).SolveBatch(solve(*[EASY] * 20, generations=20))
        await anext(aiter(call))
        assert admission.running.total() == 2
        call.cancel()
        async with asyncio.timeout(20):
            while admission.running.total() or admission.waiting:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        calls = generator.counted.calls
        await asyncio.sleep(0.2)
        assert generator.counted.calls == calls
    await server.stop(0)


async def test_what_a_cancelled_batch_spent_is_billed_and_shown(solver, generator):
    generator.latency = 0.02
    records, bundles = [], BundleManager(solver)
    admission = Admission(2)
    metrics = Metrics(bundles, admission)
    server = Server(bundles, "127.0.0.1", 0, admission=admission, observers=[records.append, metrics.observe])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = RouterServiceStub(channel).SolveBatch(solve(*[EASY] * 20, generations=20))
        first = await anext(aiter(call))
        spent = generator.counted.generated_tokens
        async with asyncio.timeout(20):
            while generator.counted.generated_tokens == spent:  # noqa: ASYNC110 - the next searches are at work
                await asyncio.sleep(0.005)
            call.cancel()
            while not records or records[-1].method != "SolveBatch":  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)
    await server.stop(0)
    *parts, whole = records
    assert whole.code == "CANCELLED"
    assert (
        whole.bill.generated_tokens == generator.counted.generated_tokens > first.result.solution.bill.generated_tokens
    )
    assert whole.bill.generated_tokens == sum(part.bill.generated_tokens for part in parts)
    cancelled = [part for part in parts if part.code == "CANCELLED"]
    assert {part.id for part in cancelled} <= {f"{whole.id}.{index}" for index in range(20)}
    assert cancelled
    assert all(part.decision and not part.solution and not part.reason for part in cancelled)
    samples = [each for metric in metrics.registry.collect() for each in metric.samples]
    counted = [
        each.value for each in samples if each.name == "router_tokens_total" and each.labels["kind"] == "generated"
    ]
    assert sum(counted) == generator.counted.generated_tokens


async def test_what_nobody_read_of_a_batch_is_billed_all_the_same(solver, generator):
    batch = await decide(solver, [Request(Prompt.of(EASY))] * 4, Total(4))
    searches = BatchSearches(solver, batch, Admission(4), "me", seconds_left=lambda: None)
    async with contextlib.aclosing(searches.results()) as results:
        read = await anext(results)
        async with asyncio.timeout(20):
            while generator.counted.calls < 4:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)
    bills = [read.bill, *(each.bill for each in searches.unread())]
    assert sum(bill.generated_tokens for bill in bills) == generator.counted.generated_tokens
    assert searches.unread() == []


async def test_another_callers_search_is_not_behind_the_whole_batch(solver, generator):
    """A batch holds all places and has one search waiting; the next free place is the other caller's."""
    generator.latency = 0.01
    admission = Admission(2)
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission)
    await server.start()
    order = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = RouterServiceStub(channel).SolveBatch(solve(*[EASY] * 30, generations=30))

        async def read():
            async for event in call:
                order.append(event.WhichOneof("event"))

        reading = asyncio.create_task(read())
        while admission.running.total() < 2 or not admission.waiting:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
        assert admission.waiting == 1
        with await admission.place("another caller", None):
            order.append("other")
        await reading
    await server.stop(0)
    assert order.index("other") < 10


async def test_a_place_that_others_waited_for_is_given_back_and_the_prompt_solved_later(solver, generator):
    generator.latency = 0.05
    admission = Admission(2, patience=0.2)
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        reading = asyncio.create_task(events(RouterServiceStub(channel).SolveBatch(solve(*[EASY] * 4, generations=4))))
        while admission.running.total() < 2:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
        with await admission.place("another caller", None):
            assert not reading.done()
        found, summary = await reading
    await server.stop(0)
    assert {each.solution.answer for each in found.values()} == {"14"}
    assert summary.bill.generated_tokens == generator.counted.generated_tokens


async def test_a_batch_is_refused_where_not_even_its_first_search_may_wait(solver):
    admission = Admission(1, 0)
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission)
    await server.start()
    with await admission.place("another caller", None):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            with pytest.raises(grpc.RpcError) as raised:
                await events(RouterServiceStub(channel).SolveBatch(solve(EASY, generations=4)))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in dict(raised.value.trailing_metadata())
    await server.stop(0)


async def test_a_slow_reader_holds_up_the_batch_and_not_the_memory(solver, generator):
    """Results that nobody reads are bounded: no more searches begin."""
    batch = await decide(solver, [Request(Prompt.of(EASY))] * 30, Total(30))
    searches = BatchSearches(solver, batch, Admission(2), "me", seconds_left=lambda: None, read_ahead=3)
    async with contextlib.aclosing(searches.results()) as results:
        await anext(results)
        begun = -1
        while begun != (begun := generator.counted.calls):  # noqa: ASYNC110 - until no more begin
            await asyncio.sleep(0.3)
        assert begun <= 1 + 2 + 3
