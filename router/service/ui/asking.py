"""The form for a search: the objectives that it offers, and the request that a filled form makes."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.errors import InvalidRequest
from router.policy.objectives import OBJECTIVES, AverageBudget, Budget, PricePerFlop, TargetAccuracy
from router.service.http.messages import parse
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb


@dataclass(frozen=True, slots=True)
class Choice:
    """An objective that the form offers.

    before, after  words around the number
    value          the number to begin with, from ``least`` to ``most``
    """

    kind: str
    name: str
    before: str
    after: str
    value: float
    least: float
    most: float | None
    chosen: bool


def choices(solver: Solver) -> list[Choice]:
    """Return the objectives that the policy can decide for."""
    policy, default = solver.policy, solver.policy.default
    dearest = max(policy.expected("flops", solver.shares))
    offered: list[tuple[str, str, str, str, float, float, float | None]] = [
        (Budget.kind, "Budget:", "at most", "complete solutions", policy.largest, policy.smallest, policy.largest)
    ]
    if points := policy.budget_points:
        typical = points[len(points) // 2].generations
        offered.append(
            (
                AverageBudget.kind,
                "Average:",
                "",
                "complete solutions on average over prompts",
                typical,
                points[0].generations,
                None,
            )
        )
    offered += [
        (TargetAccuracy.kind, "Target:", "right with a probability of at least", "", 0.9, 0, 1),
        (PricePerFlop.kind, "Price:", "a FLOP costs", "of what a right answer is worth", 0.1 / dearest, 0, None),
    ]
    found = []
    for kind, name, before, after, value, least, most in offered:
        chosen = kind == default.kind
        found.append(Choice(kind, name, before, after, _short(default.value if chosen else value), least, most, chosen))
    return found


def request(form: Mapping[str, str]) -> pb.StreamSolveRequest:
    """Return the request of a filled form. Raises InvalidRequest, naming the field that is wrong."""
    kind = form.get("objective", "")
    content: dict[str, Any] = {"prompt": form.get("prompt", "").replace("\r\n", "\n")}
    if kind and kind not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise InvalidRequest("objective", f"objective: {kind[:100]!r} is none of {known}", reason="MESSAGE_MALFORMED")
    if kind:
        content["objective"] = {kind: _number(form, kind)}
        if kind == TargetAccuracy.kind and form.get("refuse"):
            content["objective"]["on_insufficient"] = "refuse"
    if form.get("max_seconds", "").strip():
        content.setdefault("objective", {})["max_seconds"] = _number(form, "max_seconds")
    if task := form.get("task"):
        content["task"] = task
    if inputs := form.get("inputs", "").strip():
        content["inputs"] = _json(inputs)
    options: dict[str, Any] = {"allow_partial": True}
    if arm := form.get("arm", "").strip():
        options["arm"] = arm
    if form.get("seed", "").strip():
        options["seed"] = _number(form, "seed")
    found: pb.StreamSolveRequest = parse(pb.StreamSolveRequest, content, options=options)
    return found


def _number(form: Mapping[str, str], name: str) -> float:
    text = form.get(name, "").strip()
    try:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
    except ValueError:
        raise InvalidRequest(name, f"{name}: {text[:100]!r} is not a number", reason="MESSAGE_MALFORMED") from None
    return int(value) if value.is_integer() else value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("inputs", f"inputs: not JSON: {error}", reason="INPUTS_INVALID") from error


def _short(value: float) -> float:
    """Round to two digits, which are enough to begin with."""
    return float(f"{value:.2g}")
