"""Renders solutions as chat completions. What OpenAI's API has no field for stands in ``router``."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage

from router.backends.specs import ModelSpec
from router.service.http.requests import ALIAS, Chat, Fields
from router.solving.driver import StopReason
from router.solving.solver import Solution
from router.v1 import router_pb2 as pb


def completion(chat: Chat, reply: pb.Solution, found: Solution | None, writers: Sequence[ModelSpec]) -> dict[str, Any]:
    """Return a chat completion. ``found``: the solution that ``reply`` renders; ``writers``: the models of its arm."""
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(found)}
    return {
        **head(reply.call_id, "chat.completion"),
        "choices": [choice],
        "usage": usage(reply.bill),
        "router": router(chat, reply, writers),
    }


def head(call_id: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{call_id}", "object": kind, "created": int(time.time()), "model": ALIAS}


def usage(bill: pb.Bill) -> dict[str, Any]:
    """Return the bill's counts, over all samples of all models. ``scored_tokens``: tokens the verifier read."""
    return {
        "prompt_tokens": bill.prompt_tokens,
        "completion_tokens": bill.generated_tokens,
        "total_tokens": bill.prompt_tokens + bill.generated_tokens,
        "scored_tokens": bill.scored_tokens,
    }


def finish_reason(found: Solution | None) -> str:
    shown = found.result.shown if found else None
    cut = found is not None and found.stop is not StopReason.COMPLETE
    return "length" if cut or (shown and not shown.finished) else "stop"


def router(chat: Chat, reply: pb.Solution, writers: Sequence[ModelSpec]) -> dict[str, Any]:
    """Return the ``router`` object: the solution without its text, the decision's fields, and fields not followed."""
    told = as_json(reply)
    told.pop("text")
    decision = told.pop("decision")
    decision["arm"] = decision["arm"]["text"]
    notes = {"ignored": list(chat.ignored), "bounded": _bounded(chat.fields, writers)}
    return {**decision, **told, **{name: fields for name, fields in notes.items() if fields}}


def _bounded(fields: Fields, writers: Sequence[ModelSpec]) -> list[str]:
    """Return the fields that exceed a model's limit, so that the limit was used instead."""
    own = {
        "temperature": min((spec.temperature for spec in writers), default=math.inf),
        "max_tokens": min((spec.max_tokens for spec in writers), default=math.inf),
    }
    own["max_completion_tokens"] = own["max_tokens"]
    return [name for name, most in own.items() if (getattr(fields, name) or 0) > most]


def forwarded(call_id: str, kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's own chat completion, or an event of one, with the router's id, kind and model name."""
    more = {name: value for name, value in told.items() if name not in ("usage", "error")}
    return {**more, **head(call_id, kind)}


def direct(
    chat: Chat, call_id: str, bill: pb.Bill, model: str, writers: Sequence[ModelSpec], *, unread: Sequence[str]
) -> dict[str, Any]:
    """Return the ``router`` object of a reply without a search.

    model   name of the model that answered
    unread  fields that were not passed on to it
    """
    notes = {"ignored": [*chat.ignored, *unread], "bounded": _bounded(chat.fields, writers)}
    return {
        "direct": {"model": model, "because": list(chat.direct)},
        "bill": as_json(bill),
        "call_id": call_id,
        **{name: fields for name, fields in notes.items() if fields},
    }


def as_json(message: ProtoMessage) -> dict[str, Any]:
    told: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return told


def bundle(served: pb.Bundle) -> dict[str, Any]:
    """Render as :func:`as_json`, but models' sizes as numbers: protobuf's JSON has 64-bit integers as strings."""
    told = as_json(served)
    for each, shown in zip(served.models, told["models"], strict=True):
        shown["parameters"] = each.parameters
    if served.HasField("verifier"):
        told["verifier"]["parameters"] = served.verifier.parameters
    return told


def model(served: pb.Bundle, name: str) -> dict[str, Any]:
    """Return the bundle as one OpenAI model. ``router`` describes it and its language models."""
    described = bundle(served)
    del described["cells"], described["task_tables"]  # GET /v1/router/bundle has them
    return _listed(name, described)


def models(served: pb.Bundle, names: Sequence[str]) -> dict[str, Any]:
    """List the bundle under all its ``names``: the first is described, the others only refer to it."""
    first, *others = names
    entries = [model(served, first), *(_listed(name, {"alias_of": first}) for name in others)]
    return {"object": "list", "data": entries}


def _listed(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "router", "router": described}
