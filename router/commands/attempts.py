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
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet.")],
    *,
    engine: Engine = DEFAULT,
    backend: Backend = "transformers",
    generator_url: GeneratorUrl = None,
    verifier_url: VerifierUrl = None,
    engine_api_key: EngineKey = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Prompts, one JSON object a line: prompt, and optionally id, reference, solution."),
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
    seed: Seed = 0,
    from_outcomes: Annotated[
        str | None,
        typer.Option(
            help="Sample nothing: take the served calls of this outcome database (see serve --outcomes) as attempts, "
            "and write their prompts beside them."
        ),
    ] = None,
) -> None:
    """Sample attempts at prompts and write them, with their scores and token counts.

    Tree searches and revisions can't be replayed from a pool: name each one to be measured with --arm. Start the same
    command again after an interruption: it goes on where it stopped, and adds arms that the file does not hold yet.

    With --from-outcomes each call whose prompt, solution and outcome are on record is one run of its arm, with the
    probability that it had. Levels need more attempts at a prompt than one: sample them at the prompts that are written
    beside, which are those with a right answer on record.
    """
    if from_outcomes:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
        return _collect_served(from_outcomes, out, given)
    from dataclasses import asdict

    from tqdm import tqdm

    from router.engines import load_engines, read_engine
    from router.offline.collect import Unit, collect
    from router.offline.prompts import generate_prompts, read_prompts

    if not prompts and not task:
        raise InvalidRequest(
            "prompts", "nothing to collect on: name --prompts FILE or --task TASK", reason="UNSPECIFIED"
        )
    problems = [prompt for path in prompts or [] for prompt in read_prompts(path)]
    problems += [prompt for spec in task or [] for prompt in generate_prompts(spec, count, seed)]
    if len({problem.id for problem in problems}) < len(problems):
        raise InvalidFile("two prompts have the same id; give the prompts files ids of their own")
    arms = [parse_arm(text) for text in arm or []]
    pool = [None] * bool(attempts)
    units = [Unit(problem, each, attempts) for each in [*pool, *arms] for problem in problems]

    spec = read_engine(engine)
    settings = {
        "backend": backend,
        "generator": asdict(spec.generator),
        "verifier": asdict(spec.verifier),
        "seed": seed,
        "pool": attempts,
    }
    where = endpoints(generator_url, verifier_url, engine_api_key)
    generator, verifier = load_engines(backend, spec, engine, where)
    tokens = 0
    with tqdm(total=len(units), unit="unit", smoothing=0.02, mininterval=2) as bar:

        def on_start(finished: int) -> None:
            bar.n = bar.initial = finished  # earlier runs' work stays out of the rate
            bar.refresh()

        def on_unit(unit: Unit, generated: int) -> None:
            nonlocal tokens
            tokens += generated
            bar.set_postfix_str(f"{tokens / max(bar.format_dict['elapsed'], 1e-9):.0f} tokens/s", refresh=False)
            bar.update()

        collect(units, generator, verifier, out, settings=settings, seed=seed, on_start=on_start, on_unit=on_unit)
    typer.echo(f"wrote {out}")
    return None


def _collect_served(url: str, out: Path, given: list[str]) -> None:
    from router.offline.attempts import write_attempts
    from router.offline.logged import served_attempts, write_prompts

    if others := [name.replace("_", "-") for name in given if name not in ("from_outcomes", "out")]:
        raise InvalidRequest(
            "from_outcomes",
            f"--from-outcomes samples nothing, so it takes no --{others[0]}; sample at its prompts in a second run",
            reason="UNSPECIFIED",
        )
    if out.exists():
        raise InvalidFile(f"{out} is there already, and could hold attempts that were sampled; write to another --out")
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
        f"{len(served.prompts)} of {asked} prompts have a right answer on record; the others can't be told right from "
        "wrong when they are sampled again, which leaves the easier ones"
    )
    typer.echo(f"wrote {out}, {beside}; next: router collect --prompts {beside} --out {out}")


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
