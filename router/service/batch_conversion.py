"""Converts batches between protocol buffers and the router's own types: see :mod:`router.service.conversion`."""

from collections.abc import Sequence

from router.errors import InvalidRequest, RouterError
from router.service import conversion, statuses
from router.solving.batch import MOST_PROMPTS, Total, for_each
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.solver import Decision
from router.v1 import router_pb2 as pb


def total(message: pb.BatchBudget) -> Total:
    """Raises InvalidRequest."""
    unit = message.WhichOneof("total")
    if unit is None:
        raise InvalidRequest(
            "budget",
            "a batch needs a budget: generations, flops or money that its prompts share",
            reason="BATCH_INVALID",
        )
    return Total(getattr(message, unit), unit)


def requests(message: pb.RouteBatchRequest | pb.SolveBatchRequest) -> list[Request]:
    """Return a request for each prompt. Raises InvalidRequest, with the prompt's index in the field."""
    given = len(message.prompts)
    if not 1 <= given <= MOST_PROMPTS:
        advice = "split it into several" if given else "send at least one"
        raise InvalidRequest(
            "prompts", f"a batch has 1 to {MOST_PROMPTS} prompts, this one {given}; {advice}", reason="BATCH_INVALID"
        )
    if isinstance(message, pb.RouteBatchRequest):
        return for_each(message.prompts, conversion.asked)
    if message.options.arm:
        raise InvalidRequest("options.arm", "a batch chooses the arms itself; leave it out", reason="BATCH_INVALID")
    return for_each(message.prompts, lambda prompt: conversion.asked(prompt, message.options))


def routed(decisions: Sequence[Decision], ids: Sequence[str], expected: float, spent: Bill) -> pb.RouteBatchResponse:
    reply = pb.RouteBatchResponse(expected=expected)
    for decision, call_id in zip(decisions, ids, strict=True):
        conversion.fill_decision(reply.decisions.add(call_id=call_id).decision, decision)
    conversion.fill_bill(reply.bill, spent)
    return reply


def failed(index: int, call_id: str, error: RouterError, spent: Bill) -> pb.SolveBatchResponse:
    name = f"ERROR_REASON_{error.reason}"
    told = pb.BatchError(
        reason=name if name in pb.ErrorReason.keys() else "ERROR_REASON_UNSPECIFIED",  # noqa: SIM118 - no mapping
        message=statuses.message(error),
        bill=conversion.bill(spent),
    )
    return pb.SolveBatchResponse(result=pb.BatchResult(index=index, call_id=call_id, error=told))


def solved(index: int, call_id: str, solution: pb.Solution) -> pb.SolveBatchResponse:
    return pb.SolveBatchResponse(result=pb.BatchResult(index=index, call_id=call_id, solution=solution))


def summary(solved: int, failed: int, bill: Bill, spent: float, expected: float) -> pb.SolveBatchResponse:
    told = pb.BatchSummary(solved=solved, failed=failed, bill=conversion.bill(bill), spent=spent, expected=expected)
    return pb.SolveBatchResponse(summary=told)
