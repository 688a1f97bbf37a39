"""Objectives as messages, and back."""

from router.policy.objectives import Objective, objective_of
from router.v1 import router_pb2 as pb


def objective_message(
    value: Objective | None, *, refuse: bool = False, max_seconds: float | None = None
) -> pb.Objective:
    """The inverse of :func:`objective`, of an objective that is in the contract. None: the bundle's default."""
    message = pb.Objective(on_insufficient=pb.ON_INSUFFICIENT_REFUSE if refuse else None, max_seconds=max_seconds)
    if value is not None:
        setattr(message, value.kind, value.value)
    return message


def objective(message: pb.Objective) -> Objective | None:
    """None where it says nothing."""
    kind = message.WhichOneof("kind")
    return objective_of(kind, getattr(message, kind)) if kind else None
