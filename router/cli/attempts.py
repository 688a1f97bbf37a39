"""collect, score, judge, judge-reviser, calibrate: prompts → attempts, and what their scores are worth."""

from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import (
    Backend,
    Engine,
    EngineKey,
    GeneratorUrl,
    LargerUrl,
    Overwrite,
    Seed,
    VerifierUrl,
    WrittenEngine,
    check_unfinished,
    endpoints,
    parse_arm,
    unfinish,
)
from router.errors import InvalidFile, InvalidRequest


def collect(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet; with --ray a folder of them.")],
    *,
    engine: Engine,
    backend: Backend = "transformers",
    generator_url: GeneratorUrl = None,
    verifier_url: VerifierUrl = None,
    larger_url: LargerUrl = None,
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
        typer.Option(help='Also run this arm at every prompt, e.g. "beam_search(n=16, m=4)". Repeatable.'),
    ] = None,
    times: Annotated[
        int,
        typer.Option(
            min=1,
            help="Run each --arm so many times a prompt: chance adds less to what is measured. A larger number later "
            "adds the missing runs.",
        ),
    ] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attempts being written at the same time. Twice what the engines run at once (vLLM's --max-num-seqs) "
            "keeps them busy.  [default: 512 for each --generator-url; in process 1024 for each of --workers]",
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
        int | None,
        typer.Option(
            min=1,
            help="Processes that share --concurrency evenly: one a core makes the most of a GPU that models run on in "
            "process. With --ray, each takes files of prompts.  [default: 1, with --ray 2]",
        ),
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
    from dataclasses import asdict, replace
    from functools import partial

    from tqdm import tqdm

    from router.attempts.cluster import Stage, collect_shards
    from router.attempts.collect import IN_PROCESS, ON_A_SERVER, collect
    from router.attempts.files import expand
    from router.attempts.prompts import generate_prompts, read_prompts
    from router.bundle.models import load_engines, read_engine

    if not prompts and not task:
        raise InvalidRequest(
            "prompts", "nothing to collect on: name --prompts FILE or --task TASK", reason="UNSPECIFIED"
        )
    if ray and task:
        raise InvalidRequest("task", "--ray takes files of --prompts, not a --task", reason="UNSPECIFIED")
    arms = [parse_arm(text) for text in arm or []]
    workers = workers or (2 if ray else 1)
    spec = read_engine(engine)
    where = endpoints(generator_url, verifier_url, larger_url, engine_api_key)
    wanted = spec if any(each.larger for each in arms) else replace(spec, larger=None)
    stage = Stage(
        pool=attempts,
        arms=arms,
        times=times,
        load=partial(load_engines, backend, wanted, engine.resolve(), where),
        settings={
            "backend": backend,
            "generator": asdict(spec.generator),
            "verifier": asdict(spec.verifier),
            "seed": seed,
            "pool": attempts,
        },
        seed=seed,
        concurrency=concurrency or ON_A_SERVER * len(where.generator) or IN_PROCESS * workers,
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
            collect(
                units,
                stage.load,
                out,
                settings=stage.settings,
                seed=seed,
                concurrency=stage.concurrency,
                workers=workers,
                on_start=partial(on_start, len(units)),
                on_unit=lambda unit, generated: on_units(1, generated),
            )
    typer.echo(f"wrote {out}")
    return None


def _collect_served(url: str, out: Path, given: list[str]) -> None:
    from router.attempts.schema import write_attempts
    from router.attempts.served import served_attempts, write_prompts

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
    engine: Engine,
    backend: Backend = "transformers",
    verifier_url: VerifierUrl = None,
    engine_api_key: EngineKey = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score the attempts at so many prompts only, drawn at random.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score pooled attempts with the engine's verifier, also those sampled elsewhere."""
    import asyncio

    from router.attempts.schema import read_attempts, write_attempts
    from router.bundle.models import load_verifier, read_engine
    from router.evaluation import judge

    frame = read_attempts(attempts)
    if limit is not None:
        prompts = frame["prompt_id"].drop_duplicates()
        frame = frame[frame["prompt_id"].isin(prompts.sample(min(limit, len(prompts)), random_state=seed))]
    spec = read_engine(engine)
    if spec.verifier.kind == "log_prob":
        raise InvalidFile(
            f"{engine}/engine.json: a log_prob verifier knows only what its generator just sampled; `router collect` "
            "scores with it, and here a prm is needed"
        )
    verifier = load_verifier(backend, spec, engine, endpoints(None, verifier_url, None, engine_api_key))

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

    from router.attempts.schema import read_attempts
    from router.evaluation.judge import judge as measure

    for path in attempts:
        result = measure(read_attempts([path]))
        if json:
            typer.echo(dumps({"file": str(path), **result}))
            continue
        typer.echo(
            f"{path}: {result['prompts']} prompts, {result['mixed_prompts']} with right and wrong attempts; "
            f"AUC {result['auc']:.3f}, within prompts {result['auc_within']:.3f}; calibration error {result['ece']:.3f}"
        )
        if result["by_step"]:
            typer.echo("  AUC within prompts by step " + " ".join(f"{auc:.3f}" for auc in result["by_step"]))
        for n, row in result["best_of"].items():
            typer.echo(f"  N={n:3} " + "  ".join(f"{name} {accuracy:.3f}" for name, accuracy in row.items()))


def judge_reviser(
    prompts: Annotated[list[Path], typer.Option(help="Prompts with references, none that the reviser learned from.")],
    *,
    engine: Engine,
    backend: Backend = "transformers",
    generator_url: GeneratorUrl = None,
    engine_api_key: EngineKey = None,
    chains: Annotated[int, typer.Option(min=1, help="Chains of attempts for each prompt.")] = 4,
    length: Annotated[int, typer.Option(min=2, help="Attempts in a chain.")] = 4,
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a reviser: pass rate along chains of attempts, and how often right turns wrong and wrong right."""
    import asyncio
    from dataclasses import replace
    from json import dumps

    from router.attempts.prompts import read_prompts
    from router.backends import VerifierSpec
    from router.bundle.models import load_engines, read_engine
    from router.evaluation.revisions import judge_chains, sample_chains

    problems = [prompt for path in prompts for prompt in read_prompts(path)]
    spec = replace(read_engine(engine), verifier=VerifierSpec("log_prob", None, 0), larger=None)
    where = endpoints(generator_url, None, None, engine_api_key)
    generator = load_engines(backend, spec, engine, where).generator

    async def run() -> list[list[bool]]:
        try:
            return await sample_chains(problems, generator, chains=chains, length=length, seed=seed)
        finally:
            await generator.close()

    result = judge_chains(asyncio.run(run()))
    if json:
        typer.echo(dumps(result))
        return
    typer.echo(f"{result['chains']} chains; pass rate by position " + " ".join(f"{r:.3f}" for r in result["pass_rate"]))
    for name in ("right_to_wrong", "wrong_to_right"):
        typer.echo(f"{name.replace('_', ' ')}: {'never seen' if result[name] is None else format(result[name], '.3f')}")


def calibrate(
    attempts: Annotated[
        list[Path],
        typer.Argument(help="Attempts scored by this engine's verifier, on prompts that nothing is evaluated on."),
    ],
    *,
    engine: WrittenEngine,
    overwrite: Overwrite = False,
) -> None:
    """Make the engine's verifier give probabilities: fit slope and intercept, and write them to engine.json.

    Votes are weighed by scores. The order of scores does not change, so best-of-N and the kept beams do not either.
    """
    check_unfinished(engine, overwrite)
    from dataclasses import replace

    from router.attempts.schema import read_attempts
    from router.bundle.models import read_engine, write_engine
    from router.training import calibration

    spec = read_engine(engine)
    if (spec.verifier.slope, spec.verifier.intercept) != (1, 0):
        raise InvalidFile(
            f"{engine}/engine.json: the verifier is calibrated already; set slope to 1 and intercept to 0, and score "
            "the attempts again"
        )
    slope, intercept = calibration.fit(read_attempts(attempts))
    unfinish(engine)
    write_engine(replace(spec, verifier=replace(spec.verifier, slope=slope, intercept=intercept)), engine)
    typer.echo(f"wrote slope {slope:.3f} and intercept {intercept:.3f} to {engine}/engine.json")
