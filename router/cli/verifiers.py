"""The commands score, judge, judge-reviser and calibrate, for verifiers and revisers."""

from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import (
    AllowCode,
    ApiKey,
    Backend,
    Header,
    Models,
    Overwrite,
    Seed,
    Url,
    Written,
    check_unfinished,
    deployment,
    say,
    unfinish,
)
from router.errors import InvalidFile


def score(
    attempts: Annotated[
        list[Path], typer.Argument(help="Attempts files; pooled and greedy attempts of every model are scored.")
    ],
    out: Annotated[Path, typer.Option(help="Attempts file to write, Parquet.")],
    *,
    bundle: Models,
    backend: Backend = None,
    url: Url = None,
    engine_api_key: ApiKey = None,
    header: Header = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score only the attempts at so many prompts, drawn at random.")
    ] = None,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Score pooled and greedy attempts with the bundle's verifier, also those sampled by other programs."""
    import asyncio

    from router.attempts.files import check_out
    from router.attempts.schema import read_attempts, write_attempts
    from router.backends.registry import check_code, load_engines, load_verifier
    from router.backends.tokenizers import splitter
    from router.bundle.setup import read_setup
    from router.evaluation import judge
    from router.tasks import Tasks

    check_out(out)
    frame = read_attempts(attempts, say=say)
    if limit is not None:
        prompts = frame["prompt_id"].drop_duplicates()
        frame = frame[frame["prompt_id"].isin(prompts.sample(min(limit, len(prompts)), random_state=seed))]
    setup = read_setup(bundle)
    if setup.verifier.kind == "none":
        raise InvalidFile(f"{bundle}/models.json has no verifier; name one to score with")
    if setup.verifier.kind in ("log_prob", "lowest_window"):
        raise InvalidFile(
            f"{bundle}/models.json: a {setup.verifier.kind} verifier can score attempts only while they are sampled, "
            "as `router collect` does; here another kind is needed"
        )
    where = deployment(backend, url, engine_api_key, headers=header)
    tasks = Tasks(setup.tasks, allow_code)
    tasks.check()
    check_code(setup, allow_code)
    split = splitter(setup, where)
    engines = load_engines(setup, bundle, where, models=frozenset()) if setup.verifier.asks else None
    verifier = engines.verifier if engines else load_verifier(setup, bundle, where)

    async def run() -> None:
        try:
            write_attempts(await judge.score(frame, verifier, split, tasks), out)
        finally:
            await (engines or verifier).close()

    asyncio.run(run())
    typer.echo(f"wrote {out}")


def judge(
    attempts: Annotated[list[Path], typer.Argument(help="Files of scored attempts; each is judged by itself.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each file.")] = False,
) -> None:
    """Judge a verifier by its scores: AUC within prompts, and best-of-N against majority on the same attempts.

    A good AUC over all attempts is not enough, since scores may only tell hard prompts from easy ones.
    """
    from json import dumps

    from router.attempts.schema import read_attempts
    from router.evaluation.judge import judge as measure

    for path in attempts:
        frame = read_attempts([path])
        try:
            result = measure(frame)
        except InvalidFile as error:
            raise InvalidFile(f"{path}: {error}") from error
        if json:
            typer.echo(dumps({"file": str(path), **result}))
            continue
        low, high = result["auc_within_interval"]
        typer.echo(
            f"{path}: {result['prompts']} prompts, {result['mixed_prompts']} with right and wrong attempts; "
            f"AUC {result['auc']:.3f}, within prompts {result['auc_within']:.3f} [{low:.3f}, {high:.3f}]; "
            f"calibration error {result['ece']:.3f}"
        )
        if result["by_step"]:
            typer.echo("  AUC within prompts by step " + " ".join(f"{auc:.3f}" for auc in result["by_step"]))
        for n, row in result["best_of"].items():
            gains = row.pop("above_majority")
            typer.echo(f"  N={n:3} " + "  ".join(f"{name} {accuracy:.3f}" for name, accuracy in row.items()))
            above = (f"{name} {g['value']:+.3f} [{g['low']:+.3f}, {g['high']:+.3f}]" for name, g in gains.items())
            typer.echo("        above majority: " + "  ".join(above))


def judge_reviser(
    prompts: Annotated[list[Path], typer.Option(help="Prompts with references that the reviser never learned from.")],
    *,
    bundle: Models,
    backend: Backend = None,
    url: Url = None,
    engine_api_key: ApiKey = None,
    header: Header = None,
    chains: Annotated[int, typer.Option(min=1, help="Chains of attempts for each prompt.")] = 4,
    length: Annotated[int, typer.Option(min=2, help="Attempts in a chain.")] = 4,
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Judge a reviser: pass rate along chains of attempts, and how often right attempts turn wrong and vice versa."""
    import asyncio
    from json import dumps

    from router.attempts.prompts import read_prompts
    from router.backends.registry import load_reference
    from router.bundle.setup import read_setup
    from router.evaluation.revisions import judge_chains, sample_chains
    from router.tasks import Tasks

    problems = [prompt for path in prompts for prompt in read_prompts(path)]
    setup = read_setup(bundle)
    where = deployment(backend, url, engine_api_key, headers=header)
    generator = load_reference(setup, bundle, where).main

    async def run() -> list[list[bool]]:
        try:
            return await sample_chains(
                problems, generator, Tasks(setup.tasks, allow_code), chains=chains, length=length, seed=seed
            )
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
        typer.Argument(help="Attempts scored by this bundle's verifier, on prompts never used for evaluation."),
    ],
    *,
    bundle: Written,
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
) -> None:
    """Make the bundle's verifier give probabilities: fit slope and intercept, and write them to models.json.

    This changes weighted votes, but not the order of scores, so best-of-N and beam search choose the same.
    """
    check_unfinished(bundle, overwrite)
    from dataclasses import replace

    from router.attempts.schema import read_attempts
    from router.backends.specs import Platt
    from router.bundle.setup import read_setup, write_setup
    from router.tasks import Tasks
    from router.training import calibration

    setup = read_setup(bundle)
    if (setup.verifier.slope, setup.verifier.intercept) != (1, 0) or setup.verifier.by_task:
        raise InvalidFile(
            f"{bundle}/models.json: the verifier is calibrated already; set slope to 1 and intercept to 0, and score "
            "the attempts again"
        )
    frame = read_attempts(attempts, Tasks(setup.tasks, allow_code), say=say)
    slope, intercept = calibration.fit(frame)
    names = frame["task"].fillna(setup.tasks[0])
    by_task = {}
    if names.nunique() > 1:
        by_task = {name: Platt(*calibration.fit(rows)) for name, rows in frame.groupby(names)}
    unfinish(bundle)
    verifier = replace(setup.verifier, slope=slope, intercept=intercept, by_task=by_task)
    write_setup(replace(setup, verifier=verifier), bundle)
    typer.echo(f"wrote slope {slope:.3f} and intercept {intercept:.3f} to {bundle}/models.json")
    for name, platt in by_task.items():
        typer.echo(f"of the task {name}: slope {platt.slope:.3f} and intercept {platt.intercept:.3f}")
