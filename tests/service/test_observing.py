"""Metrics, logs and traces of real calls: what they show, and that prompts and answers stay out of them."""

import asyncio
import contextlib
import json
import logging
import math
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from router.bundle.bundle import load_bundle
from router.client import connect
from router.errors import AddressUnavailable, EngineUnavailable
from router.policy.table import LEVELS
from router.service import logs
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import Caller, Token, digest_of
from router.service.bundle_manager import BundleManager
from router.service.drift import calibration_error, stability
from router.service.metrics import Metrics
from router.service.metrics_door import MetricsDoor
from router.service.middleware.call import CallRecord, Verdict
from router.service.middleware.observation import ObserverBatch
from router.service.recorder import Recorder
from router.service.tracing import traced
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


class Observed:
    """A server with everything watched, and what was seen."""

    def __init__(self, solver: Solver, caplog, *, text: bool = False, recorder: Recorder | None = None):
        self.spans, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        tracer = provider.get_tracer("tests")
        self.bundles = BundleManager(Solver(solver.bundle, traced(solver.engines, tracer)))
        self.admission = Admission()
        self.metrics = Metrics(self.bundles, self.admission, recorder)
        self.server = Server(
            self.bundles,
            "127.0.0.1",
            0,
            admission=self.admission,
            observers=[self.metrics.observe, partial(logs.log_call, text=text)],
            recorder=recorder,
            tracer=tracer,
        )
        self.caplog = caplog

    async def __aenter__(self) -> "Observed":
        self.caplog.set_level(logging.INFO)
        await self.server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.stub = RouterServiceStub(self._channel)
        return self

    async def __aexit__(self, *error) -> None:
        await self._channel.close()
        await self.server.stop(grace=0)

    @property
    def lines(self) -> list[dict]:
        return [record.call for record in self.caplog.records if hasattr(record, "call")]

    def metric(self, name: str, **labels: str) -> Any:
        door = {"door": "grpc"} if name == "router_calls_total" else {}
        return self.metrics.registry.get_sample_value(name, door | labels)


async def test_a_call_is_one_line_with_its_decision_and_its_bill(solver, caplog):
    async with Observed(solver, caplog) as observed:
        call = observed.stub.Solve(pb.SolveRequest(prompt=HARD), metadata=[("x-request-id", "mine-7")])
        solution = (await call).solution
        (line,) = observed.lines
        assert dict(await call.trailing_metadata())["x-request-id"] == line["id"] == "mine-7"
    assert (line["method"], line["code"], line["reason"], line["caller"]) == ("Solve", "OK", None, "ipv4:127.0.0.1")
    assert (line["level"], line["arm"], line["pinned"]) == (5, "revision(n=4, chains=2)", False)
    assert line["bundle"] == solution.decision.bundle_id
    assert line["generated_tokens"] == solution.bill.generated_tokens
    assert line["flops"] == solution.bill.generator_flops + solution.bill.verifier_flops
    assert line["stop"] == "complete"
    assert {"seconds", "queue_seconds", "route_seconds", "generate_seconds", "score_seconds"} <= set(line)


@pytest.mark.parametrize("given", ["", "x" * 129, "two words", "semi;colon"])
async def test_a_strange_request_id_is_replaced(solver, caplog, given):
    async with Observed(solver, caplog) as observed:
        await observed.stub.Route(pb.RouteRequest(prompt=EASY), metadata=[("x-request-id", given)] if given else None)
    assert len(observed.lines[0]["id"]) == 32


async def test_failed_and_cancelled_calls_have_their_line_and_their_spend(solver, generator, caplog):
    generator.latency = 0.01
    async with Observed(solver, caplog) as observed:
        with pytest.raises(grpc.RpcError):
            await observed.stub.Solve(pb.SolveRequest(prompt=""))
        stream = observed.stub.StreamSolve(pb.StreamSolveRequest(prompt=HARD))
        await stream.read()
        stream.cancel()
        while len(observed.lines) < 2:  # noqa: ASYNC110 - the server notices a moment later
            await asyncio.sleep(0.01)
        failed, cancelled = observed.lines
        assert (failed["code"], failed["reason"]) == ("INVALID_ARGUMENT", "PROMPT_EMPTY")
        assert (cancelled["code"], cancelled["level"]) == ("CANCELLED", 5)
        labels = {"level": "5", "arm": "revision(n=4, chains=2)", "kind": "generated"}
        assert cancelled["generated_tokens"] == observed.metric("router_tokens_total", **labels) > 0
    assert observed.metric("router_calls_total", method="Solve", code="INVALID_ARGUMENT", reason="PROMPT_EMPTY") == 1
    assert observed.metric("router_calls_total", method="StreamSolve", code="CANCELLED", reason="") == 1


async def test_metrics_count_decisions_phases_and_spend(solver, caplog):
    async with Observed(solver, caplog) as observed:
        single = {"level": "1", "arm": "single"}
        assert observed.metric("router_decisions_total", **single) == 0  # no traffic can be told from no series
        bill = (await observed.stub.Solve(pb.SolveRequest(prompt=EASY))).solution.bill
        await observed.stub.Route(pb.RouteRequest(prompt=EASY))
        for n in (1, 2, 3):
            options = pb.SolveOptions(arm=f"best_of_n(n={n})")
            await observed.stub.Solve(pb.SolveRequest(prompt=EASY, options=options))
    assert observed.metric("router_decisions_total", **single) == 2
    assert observed.metric("router_tokens_total", **single, kind="generated") == bill.generated_tokens
    assert observed.metric("router_flops_total", **single, engine="generator") == bill.generator_flops
    assert observed.metric("router_decisions_total", level="1", arm="best_of_n (pinned)") == 3
    assert observed.metric("router_seconds_count", method="Solve", phase="total") == 4
    assert observed.metric("router_seconds_count", method="Solve", phase="generate") == 4
    assert observed.metric("router_seconds_sum", method="Route", phase="route") > 0
    assert (observed.metric("router_running"), observed.metric("router_waiting")) == (0, 0)


async def test_the_engines_health(solver, generator, caplog):
    extend = generator.extend

    async def down(*args, **options):
        raise EngineUnavailable("gone")

    async with Observed(solver, caplog) as observed:
        assert math.isnan(observed.metric("router_engine_up"))  # not asked yet is not down
        for behaviour, up in ((down, 0), (extend, 1)):
            generator.extend = behaviour
            with contextlib.suppress(grpc.RpcError):
                await observed.stub.Solve(pb.SolveRequest(prompt=EASY))
            assert observed.metric("router_engine_up") == up


def failing(call: CallRecord) -> None:
    raise ZeroDivisionError


async def test_an_observer_that_fails_harms_no_call(solver, caplog):
    server = Server(BundleManager(solver), "127.0.0.1", 0, observers=[failing])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert (await RouterServiceStub(channel).Route(pb.RouteRequest(prompt=EASY))).decision.level == 1
    await server.stop(grace=0)
    assert "could not be shown: ZeroDivisionError" in caplog.text


async def test_calls_that_are_batched_are_all_shown_in_a_moment_or_at_once(caplog):
    def record(method: str) -> CallRecord:
        return CallRecord("1", "router.v1.RouterService", method, None, "OK", "", 0.5)

    seen = []
    batch = ObserverBatch([failing, seen.append], seconds=0.02)
    for method in ("Route", "Solve"):
        batch.add(record(method))
    assert not seen
    await asyncio.sleep(0.1)
    assert [call.method for call in seen] == ["Route", "Solve"]  # whatever befalls another observer
    batch.add(record("GetBundle"))
    batch.flush()
    assert [call.method for call in seen] == ["Route", "Solve", "GetBundle"]
    assert caplog.text.count("could not be shown") == 3


async def test_a_trace_spans_route_rounds_and_engine_calls(solver, caplog):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Observed(solver, caplog) as observed:
        request = pb.SolveRequest(prompt=EASY, objective=pb.Objective(budget=4))
        call = observed.stub.Solve(request, metadata=[("traceparent", traceparent)])
        await call
    found = {span.context.span_id: span for span in observed.spans.get_finished_spans()}
    tree = {
        (span.name, found[span.parent.span_id].name if span.parent.span_id in found else None)
        for span in found.values()
    }
    root = "router.v1.RouterService/Solve"
    assert tree == {(root, None), ("route", root), ("round", root), ("result", root), ("generator.extend", "round")}
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {traceparent.split("-")[1]}
    (server,) = [span for span in found.values() if span.name == root]
    assert (server.attributes["router.level"], server.attributes["rpc.response.status_code"]) == (1, "OK")


TRACE = "0af7651916cd43dd8448eb211c80319c"
WRITTEN = "by-a-caller"
HEADERS = [
    ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
    ("baggage", f"{WRITTEN}={WRITTEN},{WRITTEN}"),
    ("tracestate", f"{WRITTEN},{WRITTEN}={WRITTEN},{WRITTEN}={WRITTEN}"),
]


async def test_of_a_callers_trace_headers_only_ids_are_read_and_of_strangers_none(solver, caplog):
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    known = [Token(digest_of("secret"), Caller("app"))]
    server = Server(BundleManager(solver), "127.0.0.1", 0, tokens=lambda: known, tracer=provider.get_tracer("tests"))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            await stub.Route(pb.RouteRequest(prompt=EASY), metadata=HEADERS)
        assert not spans.get_finished_spans()
        await stub.Route(pb.RouteRequest(prompt=EASY), metadata=[*HEADERS, ("authorization", "Bearer secret")])
        with pytest.raises(grpc.RpcError):
            await stub.Route(pb.RouteRequest(prompt=""), metadata=[("authorization", "Bearer secret")])
    await server.stop(grace=0)
    routed, refused = spans.get_finished_spans()
    assert f"{routed.context.trace_id:032x}" == TRACE != f"{refused.context.trace_id:032x}"
    assert refused.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert WRITTEN not in caplog.text + routed.to_json()


@pytest.mark.parametrize("text", [False, True])
async def test_prompts_and_answers_are_logged_only_when_asked_for(solver, generator, caplog, text):
    async def quoting(*args, **options):
        raise ValueError(f"can't do {args}")

    secret = "SECRET 700000000 + 77777777 ="
    async with Observed(solver, caplog, text=text) as observed:
        await observed.stub.Solve(pb.SolveRequest(prompt=secret))
        generator.extend = quoting
        for method in ("Solve", "StreamSolve"):
            call = getattr(observed.stub, method)(getattr(pb, f"{method}Request")(prompt=secret))
            with pytest.raises(grpc.RpcError):
                await (call.read() if method == "StreamSolve" else call)
    formatter = logs.formatter()
    logged = "".join(formatter.format(record) for record in caplog.records)
    told = generate_latest(observed.metrics.registry).decode() + "".join(
        span.to_json() for span in observed.spans.get_finished_spans()
    )
    for words in ("SECRET", "777777777"):  # no timestamp or id has nine sevens
        assert words not in told
        assert (words in logged) == text
    assert "ValueError" in logged
    assert all(json.loads(formatter.format(record))["time"] for record in caplog.records)


@pytest.mark.parametrize(
    ("value", "written"),
    [("é\u2028", r"\u00e9\u2028"), ("half \ud800", r"half \ud800"), (2**70, str(2**70)), (Path("a"), "a")],
)
def test_every_value_is_logged_in_ascii_on_one_line(value, written):
    """Also what the fast encoder does not know. Separators of lines can't forge a line."""
    record = logging.makeLogRecord({"msg": "call", "call": {"value": value}})
    line = logs.formatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    assert written in line
    json.loads(line)


async def test_drift_is_of_this_bundles_levels(solver, caplog):
    async with Observed(solver, caplog) as observed:
        for _ in range(100):
            await observed.stub.Route(pb.RouteRequest(prompt=EASY))
        shifted = observed.metric("router_level_drift")
    assert shifted == pytest.approx(stability([100, 0, 0, 0, 0], [60] * 5))
    assert shifted > 0.25


async def test_a_bundle_that_takes_over_begins_anew(solver, bundle_folder, caplog):
    async with Observed(solver, caplog) as observed:
        for _ in range(100):
            await observed.stub.Route(pb.RouteRequest(prompt=EASY))
        assert observed.metric("router_bundle", bundle=solver.bundle.id) == 1
        other = replace(load_bundle(bundle_folder), digest="1" * 64)
        observed.bundles.active = Solver(other, solver.engines)
        await observed.stub.Route(pb.RouteRequest(prompt=EASY))
        assert math.isnan(observed.metric("router_level_drift"))
        assert observed.metric("router_bundle", bundle=solver.bundle.id) is None
        assert observed.metric("router_bundle", bundle=other.id) == 1


async def test_what_was_promised_and_what_callers_report(solver, caplog, tmp_path):
    async with Observed(solver, caplog, recorder=Recorder(f"sqlite:///{tmp_path}/outcomes.db")) as observed:
        promised = []
        for number in range(100):
            reply = await observed.stub.Route(pb.RouteRequest(prompt=EASY if number % 2 else HARD))
            promised.append(reply.decision.expectation.accuracy)
            assert math.isnan(observed.metric("router_calibration_error"))
            await observed.stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=reply.call_id, correct=number % 4 == 1))
        error = observed.metric("router_calibration_error")
        easy, hard = ({"level": "1", "arm": "single"}, {"level": "5", "arm": "revision(n=4, chains=2)"})
        for cell, right, expected in ((easy, 25, promised[1::2]), (hard, 0, promised[::2])):
            assert observed.metric("router_outcomes_total", **cell) == 50
            assert observed.metric("router_outcomes_right_total", **cell) == right
            assert observed.metric("router_outcomes_expected_total", **cell) == pytest.approx(sum(expected))
        assert error == pytest.approx(0.5 * abs(promised[1] - 0.5) + 0.5 * promised[0])
        assert observed.metric("router_decisions_dropped_total") == 0
        assert observed.metric("router_outcome_database_failures_total") == 0


async def test_refused_calls_do_not_hide_how_long_the_others_take(solver, generator, caplog):
    generator.latency = 0.05
    async with Observed(solver, caplog) as observed:
        observed.admission.concurrency, observed.admission.queue = 1, 0
        calls = [observed.stub.Solve(pb.SolveRequest(prompt=EASY)) for _ in range(3)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = sum(isinstance(answer, grpc.RpcError) for answer in answers)
        assert 0 < refused < 3
        counted = {"method": "Solve", "code": "RESOURCE_EXHAUSTED", "reason": "OVERLOADED"}
        assert observed.metric("router_calls_total", **counted) == refused
        assert observed.metric("router_seconds_count", method="Solve", phase="total") == 3 - refused
        assert (observed.metric("router_running_limit"), observed.metric("router_waiting_limit")) == (1, 0)


def test_calibration_error():
    def verdicts(expected: float, right: int, wrong: int) -> list[Verdict]:
        return [Verdict(1, "x", "b", expected, each < right) for each in range(right + wrong)]

    assert calibration_error(verdicts(0.75, 75, 25)) == 0
    assert calibration_error(verdicts(1.0, 10, 0)) == 0
    assert calibration_error(verdicts(0.95, 50, 50)) == pytest.approx(0.45)
    # Errors of different bins don't cancel out; those within one do.
    assert calibration_error(verdicts(0.25, 50, 50) + verdicts(0.75, 50, 50)) == pytest.approx(0.25)
    assert calibration_error(verdicts(0.72, 80, 20) + verdicts(0.78, 70, 30)) == pytest.approx(0, abs=1e-12)


def test_stability():
    assert stability([20] * 5, [60] * 5) == pytest.approx(0, abs=1e-3)
    assert stability([30, 20, 20, 20, 10], [20] * 5) == pytest.approx(0.1099, abs=0.02)
    assert stability([10, 0], [0, 10]) == stability([0, 10], [10, 0]) < 10


def test_level_counts(solver):
    assert solver.bundle.policy.level_counts == [60] * len(LEVELS)


def test_metrics_over_http(solver):
    async def scrape() -> str:
        metrics = Metrics(BundleManager(solver), Admission())
        door = MetricsDoor(metrics.registry, "127.0.0.1:0", lambda: True)
        with pytest.raises(AddressUnavailable, match="host:port"):
            MetricsDoor(metrics.registry, f"127.0.0.1:{door.port}", lambda: True)
        url = f"http://127.0.0.1:{door.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        door.close()
        return text

    text = asyncio.run(scrape())
    assert "# HELP router_decisions_total" in text
    assert 'router_decisions_total{arm="single",level="1"} 0.0' in text


@pytest.mark.processes
def test_serve_sends_its_traces_to_a_collector(bundle_folder):
    received = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - named as in the proto
            received.extend(
                span.name for each in request.resource_spans for part in each.scope_spans for span in part.spans
            )
            return trace_service_pb2.ExportTraceServiceResponse()

    collector = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)
    endpoint = f"http://127.0.0.1:{collector.add_insecure_port('127.0.0.1:0')}"
    collector.start()
    command = [sys.executable, "-m", "router.cli", "serve", "--backend", "fake", "--port", "0", "--traces", endpoint]
    with subprocess.Popen([*command, "--bundle", bundle_folder], stdout=subprocess.PIPE, text=True) as process:
        address = re.search(r" on (\S+)\n", process.stdout.readline())[1]
        with connect(address) as stub:
            stub.Solve(pb.SolveRequest(prompt=EASY), timeout=60)
        process.terminate()
    collector.stop(grace=None).wait()
    assert {"router.v1.RouterService/Solve", "route", "round", "generator.extend"} <= set(received)
