"""Converts objectives to messages and back."""

from router.policy.objectives import Objective, objective_of
from router.v1 import router_pb2 as pb


def objective_message(
    value: Objective | None, *, refuse: bool = False, max_seconds: float | None = None
) -> pb.Objective:
    """Return the message of an objective that the proto file has. None: the bundle's default."""
    message = pb.Objective(on_insufficient=pb.ON_INSUFFICIENT_REFUSE if refuse else None, max_seconds=max_seconds)
    if value is not None:
        setattr(message, value.kind, value.value)
    return message


def objective(message: pb.Objective) -> Objective | None:
    """Return the objective of a message; None where it names none."""
    kind = message.WhichOneof("kind")
    return objective_of(kind, getattr(message, kind)) if kind else None
