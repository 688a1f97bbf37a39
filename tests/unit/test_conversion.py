"""Messages say exactly what the router means, and every error keeps its reason."""

import base64
import re
import subprocess
import sys
from pathlib import Path as Folder
from typing import Any
from urllib.parse import quote

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

from router import errors
from router.bundle.bundle import load_bundle
from router.errors import InvalidRequest, RouterError
from router.policy.objectives import OBJECTIVES, Budget, objective_of
from router.prompt import Message, Prompt
from router.service import conversion, statuses
from router.service.objectives import objective_message
from router.solving.bill import Bill, Rate
from router.solving.driver import Round, StopReason
from router.solving.request import Request
from router.solving.stages import StageEnd
from router.v1 import router_pb2 as pb
from strategies import STRATEGIES, Dvts, parse

ROOT = Folder(__file__).parent.parent.parent


def subclasses(cls: type[Any]) -> list[type[Any]]:
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
    assert names(pb.StopReason, "STOP_REASON_") == {stop.name for stop in StopReason}
    assert {field.name for field in pb.Objective.DESCRIPTOR.oneofs_by_name["kind"].fields} == set(OBJECTIVES)


def test_the_contract_explains_every_strategy():
    proto = (ROOT / "proto" / "router" / "v1" / "router.proto").read_text()
    said = proto.partition("message Arm {")[2].partition("}")[0]
    assert {name for name in (*STRATEGIES, "cascade") if not re.search(rf"\b{name} \(", said)} == set()


def test_every_reason_is_in_the_contract():
    sources = "".join(path.read_text() for path in (ROOT / "router").rglob("*.py") if path.parent.name != "v1")
    used = set(re.findall(r'\breason\b[^=\n]*="?(?: ")?"?([A-Z_]{4,})"', sources)) - {"UNSPECIFIED"}
    known = names(pb.ErrorReason, "ERROR_REASON_")
    assert used <= known
    assert known <= set(re.findall(r'"([A-Z_]{4,})"', sources))


ARMS = [
    "single",
    "single(model=large)",
    "majority(n=4)",
    "majority(n=16, stop=0.95)",
    "beam_search(n=16, m=4)",
    "lookahead(n=8, m=2, k=3)",
    "revision(n=8, chains=2)",
    "single @0.7 > beam_search(n=4, m=4) @0.7 > single(model=large)",
]


@pytest.mark.parametrize("text", ARMS)
def test_arms_survive_the_conversion(text):
    message = conversion.arm(parse(text))
    assert message.text == text
    pinned = pb.SolveRequest(prompt="p", options=pb.SolveOptions(arm=message.text))
    assert conversion.request(pinned, None).arm == parse(text)


def test_an_arm_is_said_by_its_parts_too():
    arm = conversion.arm(parse("majority(n=16, stop=0.95, model=large)"))
    assert (arm.strategy, dict(arm.parameters), arm.model) == ("majority", {"n": 16.0, "stop": 0.95}, "large")
    cascade = conversion.arm(parse("single @0.7 > beam_search(n=4, m=4)"))
    assert (cascade.strategy, dict(cascade.parameters), cascade.model) == ("cascade", {}, "")
    assert [stage.arm.text for stage in cascade.stages] == ["single", "beam_search(n=4, m=4)"]
    assert cascade.stages[0].confidence == 0.7
    assert not cascade.stages[1].HasField("confidence")


@pytest.mark.parametrize("message", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_absent_fields_are_the_defaults(message):
    assert conversion.request(message(prompt="p"), None) == Request(Prompt.of("p"))
    assert conversion.request(message(prompt="p", objective=pb.Objective()), None) == Request(Prompt.of("p"))


def test_a_full_request():
    options = pb.SolveOptions(
        arm="dvts(n=8, m=4)", max_generated_tokens=5, max_scored_tokens=6, seed=7, allow_partial=True
    )
    message = pb.SolveRequest(prompt="p", objective=pb.Objective(budget=0), options=options)
    assert conversion.request(message, 1.5) == Request(
        Prompt.of("p"),
        objective=Budget(0),
        arm=Dvts(n=8, m=4),
        max_generated_tokens=5,
        max_scored_tokens=6,
        seconds=1.5,
        seed=7,
        allow_partial=True,
    )


@pytest.mark.parametrize("message", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_messages_are_the_prompt(message):
    said = [pb.Message(role="system", content="Be short."), pb.Message(role="user", content="1 + 1?")]
    asked = conversion.request(message(messages=said), None).prompt
    assert asked == Prompt((Message("system", "Be short."), Message("user", "1 + 1?")))


@pytest.mark.parametrize(
    ("prompt", "roles", "says"),
    [
        ("p", ["user"], "both given"),
        ("", ["tool"], "unknown role 'tool'"),
        ("", [""], "unknown role ''"),
        ("", ["user", "assistant"], "must be the user's"),
        ("", ["user", "system", "user"], "only the first message"),
    ],
)
def test_wrong_messages_name_their_field(prompt, roles, says):
    said = [pb.Message(role=role, content="text") for role in roles]
    with pytest.raises(InvalidRequest, match=says) as raised:
        conversion.request(pb.SolveRequest(prompt=prompt, messages=said), None)
    assert (raised.value.field, raised.value.reason) == ("messages", "PROMPT_INVALID")


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("message", [pb.RouteRequest, pb.SolveRequest, pb.StreamSolveRequest])
def test_every_objective_survives_the_conversion(message, kind):
    asked = message(prompt="p", objective=objective_message(objective_of(kind, 1)))
    assert conversion.request(asked, None).objective == objective_of(kind, 1)


@pytest.mark.parametrize(
    "arm",
    [
        "beam",
        "(n=4)",
        "beam_search(n=10, m=4)",
        "beam_search(n=8)",
        "majority(n=0)",
        "majority(n=4, k=1)",
        "revision(n=4, chains=3)",
        "majority(n=4, stop=1)",
        "majority(n=4, stop=nan)",
        "single @0.7",
        "single @2 > majority(n=4)",
        " ",
        "x" * 2000,
    ],
)
def test_a_wrong_arm_names_its_field(arm):
    with pytest.raises(InvalidRequest) as raised:
        conversion.request(pb.SolveRequest(prompt="p", options=pb.SolveOptions(arm=arm)), None)
    assert (raised.value.field, raised.value.reason) == ("options.arm", "ARM_INVALID")


def details(error: RouterError) -> dict[str, Any]:
    found = {}
    for packed in statuses.status(error).details:
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
    status = statuses.status(cls("what to do"))
    assert details(cls("what to do"))["ErrorInfo"] == ErrorInfo(reason=cls.reason, domain="router.v1")
    received = statuses.error(status)
    assert (type(received), str(received), received.reason) == (cls, "what to do", cls.reason)


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("prompt", "prompt"),
        ("objective.budget", "objective.budget"),
        ("max_scored_tokens", "options.max_scored_tokens"),
    ],
)
def test_an_invalid_request_names_the_field_of_the_message(field, named):
    error = InvalidRequest(field, "too much", reason="CAP_OUT_OF_RANGE")
    (violation,) = details(error)["BadRequest"].field_violations
    assert (violation.field, violation.description, violation.reason) == (named, "too much", "CAP_OUT_OF_RANGE")
    received = statuses.error(statuses.status(error))
    assert isinstance(received, InvalidRequest)
    assert (received.field, str(received), received.reason) == (named, "too much", "CAP_OUT_OF_RANGE")


@pytest.mark.parametrize("quoted", ["7" * 200_000, "é" * 100_000, "\0" * 200_000, "\ud800" * 99_999])
def test_an_error_that_quotes_a_long_text_fits_into_headers(quoted):
    """Clients take 8 KiB of them, and see no status where there is more."""
    error = InvalidRequest("call_id", f"no call has the id {quoted}; send one of your own", reason="UNSPECIFIED")
    _, message, metadata = rpc_status.to_status(statuses.status(error))
    headers = len(quote(message)) + sum(len(base64.b64encode(value)) for _, value in metadata)
    assert headers < 6000
    assert message.startswith("no call has the id ")
    assert message.endswith("; send one of your own")


@pytest.mark.parametrize("error", [errors.EngineUnavailable("gone"), errors.Overloaded("busy", retry_seconds=0.25)])
def test_what_may_pass_says_when_to_retry(error):
    delay = details(error)["RetryInfo"].retry_delay
    assert (
        delay.seconds + delay.nanos / 1e9 == statuses.error(statuses.status(error)).retry_seconds == error.retry_seconds
    )


def test_a_stopped_search_returns_its_bill():
    error = errors.TokenCapReached("stopped")
    error.bill = Bill({"small": Rate(10)})
    usage = error.bill.line("small", "generator")
    usage.prompt_tokens, usage.generated_tokens, usage.calls = 1, 2, 4
    error.bill.line("verifier", "verifier").scored_tokens = 3
    error.bill.seconds["route"] = 0.5
    assert details(error)["Bill"] == pb.Bill(
        prompt_tokens=1,
        generated_tokens=2,
        scored_tokens=3,
        engine_calls=4,
        generator_flops=60,
        route_seconds=0.5,
        lines=[
            pb.BillLine(model="small", role="generator", prompt_tokens=1, generated_tokens=2, flops=60),
            pb.BillLine(model="verifier", role="verifier", scored_tokens=3),
        ],
    )
    assert str(statuses.error(statuses.status(error))) == "stopped (spent: 2 tokens generated, 3 scored)"


def test_a_bill_has_money_where_there_are_prices():
    bill = Bill({"small": Rate(10, 0.5, 2.0), "large": Rate(20)})
    for model in ("small", "large"):
        usage = bill.line(model, "generator")
        usage.prompt_tokens, usage.generated_tokens = 4, 3
    message = conversion.bill(bill)
    assert message.money == 4 * 0.5 + 3 * 2.0
    assert [line.HasField("money") for line in message.lines] == [True, False]
    assert not conversion.bill(Bill()).HasField("money")


def test_a_round_names_the_model_that_wrote():
    progress = Round(1, 2, 3, 4, 5, "7", 0.5, "large", stage=2, confidence=0.75)
    assert conversion.progress(progress) == pb.Round(
        number=1,
        alive=2,
        finished=3,
        generated_tokens=4,
        scored_tokens=5,
        answer="7",
        share=0.5,
        model="large",
        stage=2,
        confidence=0.75,
    )
    assert not conversion.progress(Round(1, 0, 0, 0, 0, None, 0.0)).model


def test_a_stage_says_what_it_came_to_and_whether_it_was_enough():
    ended = conversion.stage(StageEnd(2, parse("majority(n=4)"), "7", 0.8, 0.7))
    assert (ended.number, ended.arm.text, ended.answer, ended.threshold, ended.ends) == (
        2,
        "majority(n=4)",
        "7",
        0.7,
        True,
    )
    assert not conversion.stage(StageEnd(1, parse("single"), "7", 0.6, 0.7)).ends
    last = conversion.stage(StageEnd(3, parse("single"), None, None, None))
    assert last.ends
    assert not any(last.HasField(name) for name in ("answer", "confidence", "threshold"))


def test_refusing_survives_the_conversion():
    for refuse in (False, True):
        asked = pb.SolveRequest(
            prompt="p", objective=objective_message(objective_of("target_accuracy", 0.9), refuse=refuse)
        )
        assert conversion.request(asked, None).refuse is refuse


def test_what_is_served(bundle_folder):
    bundle = load_bundle(bundle_folder)
    message = conversion.served(bundle, bundle.policy)
    assert (message.id, message.digest, message.reference, message.task) == (bundle.id, bundle.digest, "small", "math")
    (model,) = message.models
    assert (model.name, model.model, model.parameters, model.worth) == ("small", "fake", 1000, 1.0)
    assert message.default_objective == pb.Objective(budget=4)
    assert [cell.arm.text for cell in message.cells] == [str(cell.arm) for cell in bundle.policy.cells]
