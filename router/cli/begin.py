"""The commands init, which writes a bundle folder for one's own model, and check, which tries all that it needs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.backends.registry import BACKENDS
from router.bundle.setup import MODELS
from router.cli.options import ApiKey, Backend, Header, Memory, Models, Url, deployment, finite, say
from router.errors import InvalidRequest

if TYPE_CHECKING:
    from router.backends.probe import ServedModel


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write; its name becomes the bundle's.")],
    *,
    url: Annotated[
        str | None,
        typer.Option(help="Address of the model's server: http://127.0.0.1:8080, or the base URL of its API."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="What runs the model: openai, vllm, in_process.  [default: found out at --url]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The server's name for the model; without a server, a folder or hub id that transformers loads.  "
            "[default: the only one served]"
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name in arms and bills.")] = "small",
    parameters: Annotated[
        int | None,
        typer.Option(
            min=1, help="Its number of weights, for FLOPs.  [default: as the server or the model's name says]"
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="math, number, choice, exact, json, code, or your own as module:object.")
    ] = "math",
    system: Annotated[
        str | None,
        typer.Option(
            help="System message of prompts that have none; '' for no message.  [default: depends on the task]"
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=10.0, callback=finite, help="Temperature of sampling.")
    ] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a solution.")] = 512,
    engine_api_key: ApiKey = None,
    header: Header = None,
) -> None:
    """Write a bundle folder for your own model: a working models.json, and a README that explains it and the next
    steps.

    At a terminal, it asks for settings that no option gives.
    """
    from router.backends.probe import served, size_in
    from router.bundle.starter import starter
    from router.tasks import load_task

    if (folder / MODELS).exists():
        raise InvalidRequest(
            "folder", f"{folder} has a {MODELS} already; edit that, or name another folder", reason="UNSPECIFIED"
        )
    asking = at_a_terminal()
    if url is None and backend is None and asking:
        url = typer.prompt("Where does the model's server answer? (empty: run the model in this process)", "") or None
        task = typer.prompt("Which task? (math, number, choice, exact, json, code, or module:object)", task)
    load_task(task)  # raises where it is unknown
    if backend is not None and backend not in BACKENDS:
        raise InvalidRequest("backend", f"--backend {backend!r}: known are {', '.join(BACKENDS)}", reason="UNSPECIFIED")
    if url is None and backend in ("openai", "vllm"):
        raise InvalidRequest("url", f"--backend {backend} needs --url, where the server answers", reason="UNSPECIFIED")
    found: ServedModel | None = None
    if url is not None:
        where = deployment(None, [f"{name}={url}"], engine_api_key, headers=header)
        (bare,) = where.urls[name]  # without user and password, which are written nowhere
        if bare != url:
            say("the user and password in --url are written nowhere; give them to the next commands, too")
        url = bare
        found = _chosen(served(url, where.key(name), where.headers_of(name)), model, asking)
        backend = backend or ("vllm" if found.owner == "vllm" else "openai")
        model = found.weights if backend == "vllm" else found.name
    if model is None and asking:
        model = typer.prompt("Which model? A folder or hub id that transformers loads")
    if model is None:
        raise InvalidRequest("model", "say which model: --url of its server, or --model", reason="UNSPECIFIED")
    guessed = (found.parameters or size_in(found.name) if found else None) or size_in(model)
    if parameters is None and guessed is None and asking:
        parameters = typer.prompt("How many weights does it have?", type=int)
    parameters = parameters or guessed
    if parameters is None:
        raise InvalidRequest(
            "parameters",
            f"neither the server nor the name {model!r} tells its number of weights; give it: --parameters 1500000000",
            reason="UNSPECIFIED",
        )
    if found and found.context and found.context <= max_tokens:
        raise InvalidRequest(
            "max_tokens",
            f"the server's context has {found.context} tokens, and --max-tokens {max_tokens} would leave none for a "
            "prompt: lower it, or give the server more",
            reason="UNSPECIFIED",
        )
    try:
        written = starter(
            folder,
            name=name,
            model=model,
            parameters=parameters,
            backend=backend or "in_process",
            task=task,
            system=system,
            temperature=temperature,
            max_tokens=max_tokens,
            owner=found.owner if found else "",
            url=url,
        )
    except ValueError as error:
        raise InvalidRequest("name", str(error), reason="UNSPECIFIED") from error
    typer.echo(f"wrote {', '.join(map(str, written))}")
    option = f" --url {name}={url}" if url else ""
    typer.echo(f"next: router check --bundle {folder}{option}")


def at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _chosen(models: "list[ServedModel]", wanted: str | None, asking: bool) -> "ServedModel":
    """Return the model to use. Raises InvalidRequest where it is not clear which one is meant."""
    whole = [each for each in models if not each.adapter]
    names = [each.name for each in whole]
    if wanted is None and len({each.weights for each in whole}) > 1 and asking:
        wanted = typer.prompt(f"Which model? ({', '.join(names[:10])})", names[0])
    if wanted is None and len({each.weights for each in whole}) == 1:
        return whole[0]  # a vLLM server may have several names for what it serves
    found = next((each for each in models if wanted in (each.name, each.weights)), None)
    if found is None:
        raise InvalidRequest(
            "model",
            f"the server has {', '.join(names[:10]) or 'no models'}; say which with --model",
            reason="UNSPECIFIED",
        )
    return found


def check(
    *,
    bundle: Models,
    backend: Backend = None,
    url: Url = None,
    engine_api_key: ApiKey = None,
    header: Header = None,
    memory: Memory = None,
    prompt: Annotated[
        str | None, typer.Option(help="The prompt to try.  [default: an easy question of the bundle's task]")
    ] = None,
) -> None:
    """Try everything that a bundle needs, and print a line for each: every server, the models and adapters that it
    serves, their context and capabilities, one solution, the answer in it, its score.

    The exit code is 1 where something fails.
    """
    import asyncio

    from router.bundle.setup import read_setup
    from router.solving.check import BundleCheck

    setup = read_setup(bundle)
    where = deployment(backend, url, engine_api_key, memory, header)
    check = BundleCheck(setup, bundle, where, prompt, say=typer.echo)
    asyncio.run(check.run())
    if check.failures:
        typer.echo(f"{check.failures} of {check.checks} checks failed")
        raise typer.Exit(1)
    typer.echo(f"all {check.checks} checks passed")
