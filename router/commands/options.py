"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.errors import InvalidRequest
from strategies import Arm, InvalidArm

if TYPE_CHECKING:
    from router.policy import Objective

Engine = Annotated[
    Path,
    typer.Option(
        envvar="ROUTER_ENGINE",
        help="Folder with an engine.json (generator and verifier) and the adapters that it names: a bundle, or one "
        "in the making.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random; equal seeds repeat a run.")]
DEFAULT = Path("models/smollm2-135m")


def parse_arm(text: str) -> Arm:
    """Raises InvalidRequest."""
    try:
        return Arm.parse(text)
    except InvalidArm as error:
        raise InvalidRequest("arm", f"--arm: {error}", reason="ARM_INVALID") from error


def parse_objective(text: str) -> "Objective":
    """Read ``average_budget=4``; raises InvalidRequest."""
    from router.policy import OBJECTIVES, Objective

    name, _, value = text.partition("=")
    try:
        (kind,) = (known for known in OBJECTIVES if known == name.strip().replace("-", "_"))
        return Objective(kind, float(value))
    except ValueError as error:
        raise InvalidRequest(
            "objective",
            f"can't read objective {text!r}; write one of {', '.join(f'{known}=…' for known in OBJECTIVES)}",
            reason="OBJECTIVE_OUT_OF_RANGE",
        ) from error
