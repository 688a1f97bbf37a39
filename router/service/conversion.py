"""Converts between protocol buffers and the router's own types. Decides nothing and does no I/O."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from router.bundle.bundle import Bundle
from router.errors import InvalidRequest
from router.policy.objectives import AverageBudget, Objective
from router.policy.table import Cell, Cost, Expectation, Policy
from router.prompt import Message, Prompt
from router.service.objectives import objective, objective_message
from router.service.structs import plain
from router.solving.bill import FREE, Bill
from router.solving.driver import Round
from router.solving.request import Request, check_count
from router.solving.solver import Decision, Solution
from router.solving.stages import StageEnd
from router.tasks import LARGEST_INPUTS, NO_INPUTS
from router.v1 import router_pb2 as pb
from strategies import Candidate, Cascade, InvalidArm, Strategy, parse

Asked = pb.RouteRequest | pb.SolveRequest | pb.StreamSolveRequest | pb.BatchPrompt
LONGEST_NAME = 128  # characters of a conversation's name
CALL_ID = r"[A-Za-z0-9_.:-]{1,128}"  # ASCII, since gRPC can't send anything else back
_OBJECTIVES = pb.Objective.DESCRIPTOR.fields_by_name


# Requests, as the server reads them


def request(message: pb.RouteRequest | pb.SolveRequest | pb.StreamSolveRequest, seconds: float | None) -> Request:
    """Return the request that a message makes. ``seconds``: left for the call; None: any. Raises InvalidRequest.

    Absent fields mean the defaults. This checks types only; the solver checks values, and what depends on the bundle.
    """
    options = None if isinstance(message, pb.RouteRequest) else message.options
    if not message.HasField("objective"):
        return asked(message, options, seconds=seconds)
    wanted = message.objective
    if wanted.on_insufficient not in pb.OnInsufficient.values():
        known = " or ".join(pb.OnInsufficient.keys()[1:])
        raise InvalidRequest(
            "objective.on_insufficient",
            f"on_insufficient must be {known}, found the unknown number {wanted.on_insufficient}",
            reason="OBJECTIVE_OUT_OF_RANGE",
        )
    return asked(
        message,
        options,
        objective(wanted),
        seconds,
        refuse=wanted.on_insufficient == pb.ON_INSUFFICIENT_REFUSE,
        max_seconds=wanted.max_seconds if wanted.HasField("max_seconds") else None,
    )


def asked(
    message: Asked,
    options: pb.SolveOptions | None = None,
    wanted: Objective | None = None,
    seconds: float | None = None,
    *,
    refuse: bool = False,
    max_seconds: float | None = None,
) -> Request:
    """Return the request for one prompt. Raises InvalidRequest."""
    given = _inputs(message)
    task = message.task or None
    conversation = "" if isinstance(message, pb.BatchPrompt) else message.conversation
    if len(conversation) > LONGEST_NAME:
        raise InvalidRequest(
            "conversation", f"a conversation's name has at most {LONGEST_NAME} characters", reason="PROMPT_INVALID"
        )
    if options is None:
        return Request(
            prompt(message),
            wanted,
            seconds=seconds,
            max_seconds=max_seconds,
            inputs=given,
            task=task,
            conversation=conversation,
        )
    return Request(
        prompt(message),
        wanted,
        arm=_arm(options.arm) if options.arm else None,
        max_generated_tokens=_given(options, "max_generated_tokens"),
        max_scored_tokens=_given(options, "max_scored_tokens"),
        seconds=seconds,
        seed=options.seed,
        allow_partial=options.allow_partial,
        temperature=options.temperature if options.HasField("temperature") else None,
        max_tokens=_given(options, "max_tokens"),
        refuse=refuse,
        max_seconds=max_seconds,
        inputs=given,
        task=task,
        conversation=conversation,
    )


def _inputs(message: Asked) -> Mapping[str, Any]:
    if not message.HasField("inputs"):
        return NO_INPUTS
    # A number is eleven bytes here and three characters in JSON, and no character is more than four bytes. To read a
    # message that is longer than that would only hold up other calls.
    if message.inputs.ByteSize() > 4 * LARGEST_INPUTS:
        raise InvalidRequest("inputs", f"inputs take at most {LARGEST_INPUTS} characters", reason="INPUTS_INVALID")
    return plain(message.inputs, "inputs")


def prompt(message: Asked) -> Prompt:
    """Raises InvalidRequest."""
    if not message.messages:
        return Prompt.of(message.prompt)
    if message.prompt:
        raise InvalidRequest(
            "messages", "prompt and messages were both given; send one of them", reason="PROMPT_INVALID"
        )
    check_count(len(message.messages))
    try:
        return Prompt(tuple(Message(each.role, each.content) for each in message.messages))  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidRequest("messages", f"messages: {error}", reason="PROMPT_INVALID") from error


def _given(message: pb.SolveOptions, name: str) -> int | None:
    return getattr(message, name) if message.HasField(name) else None


def _arm(text: str) -> Strategy:
    try:
        return parse(text)
    except InvalidArm as error:
        raise InvalidRequest("options.arm", f"arm: {error}", reason="ARM_INVALID") from error


def check_outcome(message: pb.RecordOutcomeRequest) -> None:
    """Raise InvalidRequest, naming the field, where an outcome is malformed."""
    if not re.fullmatch(CALL_ID, message.call_id):
        raise InvalidRequest(
            "call_id", "call_id must be the one in a RouteResponse or a Solution", reason="OUTCOME_INVALID"
        )
    if not message.HasField("correct") and not message.HasField("score"):
        raise InvalidRequest("correct", "an outcome needs correct, score or both", reason="OUTCOME_INVALID")
    if message.HasField("score") and not 0 <= message.score <= 1:
        raise InvalidRequest("score", f"score must be 0 to 1, found {message.score}", reason="OUTCOME_INVALID")


def no_such_call(call_id: str) -> InvalidRequest:
    """Return the error for an outcome of a call that does not exist, or belongs to another caller."""
    return InvalidRequest(
        "call_id",
        f"no decision of yours has the call_id {call_id!r}; report outcomes with the token that the call had",
        reason="OUTCOME_INVALID",
    )


# Replies, as the server writes them


@lru_cache(1024)  # a policy's arms and some that callers pin; the messages are shared, so never change one
def arm(value: Strategy) -> pb.Arm:
    if isinstance(value, Cascade):
        stages = [
            pb.Stage(arm=arm(stage), confidence=threshold)
            for stage, threshold in zip(value.stages, (*value.thresholds, None), strict=True)
        ]
        return pb.Arm(text=str(value), strategy=value.name, stages=stages)
    parameters = {name: float(number) for name, number in value.parameters.items()}
    return pb.Arm(text=str(value), strategy=value.name, parameters=parameters, model=value.model or "")


def routed(value: Decision, spent: Bill, *, call_id: str) -> pb.RouteResponse:
    """Return a decision's reply. Its parts are filled in place: building and copying them takes three times as long."""
    message = pb.RouteResponse(call_id=call_id)
    fill_decision(message.decision, value)
    fill_bill(message.bill, spent)
    return message


def decision(value: Decision) -> pb.Decision:
    message = pb.Decision()
    fill_decision(message, value)
    return message


def fill_decision(message: pb.Decision, value: Decision) -> None:
    message.level = value.level
    message.probabilities.extend(value.probabilities)
    message.arm.CopyFrom(arm(value.arm))
    message.bundle_id = value.bundle_id
    if value.expectation:
        _fill_expectation(message.expectation, value.expectation)
        if not value.expectation.in_time:
            message.expectation.evidence = pb.EVIDENCE_TOO_SLOW
        if isinstance(value.objective, AverageBudget) and value.objective.factor != 1:
            message.expectation.corrected_average_budget = value.objective.corrected
        if not value.familiar:
            message.expectation.evidence = pb.EVIDENCE_UNFAMILIAR


def _fill_expectation(message: pb.Expectation, value: Expectation) -> None:
    message.accuracy, message.accuracy_low, message.accuracy_high = value.accuracy, value.low, value.high
    message.evidence = pb.EVIDENCE_SUFFICIENT if value.sufficient else pb.EVIDENCE_INSUFFICIENT
    _fill_cost(message.cost, value.cost)


def cell(value: Cell) -> pb.Cell:
    return pb.Cell(
        level=value.level,
        arm=arm(value.arm),
        accuracy=value.accuracy,
        accuracy_low=value.low,
        accuracy_high=value.high,
        prompts=value.prompts,
        cost=_cost(value.cost),
    )


def _cost(value: Cost) -> pb.Cost:
    message = pb.Cost()
    _fill_cost(message, value)
    return message


def _fill_cost(message: pb.Cost, value: Cost) -> None:
    # Field by field: a loop over their names takes half as long again.
    message.generations = value.generations
    message.prompt_tokens = value.prompt_tokens
    message.generated_tokens = value.generated_tokens
    message.scored_tokens = value.scored_tokens
    message.generator_flops = value.generator_flops
    message.verifier_flops = value.verifier_flops
    if value.money is not None:
        message.money = value.money
    if value.seconds is not None:
        message.seconds = value.seconds


def bill(value: Bill) -> pb.Bill:
    message = pb.Bill()
    fill_bill(message, value)
    return message


def fill_bill(message: pb.Bill, value: Bill) -> None:
    for phase in ("route", "generate", "score"):
        if phase in value.seconds:
            setattr(message, f"{phase}_seconds", value.seconds[phase])
    if not value.lines:  # a decision by text features asks no model
        return
    message.prompt_tokens = value.prompt_tokens
    message.generated_tokens = value.generated_tokens
    message.scored_tokens = value.scored_tokens
    message.generator_flops = value.flops(role="generator")
    message.verifier_flops = value.flops(role="verifier")
    message.engine_calls = value.calls
    if value.money is not None:
        message.money = value.money
    for (model, role), usage in value.lines.items():
        rate = value.rates.get(model, FREE)
        message.lines.add(
            model=model,
            role=role,
            prompt_tokens=usage.prompt_tokens,
            generated_tokens=usage.generated_tokens,
            scored_tokens=usage.scored_tokens,
            flops=rate.flops(usage),
            money=rate.money(usage),
            thinking_tokens=usage.thinking_tokens,
        )


def progress(value: Round) -> pb.Round:
    return pb.Round(
        number=value.number,
        alive=value.alive,
        finished=value.finished,
        generated_tokens=value.generated_tokens,
        scored_tokens=value.scored_tokens,
        answer=value.answer,
        share=value.share,
        model=value.model or "",
        stage=value.stage,
        confidence=value.confidence,
    )


def stage(value: StageEnd) -> pb.StageResult:
    return pb.StageResult(
        number=value.number,
        arm=arm(value.arm),
        answer=value.answer,
        confidence=value.confidence,
        threshold=value.threshold,
        ends=value.ends,
    )


def solution(value: Solution, *, reference: str, candidates: bool, call_id: str) -> pb.Solution:
    """Return a solution's message. ``reference``: name of the reference model. ``candidates``: include them."""
    shown = value.result.shown
    return pb.Solution(
        decision=decision(value.decision),
        answer=value.answer,
        text=shown.text if shown else "",
        reasoning=shown.reasoning if shown else "",
        share=value.result.share,
        stop_reason=f"STOP_REASON_{value.stop.name}",
        bill=bill(value.bill),
        candidates=[_candidate(each, reference) for each in value.result.candidates] if candidates else None,
        call_id=call_id,
        no_answer=value.no_answer,
        answers_compared_as_text=value.answers_compared_as_text,
        confidence=value.confidence,
        stages=map(stage, value.stages),
    )


def _candidate(value: Candidate, reference: str) -> pb.Candidate:
    scores = value.scores or (None,) * len(value.steps)
    return pb.Candidate(
        steps=[pb.Step(text=text, score=score) for text, score in zip(value.steps, scores, strict=True)],
        answer=value.answer,
        finished=value.finished,
        tokens=value.length,
        model=value.model or reference,
        reasoning=value.reasoning,
    )


def served(bundle: Bundle, policy: Policy) -> pb.Bundle:
    """Describe a bundle. ``policy``: the bundle's policy without the arms that can't run here."""
    setup, default = bundle.setup, policy.default
    worth = setup.worth
    return pb.Bundle(
        id=bundle.id,
        digest=bundle.digest,
        models=[
            pb.ModelInfo(
                name=name,
                model=spec.model,
                parameters=spec.parameters,
                temperature=spec.temperature,
                max_tokens=spec.max_tokens,
                worth=worth[name],
            )
            for name, spec in setup.models.items()
        ],
        reference=setup.reference,
        verifier=pb.VerifierInfo(kind=setup.verifier.kind, parameters=setup.verifier.parameters),
        task=setup.tasks[0],
        tasks=setup.tasks,
        statistic=bundle.manifest.statistic,
        edges=bundle.manifest.edges,
        # An objective that a user added is not in the proto file.
        default_objective=objective_message(default) if default.kind in _OBJECTIVES else None,
        cells=map(cell, policy.cells),
        task_tables=[pb.TaskTable(task=name, cells=map(cell, table.cells)) for name, table in policy.tasks.items()],
    )
