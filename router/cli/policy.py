"""The commands train, tune and time, which make the difficulty model and the policy from attempts."""

from enum import StrEnum
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import AllowCode, Overwrite, Seed, Vectors, Written, check_unfinished, finite, read_arm, say
from router.errors import InvalidBundle, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from router.prompt import Prompt
    from router.training.difficulty import Vectors as VectorsOfPrompts
    from router.training.difficulty import VectorsByName


class Statistic(StrEnum):
    PASS_RATE = "pass_rate"
    MEAN_SCORE = "mean_score"


def train(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files, Parquet or JSON Lines.")],
    *,
    bundle: Written,
    overwrite: Overwrite = False,
    statistic: Annotated[
        Statistic,
        typer.Option(help="Measure of a prompt's difficulty: the share of right attempts, or their mean final score."),
    ] = Statistic.PASS_RATE,
    features: Annotated[
        str,
        typer.Option(
            help="Features that candidates may use, if they predict better: text (the prompt's text only), hidden "
            "(also the reference model's hidden states at several layers and positions; loads the model), or certain "
            "ones, such as 'hidden(layer=16, position=last+mean)'."
        ),
    ] = "text",
    vectors: Vectors = None,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Train the difficulty model, which predicts a prompt's level, one of five.

    Compares candidates by cross-validation over prompts, and keeps the one with the lowest log-loss. Run `router tune`
    afterwards, since a policy is only valid with the levels that it was tuned on.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.schema import read_attempts
    from router.bundle.setup import read_setup
    from router.tasks import Tasks
    from router.training.difficulty import know, save_training
    from router.training.difficulty import train as fit
    from router.tuning.warnings import of_training

    frame = read_attempts(attempts, Tasks(read_setup(bundle).tasks, allow_code), say=say)
    model, training = fit(frame, _vectors_tried(bundle, features, vectors), statistic=statistic.value, seed=seed)
    familiarity = know(frame, seed=seed)
    save_training(model, training, bundle, familiarity)
    edges = ", ".join(f"{edge:.3g}" for edge in training.edges)
    typer.echo(f"{len(training.prompts)} prompts, levels cut at {statistic.value} {edges}; out of fold:")
    width = max(18, 1 + max(map(len, training.comparison)))
    typer.echo(f"{'':{width}}{'log-loss':>10}{'ECE':>8}{'kappa':>8}{'Spearman':>10}{'accuracy':>10}{'ms':>8}")
    for name, row in training.comparison.items():
        typer.echo(
            f"{name:{width}}{row['log_loss']:10.3f}{row['ece']:8.3f}{row['kappa']:8.3f}{row['spearman']:10.3f}"
            f"{row['accuracy']:10.3f}{row['milliseconds']:8.2f}{'  ← chosen' if name == training.chosen else ''}"
        )
    if familiarity:
        typer.echo(
            f"a prompt is unfamiliar if more than {familiarity.most_unknown:.0%} of its words are in no training "
            f"prompt, or its form is new; out of fold, {familiarity.false_alarms:.1%} of the training prompts are"
        )
    for text in of_training(training, frame):
        say(f"warning: {text}")
    typer.echo(f"wrote {bundle}/difficulty.joblib; next: router tune")


def tune(
    attempts: Annotated[
        list[Path], typer.Argument(help="The attempts files of `router train`, and runs of other arms on its prompts.")
    ],
    *,
    bundle: Annotated[Path, typer.Option(help="Folder that `router train` wrote to; the policy goes there.")],
    overwrite: Overwrite = False,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Budgets at which sampling arms are replayed, and which are reported, in complete solutions.  "
            "[default: powers of two up to the number of attempts]"
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            help="Objective of a request that names none: budget=16, average_budget=4, target_accuracy=0.9 or "
            "price_per_flop=1e-13.  [default: the largest budget]"
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help='Also measure this arm, e.g. a cascade of arms that were run: "single @0.7 > beam_search(n=4, m=4)". '
            "Repeatable."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=finite, help="Accuracies that differ by less are a tie, which the cheaper arm wins."
        ),
    ] = 0.005,
    cascades: Annotated[
        bool, typer.Option(help="Try cascades of the arms that were run, and keep those that improve the policy.")
    ] = True,
    seed: Seed = 0,
    allow_code: AllowCode = False,
) -> None:
    """Measure every arm at every level. The resulting table is the policy, from which requests get their arms.

    Majority and best-of-N are replayed from independent attempts. Every other arm must have been run (`router collect
    --arm`). How the table is made is chosen by cross-validation, and tuning.json says what was tried. Finishes the
    bundle.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.schema import read_attempts
    from router.bundle.setup import read_setup
    from router.policy.objectives import Budget, parse_objective
    from router.policy.table import LEVELS
    from router.tasks import Tasks
    from router.training.difficulty import read_training
    from router.tuning.evidence import named
    from router.tuning.finish import finish_bundle, former_policy, save_tuning
    from router.tuning.tune import tune as choose
    from router.tuning.warnings import of_lost_seconds

    sizes = None if budgets is None else _budgets(budgets)
    objective = None if default is None else parse_objective(default)
    setup = read_setup(bundle)
    tuning = choose(
        read_attempts(attempts, Tasks(setup.tasks, allow_code), say=say),
        read_training(bundle),
        sizes,
        setup=setup,
        arms=[read_arm(text).referring(setup.reference) for text in arm or []],
        default=objective,
        tolerance=tolerance,
        cascades=cascades,
        seed=seed,
    )
    policy, report = tuning.policy, tuning.report
    lost = of_lost_seconds(former_policy(bundle), policy, bundle)
    save_tuning(tuning, bundle)
    finish_bundle(bundle, setup, {"default": str(policy.default), "tune_seed": seed, "tolerance": tolerance})
    for row in report["methods"]:
        mark = "  ← chosen" if row["method"] == report["method"] else ""
        typer.echo(f"{row['method']:56} accuracy {row['accuracy']:.4f}, best fixed {_signed(row)}{mark}")
    if tasks := report["by_task"]:
        typer.echo(_of_tasks(tasks))
    for row in report["budgets"]:
        typer.echo(
            f"budget {row['budget']:3}: policy {row['policy']['accuracy']:.3f}, on oracle levels "
            f"{row['oracle']['accuracy']:.3f}, best fixed {row['best_fixed_arm']} {row['best_fixed']['accuracy']:.3f}"
        )
    tried = report["cascades"]
    typer.echo(
        f"cascades: {tried['tried']} tried, {tried['kept']} kept, made of {', '.join(tried['made_of']) or 'nothing'}"
    )
    if found := report["confidence"]:
        typer.echo(_of_confidence(found))
    for row in report["average_budgets"]:
        for name, gain in row["gains"].items():
            way = row["ways"][name]
            typer.echo(
                f"average budget {row['budget']:3}: policy {row['ways']['policy']['accuracy']:.3f} at "
                f"{row['ways']['policy']['generations']:.2f}, {name.replace('_', ' ')} {way['accuracy']:.3f} at "
                f"{way['generations']:.2f}: {gain['accuracy']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
            )
    for task, table in policy.by_task(setup.tasks).items():
        for level in LEVELS:
            certain = [float(each == level) for each in LEVELS]
            arms = [str(table.decide(certain, Budget(row["budget"])).arm) for row in report["budgets"]]
            typer.echo(f"{task}{' ' * bool(task)}level {level}: {', '.join(dict.fromkeys(arms))}")
    for entry in report["left_out"]:
        typer.echo(f"left out: {entry['arm']}: {entry['reason']}")
    for entry in report["prompts_left_out"]:
        typer.echo(f"left out: {named(entry)}: {entry['reason']}")
    for text in report["warnings"]:
        say(f"warning: {text}")
    if lost:
        say(f"warning: {lost}")
    doubt = ", but on thin evidence: see the warnings" * bool(report["warnings"])
    typer.echo(f"wrote {bundle}/manifest.json: the bundle is complete{doubt}")


def time(
    attempts: Annotated[
        list[Path],
        typer.Argument(
            help="Attempts made with `router collect --one-by-one` on the machine that serves, at a few dozen prompts; "
            "right answers need not be known."
        ),
    ],
    *,
    bundle: Annotated[Path, typer.Option(help="Finished bundle, whose policy gets the seconds.")],
    vectors: Vectors = None,
    allow_code: AllowCode = False,
) -> None:
    """Put into the policy how long its arms take on this machine, which objectives with max_seconds go by.

    Nothing else of the policy changes, but the bundle's digest does. An arm has no seconds where the attempts lack it,
    a stage of it, or a pool as large as it is; collect the same arms as for `router tune`, and `single`.
    """
    from router.attempts.schema import read_attempts
    from router.bundle.bundle import load_bundle
    from router.solving.features import features_of
    from router.tasks import Tasks
    from router.tuning.evidence import by_reason, named
    from router.tuning.timing import save_timed, timed

    loaded = load_bundle(bundle)
    features = loaded.manifest.features
    frame = read_attempts(attempts, Tasks(loaded.setup.tasks, allow_code), say=say)
    policy, measured = timed(
        loaded,
        frame,
        vectors_of(bundle, features, vectors) if features_of(features).vectors else None,
    )
    save_timed(policy, loaded, len(measured.prompts))
    typer.echo(f"{len(measured.prompts)} prompts timed; mean seconds at level 1 and at level 5:")
    for task, table in policy.by_task(loaded.setup.tasks).items():
        easiest, hardest = (table.expected("seconds", level) for level in ((1.0, 0, 0, 0, 0), (0, 0, 0, 0, 1.0)))
        if all(map(isnan, easiest)):
            say(f"warning: no prompt of the task {task} was timed, so max_seconds is refused there")
            continue
        for arm, least, most in zip(policy.arms, easiest, hardest, strict=True):
            known = f"{'unknown':>16}" if isnan(least) else f"{least:8.2f}{most:8.2f}"
            typer.echo(f"{known}  {task}{' ' * bool(task)}{arm}")
    ours = set(map(str, policy.arms))
    for entry in measured.left_out:
        if entry["arm"] in ours:
            typer.echo(f"unknown: {entry['arm']}: {entry['reason']}")
    for entry in by_reason(measured.left_out_prompts):
        typer.echo(f"left out: {named(entry)}: {entry['reason']}")
    if untimed := int(frame["seconds"].isna().sum()):
        say(f"warning: `seconds` is null for {untimed} of {len(frame)} attempts; their arms have no seconds there")
    typer.echo(f"wrote {bundle}/policy.json and manifest.json")


def _of_confidence(found: dict[str, Any]) -> str:
    """Say which confidence model is kept, and how well each predicts."""
    kinds = {
        "plain": "without the solution's length and log-probability",
        "solution": "with both",
        "by_task": "with both and by task",
    }
    told = ", ".join(f"{kinds[kind]} {loss:.4f}" for kind, loss in found["log_loss"].items())
    return f"confidence: the model {kinds[found['kept']]} is kept; log-loss by cross-validation: {told}"


def _of_tasks(row: dict[str, Any]) -> str:
    """Say whether tasks have tables of their own, and what these are worth."""
    gains = [
        f"{gain['accuracy']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        for gain in (row["at_equal_flops"], row["within_budgets"])
    ]
    served = "a table for each task is kept" if row["served"] else "one table for all tasks is kept"
    tasks = ", ".join(f"{task} ({count} prompts)" for task, count in row["prompts"].items())
    return f"{served}: tables for {tasks} change accuracy by {gains[0]} at equal FLOPs, {gains[1]} within budgets"


def _signed(row: dict[str, Any]) -> str:
    difference = row["minus_best_fixed"]
    return f"{difference['accuracy']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def vectors_of(folder: Path, features: str, kept_in: Path | None = None) -> "VectorsOfPrompts":
    """Return a function that reads prompts' features with the folder's reference model.

    Raises MissingDependency, MissingWeights.
    """
    by_name = vectors_by_name(folder, [features], kept_in)
    return lambda prompts: by_name(prompts)[features]


def _vectors_tried(folder: Path, features: str, kept_in: Path | None) -> "VectorsByName | None":
    from router.solving.features import FEATURES, features_of, tried

    names = tried(features)
    try:
        vectors = all(features_of(name).vectors for name in names)
    except InvalidBundle as error:  # no bundle has named them yet
        why = error.__cause__ or f"this router knows {', '.join(FEATURES)}"
        raise InvalidRequest("features", f"--features {features!r}: {why}", reason="UNSPECIFIED") from error
    return vectors_by_name(folder, names, kept_in) if vectors else None


def vectors_by_name(folder: Path, names: "Sequence[str]", kept_in: Path | None) -> "VectorsByName":
    """As :func:`vectors_of` for several kinds of features, all read in one pass over a prompt."""
    import asyncio

    from router.backends import Usage
    from router.backends.registry import load_reference
    from router.backends.specs import Deployment
    from router.bundle.setup import read_setup
    from router.solving.features import read_vectors
    from router.training.vectors import kept

    setup = read_setup(folder)

    def vectors(prompts: "Sequence[Prompt]") -> "dict[str, NDArray[np.float32]]":
        engines = load_reference(setup, folder, Deployment())

        async def read() -> "dict[str, NDArray[np.float32]]":
            try:
                return await read_vectors(names, prompts, engines, Usage())
            finally:
                await engines.close()

        return asyncio.run(read())

    return vectors if kept_in is None else kept(kept_in, names, setup.main.model, vectors)


def _budgets(text: str) -> list[int]:
    try:
        budgets = sorted({int(part) for part in text.split(",")})
    except ValueError:
        budgets = [0]
    if budgets[0] < 1:
        raise InvalidRequest(
            "budgets", f"--budgets {text!r}: write whole numbers from 1, like 1,2,4,8,16", reason="UNSPECIFIED"
        )
    return budgets
