"""collect, score, judge: prompts → attempts, and what their scores are worth."""

from pathlib import Path
from typing import Annotated

import typer

from router.commands.options import (
    DEFAULT,
    Backend,
    Engine,
    EngineKey,
    GeneratorUrl,
    Seed,
    VerifierUrl,
    endpoints,
    parse_arm,
)
from router.errors import InvalidFile, InvalidRequest


def collect(
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet; with --ray a folder of them.")],
    *,
    engine: Engine = DEFAULT,
    backend: Backend = "transformers",
    generator_url: GeneratorUrl = None,
    verifier_url: VerifierUrl = None,
    engine_api_key: EngineKey = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Prompts, one JSON object a line (.jsonl) or row (.parquet): prompt, and optionally id, reference, "
            "solution. A folder stands for its files. Repeatable."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help='A reasoning-gym task with its knobs, e.g. "chain_sum:min_terms=2,max_terms=4". Repeatable.'),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Prompts to generate for each --task.")] = 100,
    attempts: Annotated[
        int, typer.Option(min=0, help="Independent attempts a prompt: the pool that sampling arms are replayed from.")
    ] = 16,
    arm: Annotated[
        list[str] | None,
        typer.Option(help='Also run this arm once a prompt, e.g. "beam_search(n=16, m=4)". Repeatable.'),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attempts being written at the same time. Twice what the engines run at once (vLLM's --max-num-seqs) "
            "keeps them busy.  [default: 512 for each --generator-url; in process 1024]",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Collect on a Ray cluster, each file of --prompts by itself: host:port of its head, auto, or local "
            "for processes on this machine.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that --ray starts; they share --concurrency evenly.")
    ] = 2,
    seed: Seed = 0,
) -> None:
    """Sample attempts at prompts and write them, with their scores and token counts.

    Tree searches and revisions can't be replayed from a pool: name each one to be measured with --arm. Start the same
    command again after an interruption: it goes on where it stopped, and adds arms that the file does not hold yet.
    """
    from dataclasses import asdict
    from functools import partial

    from tqdm import tqdm

    from router.engines import load_engines, read_engine
    from router.offline.cluster import Stage, collect_shards
    from router.offline.collect import IN_PROCESS, ON_A_SERVER, collect
    from router.offline.files import expand
    from router.offline.prompts import generate_prompts, read_prompts

    if not prompts and not task:
        raise InvalidRequest(
            "prompts", "nothing to collect on: name --prompts FILE or --task TASK", reason="UNSPECIFIED"
        )
    if ray and task:
        raise InvalidRequest("task", "--ray takes files of --prompts, not a --task", reason="UNSPECIFIED")
    arms = [parse_arm(text) for text in arm or []]
    spec = read_engine(engine)
    where = endpoints(generator_url, verifier_url, engine_api_key)
    stage = Stage(
        runs=[*[attempts] * bool(attempts), *arms],
        load=partial(load_engines, backend, spec, engine.resolve(), where),
        settings={
            "backend": backend,
            "generator": asdict(spec.generator),
            "verifier": asdict(spec.verifier),
            "seed": seed,
            "pool": attempts,
        },
        seed=seed,
        concurrency=concurrency or ON_A_SERVER * len(where.generator) or IN_PROCESS,
    )
    files = expand(prompts or [])
    tokens = 0
    with tqdm(unit="unit", smoothing=0.02, mininterval=2) as bar:

        def on_start(units: int, finished: int) -> None:
            bar.total, bar.n, bar.initial = units, finished, finished  # earlier runs' work stays out of the rate
            bar.refresh()

        def on_units(units: int, generated: int) -> None:
            nonlocal tokens
            tokens += generated
            bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s", refresh=False)
            bar.update(units)

        if ray:
            collect_shards(files, out, stage, address=ray, workers=workers, on_start=on_start, on_shard=on_units)
        else:
            problems = [prompt for file in files for prompt in read_prompts(file)]
            problems += [prompt for text in task or [] for prompt in generate_prompts(text, count, seed)]
            if len({problem.id for problem in problems}) < len(problems):
                raise InvalidFile("two prompts have the same id; give the prompts files ids of their own")
            units = stage.units(problems)
            generator, verifier = stage.load()
            collect(
                units,
                generator,
                verifier,
                out,
                settings=stage.settings,
                seed=seed,
                concurrency=stage.concurrency,
                on_start=partial(on_start, len(units)),
                on_unit=lambda unit, generated: on_units(1, generated),
            )
    typer.echo(f"wrote {out}")


def score(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files; only pooled attempts are scored.")],
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet.")],
    *,
    engine: Engine = DEFAULT,
    backend: Backend = "transformers",
    verifier_url: VerifierUrl = None,
    engine_api_key: EngineKey = None,
) -> None:
    """Score pooled attempts with the engine's verifier, also those sampled elsewhere."""
    import asyncio

    from router.engines import load_verifier, read_engine
    from router.offline import judge
    from router.offline.attempts import read_attempts, write_attempts

    frame = read_attempts(attempts)
    spec = read_engine(engine)
    if spec.verifier.kind == "log_prob":
        raise InvalidFile(
            f"{engine}/engine.json: a log_prob verifier knows only what its generator just sampled; `router collect` "
            "scores with it, and here a prm is needed"
        )
    verifier = load_verifier(backend, spec, engine, endpoints(None, verifier_url, engine_api_key))

    async def run() -> None:
        try:
            write_attempts(await judge.score(frame, verifier, spec.generator.template.delimiter), out)
        finally:
            await verifier.close()

    asyncio.run(run())
    typer.echo(f"wrote {out}")


def judge(
    attempts: Annotated[list[Path], typer.Argument(help="Scored attempts; each file is judged by itself.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a file.")] = False,
) -> None:
    """Judge a verifier by its scores: AUC within prompts, and best-of-N against majority on the same attempts.

    A good AUC over all attempts is not enough: it may only tell hard prompts from easy ones.
    """
    from json import dumps

    from router.offline.attempts import read_attempts
    from router.offline.judge import judge as measure

    for path in attempts:
        result = measure(read_attempts([path]))
        if json:
            typer.echo(dumps({"file": str(path), **result}))
            continue
        typer.echo(
            f"{path}: {result['prompts']} prompts, {result['mixed_prompts']} with right and wrong attempts; "
            f"AUC {result['auc']:.3f}, within prompts {result['auc_within']:.3f}"
        )
        for n, row in result["best_of"].items():
            typer.echo(f"  N={n:3} " + "  ".join(f"{name} {accuracy:.3f}" for name, accuracy in row.items()))
