"""Messages say exactly what the router means, and every error keeps its reason."""

import re
import subprocess
import sys
from pathlib import Path as Folder

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from router import errors
from router.errors import InvalidRequest, RouterError
from router.policy.objectives import Budget
from router.policy.table import OBJECTIVES
from router.service import conversion as wire
from router.solving.driver import Bill, Request, Stop
from router.v1 import router_pb2 as pb
from strategies import STRATEGIES, Dvts, parse

ROOT = Folder(__file__).parent.parent.parent


def subclasses(cls: type) -> list[type]:
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


def names(enum, prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in enum.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - not a mapping


def test_generated_code_is_up_to_date(tmp_path):
    protos = [str(path) for path in (ROOT / "proto").rglob("*.proto")]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outputs, *protos], check=True)
    generated = {path.name: path.read_text() for path in (tmp_path / "router" / "v1").iterdir()}
    checked_in = {path.name: path.read_text() for path in (ROOT / "router" / "v1").glob("*_pb2*")}
    assert generated == checked_in


def test_enums_name_what_the_router_knows():
    assert names(pb.Strategy, "STRATEGY_") == {name.upper() for name in STRATEGIES}
    assert names(pb.StopReason, "STOP_REASON_") == {stop.name for stop in Stop}


def test_every_reason_is_in_the_contract():
    sources = "".join(path.read_text() for path in (ROOT / "router").rglob("*.py") if path.parent.name != "v1")
    used = set(re.findall(r'\breason\b[^=\n]*="?(?: ")?"?([A-Z_]{4,})"', sources)) - {"UNSPECIFIED"}
    assert used == names(pb.ErrorReason, "ERROR_REASON_")


@pytest.mark.parametrize(
    "text",
    [
        "single",
        "majority(n=4)",
        "majority(n=16, stop=0.95)",
        "beam_search(n=16, m=4)",
        "lookahead(n=8, m=2, k=3)",
        "revision(n=8, chains=2)",
    ],
)
def test_arms_survive_the_wire(text):
    assert wire.arm_of(wire.arm(parse(text))) == parse(text)


def test_absent_fields_are_the_defaults():
    for message in (pb.RouteRequest(prompt="p"), pb.SolveRequest(prompt="p"), pb.StreamSolveRequest(prompt="p")):
        assert wire.request(message, None) == Request("p")


def test_a_full_request():
    options = pb.SolveOptions(
        arm=wire.arm(Dvts(n=8, m=4)), max_generated_tokens=5, max_scored_tokens=6, seed=7, allow_partial=True
    )
    assert wire.request(pb.SolveRequest(prompt="p", budget=0, options=options), 1.5) == Request(
        "p",
        objective=Budget(0),
        arm=Dvts(n=8, m=4),
        max_generated_tokens=5,
        max_scored_tokens=6,
        seconds=1.5,
        seed=7,
        allow_partial=True,
    )


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("message", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_every_objective_survives_the_wire(message, kind):
    assert wire.request(message(prompt="p", **{kind: 1}), None).objective == Objective(kind, 1)
    assert [field.name for field in message.DESCRIPTOR.oneofs_by_name["objective"].fields] == list(OBJECTIVES)


@pytest.mark.parametrize(
    ("arm", "field"),
    [
        (pb.Arm(), "options.arm.strategy"),
        (pb.Arm(strategy=99), "options.arm.strategy"),
        (pb.Arm(strategy="STRATEGY_BEAM_SEARCH", n=10, m=4), "options.arm.n"),
        (pb.Arm(strategy="STRATEGY_BEAM_SEARCH", n=8), "options.arm.m"),
        (pb.Arm(strategy="STRATEGY_MAJORITY", n=0), "options.arm.n"),
        (pb.Arm(strategy="STRATEGY_MAJORITY", n=4, k=1), "options.arm.k"),
        (pb.Arm(strategy="STRATEGY_REVISION", n=4, chains=3), "options.arm.n"),
        (pb.Arm(strategy="STRATEGY_MAJORITY", n=4, stop=1), "options.arm.stop"),
        (pb.Arm(strategy="STRATEGY_MAJORITY", n=4, stop=float("nan")), "options.arm.stop"),
        (pb.Arm(strategy="STRATEGY_BEAM_SEARCH", n=4, m=2, stop=0.9), "options.arm.stop"),
    ],
)
def test_a_wrong_arm_names_its_field(arm, field):
    with pytest.raises(InvalidRequest) as raised:
        wire.request(pb.SolveRequest(prompt="p", options=pb.SolveOptions(arm=arm)), None)
    assert (raised.value.field, raised.value.reason) == (field, "ARM_INVALID")


def details(error: RouterError) -> dict[str, object]:
    found = {}
    for packed in wire.status(error).details:
        for message in (ErrorInfo(), BadRequest(), RetryInfo(), pb.Bill()):
            if packed.Unpack(message):
                found[message.DESCRIPTOR.name] = message
    return found


# InvalidRequest and Stopped have no reason of their own; they are tested below. Errors within an engine stay there.
@pytest.mark.parametrize(
    "cls",
    [cls for cls in subclasses(RouterError) if cls.reason != RouterError.reason and cls.__module__ == errors.__name__],
)
def test_every_error_survives_the_wire(cls):
    status = wire.status(cls("what to do"))
    assert details(cls("what to do"))["ErrorInfo"] == ErrorInfo(reason=cls.reason, domain="router.v1")
    received = wire.error(status)
    assert (type(received), str(received), received.reason) == (cls, "what to do", cls.reason)


@pytest.mark.parametrize(
    ("field", "named"), [("prompt", "prompt"), ("budget", "budget"), ("max_scored_tokens", "options.max_scored_tokens")]
)
def test_an_invalid_request_names_the_field_of_the_message(field, named):
    error = InvalidRequest(field, "too much", reason="CAP_OUT_OF_RANGE")
    (violation,) = details(error)["BadRequest"].field_violations
    assert (violation.field, violation.description, violation.reason) == (named, "too much", "CAP_OUT_OF_RANGE")
    received = wire.error(wire.status(error))
    assert (received.field, str(received), received.reason) == (named, "too much", "CAP_OUT_OF_RANGE")


@pytest.mark.parametrize("error", [errors.EngineUnavailable("gone"), errors.Overloaded("busy", retry_seconds=0.25)])
def test_what_may_pass_says_when_to_retry(error):
    delay = details(error)["RetryInfo"].retry_delay
    assert delay.seconds + delay.nanos / 1e9 == wire.error(wire.status(error)).retry_seconds == error.retry_seconds


def test_a_stopped_search_returns_its_bill():
    error = errors.TokenCapReached("stopped")
    error.bill = Bill(prompt_tokens=1, generated_tokens=2, scored_tokens=3, calls=4, generator_parameters=10)
    error.bill.seconds["route"] = 0.5
    assert details(error)["Bill"] == pb.Bill(
        prompt_tokens=1,
        generated_tokens=2,
        scored_tokens=3,
        engine_calls=4,
        generator_flops=60,
        route_seconds=0.5,
    )
    assert str(wire.error(wire.status(error))) == "stopped (spent: 2 tokens generated, 3 scored)"
