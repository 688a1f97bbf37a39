"""A bundle with several tasks: a request names one and brings what it needs, and gets its answer in that task's way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from router.attempts.served import served_attempts
from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.bundle.bundle import load_bundle
from router.client import connect_aio
from router.errors import CodeNotAllowed
from router.outcomes import tables
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.recorder import Recorder
from router.solving.solver import Solver
from router.tasks import workers
from router.tasks.code import CodeTask
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

CITIES = {"choices": ["Rome", "Paris"]}
SINGLE = pb.SolveOptions(arm="single")
CODE = "```python\ndef f(x):\n    return x + 1\n```"


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator(write=lambda *_: "It must be Paris.")


@pytest.fixture
def solver(bundle_folder: Path, generator: FakeGenerator) -> Solver:
    bundle = load_bundle(bundle_folder)
    setup = replace(bundle.setup, task=("math", "choice", "code"))
    bundle = replace(bundle, manifest=replace(bundle.manifest, setup=setup))
    return Solver(bundle, Engines({"small": generator}, "small", FakeVerifier()))


@pytest.fixture
async def recorded(solver: Solver, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """The address of a server that records prompts, and its database."""
    url = f"sqlite:///{tmp_path}/outcomes.db"
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=Recorder(url, prompts=True))
    await server.start()
    yield f"127.0.0.1:{server.port}", url
    await server.stop(grace=0)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> RouterServiceStub:
    return RouterServiceStub(channel)


async def test_a_request_names_its_task_and_brings_what_it_needs(stub):
    asked = pb.SolveRequest(prompt="Where?", task="choice", inputs=CITIES, options=SINGLE)
    solution = (await stub.Solve(asked)).solution
    assert (solution.answer, solution.no_answer) == ("B", "")
    async for event in stub.StreamSolve(pb.StreamSolveRequest(**{f.name: v for f, v in asked.ListFields()})):
        last = event
    assert last.solution.answer == "B"


async def test_without_a_name_it_is_the_first_one(stub):
    solution = (await stub.Solve(pb.SolveRequest(prompt="Where?", options=SINGLE))).solution
    assert not solution.HasField("answer")
    assert (solution.text, solution.no_answer) == ("It must be Paris.", "states no answer")


async def test_the_bundle_says_which_there_are(stub):
    bundle = (await stub.GetBundle(pb.GetBundleRequest())).bundle
    assert (bundle.task, list(bundle.tasks)) == ("math", ["math", "choice", "code"])


@pytest.mark.parametrize("method", ["Route", "Solve"])
@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"task": "poetry"}, "task", "TASK_UNKNOWN"),
        ({"inputs": CITIES}, "inputs.choices", "INPUTS_INVALID"),
        ({"task": "choice", "inputs": {"choices": [1, 2]}}, "inputs.choices", "INPUTS_INVALID"),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_written(  # noqa: PLR0917
    stub, generator, method, fields, field, reason
):
    with pytest.raises(grpc.RpcError) as raised:
        await getattr(stub, method)(getattr(pb, f"{method}Request")(prompt="Where?", **fields))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violation = BadRequest()
    assert any(detail.Unpack(violation) for detail in rpc_status.from_call(raised.value).details)
    assert (violation.field_violations[0].field, violation.field_violations[0].reason) == (field, reason)
    assert generator.counted.calls == 0


HOSTILE: dict[str, dict[str, Any]] = {
    "json": {"schema": {"properties": {str(i): {"pattern": f"(?i)[\x01-\U0010ffff]{i}"} for i in range(300)}}},
    "code": {"tests": ["assert a" + " < a" * 4_900] * 5},
}


@pytest.fixture
async def deciding(solver: Solver) -> AsyncIterator[RouterServiceStub]:
    """A server with all tasks that only decides."""
    setup = replace(solver.bundle.setup, task=("math", *HOSTILE))
    bundle = replace(solver.bundle, manifest=replace(solver.bundle.manifest, setup=setup))
    server = Server(BundleManager(Solver(bundle, solver.engines, solves=False)), "127.0.0.1", 0)
    await asyncio.to_thread(workers.start)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield RouterServiceStub(channel)
    await server.stop(grace=0)


@pytest.mark.parametrize("task", HOSTILE)
async def test_inputs_that_take_long_to_check_hold_up_no_other_call(deciding, task):
    await deciding.Route(pb.RouteRequest(prompt="1 + 1 ="))
    hostile = asyncio.ensure_future(
        _decided(deciding, pb.RouteRequest(prompt="Where?", task=task, inputs=HOSTILE[task]))
    )
    await asyncio.sleep(0)  # it was sent before the others
    other = asyncio.ensure_future(_decided(deciding, pb.RouteRequest(prompt="1 + 1 =")))
    await asyncio.wait([hostile, other], return_when=asyncio.FIRST_COMPLETED)
    assert other.done()
    assert not hostile.done()
    (found,) = await asyncio.gather(hostile, return_exceptions=True)
    if isinstance(found, grpc.RpcError):
        assert found.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _decided(stub: RouterServiceStub, asked: pb.RouteRequest) -> pb.RouteResponse:
    return await stub.Route(asked)


async def test_inputs_that_are_too_large_are_refused(stub):
    with pytest.raises(grpc.RpcError) as raised:
        await stub.Route(pb.RouteRequest(prompt="Where?", task="choice", inputs={"choices": [1.5] * 50_000}))
    assert (raised.value.code(), raised.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "inputs take at most 100000 characters",
    )


async def test_code_is_found_and_returned_but_not_run_unless_that_is_allowed(server, generator, monkeypatch):
    monkeypatch.setattr(CodeTask, "sandbox", None)
    generator.write = lambda *_: f"Here it is:\n{CODE}"
    async with connect_aio(f"127.0.0.1:{server.port}") as stub:
        solution = (await stub.Solve(pb.SolveRequest(prompt="Add one", task="code", options=SINGLE))).solution
        assert solution.answer == "def f(x):\n    return x + 1\n"
        calls = generator.counted.calls
    asked = pb.SolveRequest(prompt="Add one", task="code", inputs={"tests": ["assert f(1) == 2"]})
    with pytest.raises(CodeNotAllowed, match="--allow-code"):
        await _solved(server.port, asked)
    assert generator.counted.calls == calls


async def _solved(port: int, asked: pb.SolveRequest) -> pb.Solution:
    async with connect_aio(f"127.0.0.1:{port}") as stub:
        return (await stub.Solve(asked)).solution


async def test_what_was_asked_is_on_record(recorded, generator):
    address, url = recorded
    async with connect_aio(address) as stub:
        await stub.Solve(pb.SolveRequest(prompt="Where?", task="choice", inputs=CITIES, options=SINGLE))
        solution = (await stub.Solve(pb.SolveRequest(prompt="1 + 1 =", options=SINGLE))).solution
        await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=solution.call_id, correct=False))
    first, second = tables.read(url, ["task", "inputs", "answer", "text"])
    assert first == {"task": "choice", "inputs": CITIES, "answer": "B", "text": "It must be Paris."}
    assert second == {"task": "math", "inputs": None, "answer": None, "text": "It must be Paris."}


async def test_served_calls_are_attempts_at_their_tasks(recorded, generator):
    address, url = recorded
    async with connect_aio(address) as stub:
        for task, inputs, said in (
            ("choice", CITIES, "It must be Paris."),
            ("choice", {"choices": ["Paris", "Rome"]}, "It must be Paris."),
            ("code", {}, CODE),
        ):
            generator.write = lambda *_, said=said: said
            asked = pb.SolveRequest(prompt="Where?", task=task, inputs=inputs, options=SINGLE)
            found = (await stub.Solve(asked)).solution
            await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=found.call_id, correct=True))
    served = served_attempts(url)
    assert served.attempts["prompt_id"].nunique() == 3
    assert served.attempts["task"].tolist() == ["choice", "choice", "code"]
    # What is right code is told by tests, and by no other code.
    assert [(each.task, each.inputs, each.reference) for each in served.prompts] == [
        ("choice", CITIES, "B"),
        ("choice", {"choices": ["Paris", "Rome"]}, "A"),
    ]
