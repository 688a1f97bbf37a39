"""The command collect: samples attempts at prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Annotated, Any

import typer

from router.cli.options import AllowCode, ApiKey, Backend, Header, Memory, Models, Seed, Url, deployment, read_arm
from router.errors import InvalidFile, InvalidRequest

REDRAW_SECONDS = 5.0


def collect(  # noqa: PLR0912, PLR0915  the options of one command
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet; with --ray a folder of them.")],
    *,
    bundle: Models,
    backend: Backend = None,
    url: Url = None,
    engine_api_key: ApiKey = None,
    header: Header = None,
    memory: Memory = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts, one JSON object a line (.jsonl) or row (.parquet): prompt, and optionally id, reference, "
            "solution, inputs, task. A folder stands for its files. Repeatable."
        ),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option(
            help='Generate prompts of a reasoning-gym task with its knobs, e.g. "chain_sum:min_terms=2,max_terms=4". '
            "Repeatable."
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Prompts to generate for each --generate.")] = 100,
    attempts: Annotated[
        int,
        typer.Option(
            min=0,
            help="Independent attempts by the reference model at each prompt; sampling arms are replayed from them.",
        ),
    ] = 16,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=N", help="Independent attempts by another model at each prompt, e.g. large=4. Repeatable."
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help='Also run this arm at every prompt, e.g. "beam_search(n=16, m=4)". Repeatable.'),
    ] = None,
    times: Annotated[
        int,
        typer.Option(
            min=1,
            help="Runs of each --arm at each prompt; more runs make measurements less noisy. With a larger number, the "
            "same command later adds the missing runs.",
        ),
    ] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attempts in progress at the same time. Twice what the engines run at once (vLLM's --max-num-seqs) "
            "keeps them busy.  [default: for each server of the reference model 512 on vLLM, 64 on a "
            "chat endpoint; in process 1024 for each of --workers]",
        ),
    ] = None,
    one_by_one: Annotated[
        bool,
        typer.Option(
            "--one-by-one",
            help="Run one arm or pool at one prompt at a time: `seconds` are then those of a call on an idle server, "
            "for `router time`.",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Collect on a Ray cluster, which works on one file of --prompts at a time: host:port of its head, "
            "auto, or local for processes on this machine.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share --concurrency evenly. One for each core makes the most of a GPU for models in "
            "process. With --ray, each takes files of prompts.  [default: 1, with --ray 2]",
        ),
    ] = None,
    allow_code: AllowCode = False,
    seed: Seed = 0,
    from_outcomes: Annotated[
        str | None,
        typer.Option(
            help="Sample nothing; take the served calls in this outcome database (see serve --outcomes) as attempts, "
            "and write their prompts to a file beside --out."
        ),
    ] = None,
) -> None:
    """Sample attempts at prompts and write them, with their scores and token counts.

    Tree searches and revisions can't be replayed from independent attempts, so name each one to be measured with --arm.
    After an interruption, the same command continues where it stopped. It also adds arms that the file does not have.

    With --from-outcomes, each recorded call with prompt, solution and outcome is one run of its arm. Levels need
    several attempts at each prompt: sample them at the prompts that are written beside, which have a right answer on
    record.
    """
    if from_outcomes:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
        return _collect_served(from_outcomes, out, given)
    from dataclasses import asdict
    from functools import partial

    from tqdm import tqdm

    from router.attempts.cluster import Stage, collect_shards
    from router.attempts.collect import IN_PROCESS, ON_A_SERVER, ON_AN_ENDPOINT, Tally, collect
    from router.attempts.files import check_out, expand
    from router.attempts.pools import pool_of
    from router.attempts.prompts import generate_prompts, read_prompts
    from router.backends.registry import check_code, load_engines, why_not
    from router.bundle.setup import read_setup
    from router.tasks import Tasks

    if not prompts and not generate:
        raise InvalidRequest(
            "prompts", "nothing to collect on: name --prompts FILE or --generate TASK", reason="UNSPECIFIED"
        )
    if not ray:
        check_out(out)
    elif out.exists() and not out.is_dir():
        raise InvalidRequest("out", f"--out {out} is a file; with --ray name a folder", reason="UNSPECIFIED")
    if ray and generate:
        raise InvalidRequest("generate", "--ray takes files of --prompts, not --generate", reason="UNSPECIFIED")
    if one_by_one and (ray or (workers or 1) > 1):
        raise InvalidRequest(
            "one_by_one", "--one-by-one takes neither --ray nor several --workers", reason="UNSPECIFIED"
        )
    if not (attempts or pool or arm):
        raise InvalidRequest("attempts", "nothing to collect: give --attempts, --pool or --arm", reason="UNSPECIFIED")
    setup = read_setup(bundle)
    arms = [read_arm(text).referring(setup.reference) for text in arm or []]
    pools = {None: attempts, **_pools(pool or [], setup.reference)}
    workers = workers or (2 if ray else 1)
    where = deployment(backend, url, engine_api_key, memory, header)
    for each in arms:
        if reason := why_not(each, setup, where):
            raise InvalidRequest("arm", f"--arm {each}: {reason}", reason="ARM_INVALID")
    if unknown := sorted(name for name in pools if name and name not in setup.models):
        raise InvalidRequest(
            "pool", f"--pool: no model {unknown[0]!r}; there are {', '.join(setup.models)}", reason="UNSPECIFIED"
        )
    tasks = Tasks(setup.tasks, allow_code)
    tasks.check()
    check_code(setup, allow_code)
    asked = {model for each in arms for model in each.models} | {model for model, n in pools.items() if n}
    wanted = frozenset(name or setup.reference for name in asked)
    busiest = setup.reference if setup.reference in wanted else min(wanted)
    a_server = ON_AN_ENDPOINT if where.backend(busiest, setup.models[busiest]) == "openai" else ON_A_SERVER
    stage = Stage(
        pools=pools,
        arms=arms,
        tasks=tasks,
        times=times,
        load=partial(load_engines, setup, bundle.resolve(), where, models=wanted, log_probs=True),
        settings={
            "backends": dict(where.backends),
            "task": setup.task,
            # All that the samples depend on. A journal begun with other settings is not continued.
            "models": {name: asdict(setup.models[name]) for name in sorted(wanted | {setup.reference})},
            "verifier": asdict(setup.verifier),
            "seed": seed,
            "pools": {pool_of(model): n for model, n in pools.items()},
            # Not the samples but their seconds; left out where it is off, as before there was the option.
            **({"one_by_one": True} if one_by_one else {}),
        },
        seed=seed,
        concurrency=concurrency or a_server * len(where.urls.get(busiest, ())) or IN_PROCESS * workers,
    )
    files = expand(prompts or [])
    total = Tally()
    # No progress bar is shown before the prompts are read, since they may be malformed.
    with tqdm(unit="unit", smoothing=0.02, mininterval=2, delay=1) as bar, _redrawn(bar):

        def on_start(units: int, finished: int) -> None:
            bar.delay = 0
            bar.total, bar.n, bar.initial = units, finished, finished  # work of earlier runs doesn't count in the rate
            bar.refresh()

        def on_units(units: int, tally: Tally) -> None:
            nonlocal total
            total += tally
            speed = total.tokens / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{speed:.0f} tokens/s, {total}", refresh=False)
            bar.update(units)

        if ray:
            collect_shards(files, out, stage, address=ray, workers=workers, on_start=on_start, on_shard=on_units)
        else:
            problems = [prompt for file in files for prompt in read_prompts(file)]
            problems += [prompt for text in generate or [] for prompt in generate_prompts(text, count, seed)]
            if len({problem.id for problem in problems}) < len(problems):
                raise InvalidFile("two prompts have the same id; give each prompt in these files an id of its own")
            units = stage.units(problems)
            collect(
                units,
                stage.load,
                out,
                tasks=stage.tasks,
                settings=stage.settings,
                seed=seed,
                concurrency=stage.concurrency,
                one_by_one=one_by_one,
                workers=workers,
                on_start=partial(on_start, len(units)),
                on_unit=lambda unit, tally: on_units(1, tally),
            )
    made = f"wrote {out}; of {total.attempts} attempts made now, {total}"
    typer.echo(made if total.attempts else f"{out} has all of this already; nothing was made now")
    return None


@contextmanager
def _redrawn(bar: Any) -> Iterator[None]:
    """Redraw the progress bar every few seconds: its clock shows that a slow model works on its first unit."""
    ended = Event()

    def redraw() -> None:
        while not ended.wait(REDRAW_SECONDS):
            if bar.total:
                bar.refresh()

    thread = Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _pools(given: list[str], reference: str) -> dict[str | None, int]:
    """Raises InvalidRequest."""
    pools: dict[str | None, int] = {}
    for text in given:
        model, _, number = text.partition("=")
        if not model or not number.isdecimal():
            raise InvalidRequest("pool", f"--pool {text!r}: write it like large=4", reason="UNSPECIFIED")
        pools[None if model == reference else model] = int(number)
    return pools


def _collect_served(url: str, out: Path, given: list[str]) -> None:
    from router.attempts.files import check_out
    from router.attempts.schema import write_attempts
    from router.attempts.served import served_attempts, write_prompts

    if others := [name.replace("_", "-") for name in given if name not in ("from_outcomes", "out")]:
        raise InvalidRequest(
            "from_outcomes",
            f"--from-outcomes samples nothing, so it takes no --{others[0]}; sample at its prompts in a second run",
            reason="UNSPECIFIED",
        )
    check_out(out)
    if out.exists():
        raise InvalidFile(f"{out} exists already, and may hold sampled attempts; write to another --out")
    served = served_attempts(url)
    attempts = served.attempts
    for reason, count in served.left_out.items():
        typer.echo(f"left out: {count} {reason}")
    if attempts.empty:
        raise InvalidFile(
            f"none of the log's {served.decisions} decisions has prompt, solution and outcome; serve with "
            "--outcome-prompts, and call RecordOutcome"
        )
    write_attempts(attempts, out)
    beside = out.with_suffix(".prompts.jsonl")
    write_prompts(served.prompts, beside)
    asked = attempts["prompt_id"].nunique()
    pinned = attempts["propensity"].isna().sum()
    typer.echo(
        f"{len(attempts)} of {served.decisions} decisions are attempts, at {asked} prompts: {served.explored} ran an "
        f"arm drawn to explore, {pinned} one that the caller pinned, {len(attempts) - served.explored - pinned} the "
        "policy's choice"
    )
    typer.echo(
        f"{len(served.prompts)} of {asked} prompts have a right answer on record; new attempts at the others could not "
        "be judged, so only these, the easier ones, are written"
    )
    typer.echo(f"wrote {out}, {beside}; next: router collect --prompts {beside} --out {out}")
