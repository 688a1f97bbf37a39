"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from router.errors import InvalidRequest
from strategies import Arm, InvalidArm

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
