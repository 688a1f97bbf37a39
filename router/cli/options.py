"""Options that several commands share."""

import math
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from router.backends.registry import BACKENDS, backend_of
from router.backends.specs import Deployment
from router.bundle.manifest import MANIFEST
from router.bundle.setup import MODELS
from router.cli.shipped import shipped_bundle
from router.errors import InvalidRequest
from router.policy.objectives import OBJECTIVES
from strategies import InvalidArm, Strategy, parse

LONGEST_SECONDS = 604_800  # a week: timers refuse numbers that are far larger


def finite(value: float | None) -> float | None:
    """Return the value of an option whose bounds say nothing against inf or nan. Raises BadParameter."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


Served = Annotated[
    Path,
    typer.Option(
        envvar="ROUTER_BUNDLE",
        default_factory=shipped_bundle,
        show_default="the shipped bundle",
        help="Folder of the bundle to serve.",
    ),
]
Models = Annotated[
    Path,
    typer.Option(
        "--bundle",
        envvar="ROUTER_BUNDLE",
        default_factory=shipped_bundle,
        show_default="the shipped bundle",
        help=f"Folder with a {MODELS} and the adapters that it names: a bundle, finished or not.",
    ),
]
# A folder that a command changes has to be named each time, so there is no default and no environment variable.
Written = Annotated[
    Path,
    typer.Option("--bundle", help=f"Folder to write to. Its {MODELS} names the models and their adapters' folders."),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Change a finished bundle. It is unfinished until `router tune` has run again."),
]
Backend = Annotated[
    list[str] | None,
    typer.Option(
        envvar="ROUTER_BACKEND",
        help=f"What runs the models: {', '.join(BACKENDS)}, or NAME=BACKEND for one of them (in_process: here; vllm, "
        "openai: at --url; fake: scripted, no model). Repeatable; in the variable, put spaces between them.  [default: "
        "as the bundle says]",
    ),
]
Url = Annotated[
    list[str] | None,
    typer.Option(
        envvar="ROUTER_URL",
        metavar="NAME=URL",
        help="Address of a model's server: small=http://gpu1:8000, and verifier=... for the verifier. Repeat it for "
        "other models and for replicas; in the variable, put spaces between them.",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        envvar="ROUTER_OBJECTIVE",
        metavar="KIND=VALUE",
        help=f"What the arm is chosen for: {', '.join(f'{kind}=…' for kind in OBJECTIVES)}.  [default: the bundle's]",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="ROUTER_ENGINE_API_KEY",
        help="Bearer token for the models' servers. For the model small alone: ROUTER_ENGINE_API_KEY_SMALL.",
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=HEADER:VALUE",
        help="Send this header to a model's servers, e.g. 'small=X-Title: mine'. A value like $KEY is read from that "
        "environment variable. Repeatable.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        envvar="ROUTER_MEMORY",
        min=0.25,
        callback=finite,
        help="GiB that keys and values of the models in this process may take; calls wait for room.  [default: "
        "three quarters of what is free, less 2 GiB]",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        envvar="ROUTER_ALLOW_CODE",
        help="Let tasks and verifiers run code that models and callers write, in a sandbox (docs/sandbox.md). Refused "
        "where this machine can't isolate it.",
    ),
]
Vectors = Annotated[
    Path | None,
    typer.Option(
        help="Parquet file of hidden states that were read before: prompts in it are not read again, and what is read "
        "is added. With all of them in it no model is needed."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers; equal seeds repeat a run.")]


def deployment(
    backends: list[str] | None,
    urls: list[str] | None,
    api_key: str | None = None,
    memory: float | None = None,
    headers: list[str] | None = None,
) -> Deployment:
    """Read the options into a Deployment. Raises InvalidRequest where one is malformed, or a backend is unknown."""
    by_name: dict[str, tuple[str, ...]] = {}
    for given in urls or ():
        name, _, url = given.partition("=")
        if not url.startswith(("http://", "https://")):
            _, at, shown = given.rpartition("@")  # before it may be a password
            raise InvalidRequest(
                "url",
                f"--url {'…' * bool(at) + shown!r}: write the model's name and its server, like "
                "small=http://127.0.0.1:8000",
                reason="UNSPECIFIED",
            )
        by_name[name] = (*by_name.get(name, ()), url)
    chosen: dict[str, str] = {}
    for given in backends or ():
        name, equals, backend = given.partition("=")
        backend_of(backend if equals else name)  # raises where it is unknown
        chosen[name if equals else ""] = backend if equals else name
    own = {name: os.environ.get(f"ROUTER_ENGINE_API_KEY_{re.sub('[.-]', '_', name).upper()}", "") for name in by_name}
    keys = {name: key for name, key in own.items() if key}
    return Deployment(by_name, chosen, api_key, memory, api_keys=keys, headers=_headers(headers or []))


def _headers(given: list[str]) -> dict[str, dict[str, str]]:
    """Return headers by model name. Raises InvalidRequest."""
    by_name: dict[str, dict[str, str]] = {}
    for text in given:
        name, equals, header = text.partition("=")
        key, colon, value = (part.strip() for part in header.partition(":"))
        if not equals or not colon or not key:
            raise InvalidRequest(
                "header", f"--header {name}=…: write it like small=X-Title: mine", reason="UNSPECIFIED"
            )
        if value.startswith("$"):
            if value[1:] not in os.environ:
                raise InvalidRequest(
                    "header", f"--header {name}={key}: the variable {value[1:]!r} is not set", reason="UNSPECIFIED"
                )
            value = os.environ[value[1:]]
        # One spelling, since it stands in for the key's header.
        key = "Authorization" if key.lower() == "authorization" else key
        by_name.setdefault(name, {})[key] = value
    return by_name


def check_unfinished(folder: Path, overwrite: bool) -> None:
    """Raise InvalidRequest where ``folder`` holds a finished bundle, unless it may be overwritten."""
    if (folder / MANIFEST).exists() and not overwrite:
        raise InvalidRequest(
            "bundle",
            f"{folder} holds a finished bundle, which this would change. Name another folder that has a {MODELS}, or "
            "a copy; or give --overwrite",
            reason="UNSPECIFIED",
        )


def unfinish(folder: Path) -> None:
    """Remove the manifest, since files that it lists are about to change."""
    (folder / MANIFEST).unlink(missing_ok=True)


def say(text: str) -> None:
    """Print a warning or an assumption on standard error, apart from the results."""
    typer.echo(f"router: {text}", err=True)


def read_arm(text: str) -> Strategy:
    """Return the arm written in an option. Raises InvalidRequest."""
    try:
        return parse(text)
    except InvalidArm as error:
        raise InvalidRequest("arm", f"--arm: {error}", reason="ARM_INVALID") from error
