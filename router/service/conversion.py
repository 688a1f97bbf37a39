"""Protocol buffers ↔ the router's own types, errors included. No decisions, no I/O."""

import re
from dataclasses import fields
from datetime import timedelta
from functools import lru_cache

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from router import errors
from router.backends import GeneratorSpec
from router.bundle import bundle
from router.errors import InvalidRequest, RouterError
from router.policy import table as policy
from router.solving import driver, solver
from router.v1 import router_pb2 as pb
from strategies import Arm, InvalidArm, Path

DOMAIN = "router.v1"
CALL_ID = r"[\w.:-]{1,128}"
_NUMBERS = ("n", "m", "k", "chains", "stop")
_COSTS = tuple(field.name for field in fields(policy.Cost))


# Requests, as the server reads them


def request(
    message: pb.RouteRequest | pb.SolveRequest | pb.StreamSolveRequest, seconds: float | None
) -> driver.Request:
    """What a message asks for; ``seconds`` are left for the call. Raises InvalidRequest.

    Absent fields are the defaults. What needs the bundle to judge, or has a meaning beyond its type, the solver checks.
    """
    kind = message.WhichOneof("objective")
    objective = policy.Objective(kind, getattr(message, kind)) if kind else None
    if isinstance(message, pb.RouteRequest):
        return driver.Request(message.prompt, objective, seconds=seconds)
    options = message.options
    return driver.Request(
        message.prompt,
        objective,
        arm=_checked(options.arm) if options.HasField("arm") else None,
        max_generated_tokens=_given(options, "max_generated_tokens"),
        max_scored_tokens=_given(options, "max_scored_tokens"),
        seconds=seconds,
        seed=options.seed,
        allow_partial=options.allow_partial,
    )


def _given(message: pb.SolveOptions, name: str) -> int | None:
    return getattr(message, name) if message.HasField(name) else None


def _checked(message: pb.Arm) -> Arm:
    try:
        return arm_of(message)
    except InvalidArm as error:
        raise InvalidRequest(f"options.arm.{error.field}", f"arm: {error}", reason="ARM_INVALID") from error


def arm_of(message: pb.Arm) -> Arm:
    """Raises InvalidArm."""
    known = pb.Strategy.DESCRIPTOR.values_by_number
    number = message.strategy
    strategy = known[number].name.removeprefix("STRATEGY_").lower() if number in known else str(number)
    return Arm(strategy, **{name: getattr(message, name) for name in _NUMBERS if message.HasField(name)})


def check_outcome(message: pb.RecordOutcomeRequest) -> None:
    """Raises InvalidRequest naming the field that is wrong."""
    if not re.fullmatch(CALL_ID, message.call_id):
        raise InvalidRequest(
            "call_id", "call_id must be that of a RouteResponse or a Solution", reason="OUTCOME_INVALID"
        )
    if not message.HasField("correct") and not message.HasField("score"):
        raise InvalidRequest("correct", "an outcome needs correct, score or both", reason="OUTCOME_INVALID")
    if message.HasField("score") and not 0 <= message.score <= 1:
        raise InvalidRequest("score", f"score must be 0 to 1, found {message.score}", reason="OUTCOME_INVALID")


# Replies, as the server writes them


@lru_cache(1024)  # a policy's arms, and some that callers pin. Shared: never change what this returns
def arm(value: Arm) -> pb.Arm:
    numbers = {name: getattr(value, name) for name in _NUMBERS if getattr(value, name)}
    return pb.Arm(strategy=f"STRATEGY_{value.strategy.upper()}", **numbers)


def decision(value: solver.Decision) -> pb.Decision:
    return pb.Decision(
        level=value.level,
        probabilities=value.probabilities,
        arm=arm(value.arm),
        expectation=_expectation(value.expectation) if value.expectation else None,
        bundle_id=value.bundle_id,
    )


def _expectation(value: policy.Expectation) -> pb.Expectation:
    return pb.Expectation(
        accuracy=value.accuracy,
        accuracy_low=value.low,
        accuracy_high=value.high,
        cost=_cost(value.cost),
        evidence=pb.EVIDENCE_SUFFICIENT if value.sufficient else pb.EVIDENCE_INSUFFICIENT,
    )


def cell(value: policy.Cell) -> pb.Cell:
    return pb.Cell(
        level=value.level,
        arm=arm(value.arm),
        accuracy=value.accuracy,
        accuracy_low=value.low,
        accuracy_high=value.high,
        prompts=value.prompts,
        cost=_cost(value.cost),
    )


def _cost(value: policy.Cost) -> pb.Cost:
    return pb.Cost(**{name: getattr(value, name) for name in _COSTS})


def bill(value: driver.Bill) -> pb.Bill:
    return pb.Bill(
        prompt_tokens=value.prompt_tokens,
        generated_tokens=value.generated_tokens,
        scored_tokens=value.scored_tokens,
        generator_flops=value.generator_flops,
        verifier_flops=value.verifier_flops,
        engine_calls=value.calls,
        route_seconds=value.seconds.get("route"),
        generate_seconds=value.seconds.get("generate"),
        score_seconds=value.seconds.get("score"),
        larger_tokens=value.larger_tokens,
    )


def progress(value: driver.Round) -> pb.Round:
    return pb.Round(
        number=value.number,
        alive=value.alive,
        finished=value.finished,
        generated_tokens=value.generated_tokens,
        scored_tokens=value.scored_tokens,
        answer=value.answer,
        share=value.share,
    )


def solution(value: solver.Solution, *, candidates: bool, call_id: str) -> pb.Solution:
    best = value.outcome.best
    return pb.Solution(
        decision=decision(value.decision),
        answer=value.outcome.answer,
        text=best.text if best else "",
        share=value.outcome.share,
        stop_reason=f"STOP_REASON_{value.stop.name}",
        bill=bill(value.bill),
        candidates=map(_candidate, value.outcome.candidates) if candidates else None,
        call_id=call_id,
    )


def _candidate(path: Path) -> pb.Candidate:
    scores = path.scores or (None,) * len(path.steps)
    return pb.Candidate(
        steps=[pb.Step(text=text, score=score) for text, score in zip(path.steps, scores, strict=True)],
        answer=path.answer,
        finished=path.finished,
        tokens=len(path.tokens),
    )


def served(value: bundle.Bundle) -> pb.Bundle:
    verifier, larger, default = value.manifest.verifier, value.manifest.larger, value.policy.default
    message = pb.Bundle(
        id=value.id,
        digest=value.digest,
        generator=_generator(value.manifest.generator),
        verifier=pb.VerifierInfo(kind=verifier.kind, parameters=verifier.parameters),
        larger=_generator(larger) if larger else None,
        statistic=value.manifest.statistic,
        edges=value.manifest.edges,
        cells=map(cell, value.policy.cells),
    )
    setattr(message, f"default_{default.kind}", int(default.value) if default.kind == "budget" else default.value)
    return message


def _generator(value: GeneratorSpec) -> pb.GeneratorInfo:
    return pb.GeneratorInfo(
        model=value.model,
        parameters=value.parameters,
        temperature=value.temperature,
        max_tokens=value.max_tokens,
    )


# Errors, in both directions


def status(error: RouterError) -> Status:
    """The error as a google.rpc.Status, with the details that ErrorReason's documentation promises."""
    details = [ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        # The solver knows a flat request; in the messages, limits are options.
        name = error.field if error.field not in pb.SolveOptions.DESCRIPTOR.fields_by_name else f"options.{error.field}"
        details.append(
            BadRequest(field_violations=[{"field": name, "description": str(error), "reason": error.reason}])
        )
    if error.retry_seconds is not None:
        details.append(RetryInfo(retry_delay=timedelta(seconds=error.retry_seconds)))
    if isinstance(error, errors.Stopped) and isinstance(error.bill, driver.Bill):
        details.append(bill(error.bill))
    return Status(code=Code.Value(error.status), message=str(error), details=[_packed(detail) for detail in details])


def _packed(message: ErrorInfo | BadRequest | RetryInfo | pb.Bill) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def error(received: Status) -> RouterError:
    """The error that a client received: :func:`status` read back, with the bill in words."""
    info, violation, spent, retry = ErrorInfo(), BadRequest(), pb.Bill(), RetryInfo()
    message = received.message
    for detail in received.details:
        if detail.Unpack(spent):
            message += f" (spent: {spent.generated_tokens} tokens generated, {spent.scored_tokens} scored)"
        elif not detail.Unpack(info) and not detail.Unpack(retry):
            detail.Unpack(violation)
    if violation.field_violations:
        return InvalidRequest(violation.field_violations[0].field, message, reason=info.reason)
    seconds = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return _CLASSES.get(info.reason, errors.InternalError)(message, reason=info.reason or None, retry_seconds=seconds)


_CLASSES: dict[str, type[RouterError]] = {
    cls.reason: cls
    for cls in (
        errors.InvalidFile,
        errors.InvalidBundle,
        errors.MissingWeights,
        errors.MissingDependency,
        errors.AddressUnavailable,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.EngineUnavailable,
        errors.OutcomesOff,
        errors.OutcomesUnavailable,
        errors.Overloaded,
        errors.Stopping,
        errors.StreamNotRead,
        errors.DeadlineExceeded,
        errors.TokenCapReached,
        errors.InternalError,
    )
}
