"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.backends import Endpoints
from router.errors import InvalidRequest
from strategies import Arm, InvalidArm

if TYPE_CHECKING:
    from router.policy.table import Objective

Engine = Annotated[
    Path,
    typer.Option(
        envvar="ROUTER_ENGINE",
        help="Folder with an engine.json (generator and verifier) and the adapters that it names: a bundle, or one "
        "in the making.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        envvar="ROUTER_BACKEND",
        help="transformers: models in this process. vllm: at --generator-url. fake: scripted engines, no model.",
    ),
]
GeneratorUrl = Annotated[
    list[str] | None,
    typer.Option(
        envvar="ROUTER_GENERATOR_URL",
        help="Base URL of a vLLM server that serves the generator, for --backend vllm. Repeat it for replicas; in the "
        "variable, put spaces between them.",
    ),
]
VerifierUrl = Annotated[
    list[str] | None,
    typer.Option(
        envvar="ROUTER_VERIFIER_URL",
        help="Base URL of a vLLM server that serves a published reward model. Repeatable.  [default: run it here]",
    ),
]
LargerUrl = Annotated[
    list[str] | None,
    typer.Option(
        envvar="ROUTER_LARGER_URL",
        help="Base URL of a vLLM server that serves the larger model of the arm larger_model. Repeatable.",
    ),
]
EngineKey = Annotated[
    str | None, typer.Option(envvar="ROUTER_ENGINE_API_KEY", help="Bearer token that the vLLM servers ask for.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random; equal seeds repeat a run.")]
DEFAULT = Path("models/smollm2-135m")


def endpoints(
    generator: list[str] | None, verifier: list[str] | None, larger: list[str] | None, api_key: str | None
) -> Endpoints:
    """Raises InvalidRequest where a URL is none."""
    for url in (*(generator or ()), *(verifier or ()), *(larger or ())):
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(
                "url", f"{url!r} is no engine's URL; write it like http://127.0.0.1:8000", reason="UNSPECIFIED"
            )
    return Endpoints(tuple(generator or ()), tuple(verifier or ()), tuple(larger or ()), api_key)


def parse_arm(text: str) -> Arm:
    """Raises InvalidRequest."""
    try:
        return Arm.parse(text)
    except InvalidArm as error:
        raise InvalidRequest("arm", f"--arm: {error}", reason="ARM_INVALID") from error


def parse_objective(text: str) -> "Objective":
    """Read ``average_budget=4``; raises InvalidRequest."""
    from router.policy.table import OBJECTIVES, Objective

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
