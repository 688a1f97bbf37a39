"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.backends import Endpoints
from router.bundle.bundle import MANIFEST
from router.bundle.models import ENGINE
from router.cli.shipped import shipped_bundle
from router.errors import InvalidRequest
from strategies import Arm, InvalidArm

if TYPE_CHECKING:
    from router.policy.table import Objective

Engine = Annotated[
    Path,
    typer.Option(
        envvar="ROUTER_ENGINE",
        default_factory=shipped_bundle,
        show_default="the shipped bundle",
        help="Folder with an engine.json (generator and verifier) and the adapters that it names: a bundle, or one "
        "in the making.",
    ),
]
Served = Annotated[
    Path,
    typer.Option(
        envvar="ROUTER_BUNDLE",
        default_factory=shipped_bundle,
        show_default="the shipped bundle",
        help="Folder of the bundle to serve.",
    ),
]
# What a command changes is named each time: no default, and no variable that was set for another command.
WrittenEngine = Annotated[
    Path,
    typer.Option("--engine", help=f"Folder to write to: its {ENGINE} names the models, and where their adapters go."),
]
WrittenBundle = Annotated[Path, typer.Option("--bundle", help=f"Folder to write to; its {ENGINE} names the models.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Change a finished bundle. It is none until `router tune` has finished it again."),
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


def check_unfinished(folder: Path, overwrite: bool) -> None:
    """Raise InvalidRequest where ``folder`` holds a finished bundle, unless it may be overwritten."""
    if (folder / MANIFEST).exists() and not overwrite:
        raise InvalidRequest(
            "bundle",
            f"{folder} holds a finished bundle, which this would change. Name another folder that has an {ENGINE}, or "
            "a copy; or give --overwrite",
            reason="UNSPECIFIED",
        )


def unfinish(folder: Path) -> None:
    """Remove the manifest: what it lists is about to change."""
    (folder / MANIFEST).unlink(missing_ok=True)


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
