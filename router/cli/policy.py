"""train, tune, evaluate: attempts → difficulty model, policy → report."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Overwrite, Seed, WrittenBundle, check_unfinished, parse_objective
from router.errors import InvalidFile, InvalidRequest

if TYPE_CHECKING:
    import numpy as np

    from router.training.difficulty import Hidden


class Statistic(StrEnum):
    PASS_RATE = "pass_rate"
    MEAN_SCORE = "mean_score"


class Features(StrEnum):
    AUTO = "auto"
    TEXT = "text"
    HIDDEN = "hidden"


def train(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files, Parquet or JSON Lines.")],
    *,
    bundle: WrittenBundle,
    overwrite: Overwrite = False,
    statistic: Annotated[
        Statistic,
        typer.Option(help="What a prompt's difficulty is: the share of right attempts, or their mean final score."),
    ] = Statistic.PASS_RATE,
    features: Annotated[
        Features,
        typer.Option(
            help="text: the prompt's text only. hidden: the generator's hidden state only. auto: whichever "
            "predicts best; text alone where the generator is not installed."
        ),
    ] = Features.AUTO,
    seed: Seed = 0,
) -> None:
    """Train the difficulty model: five levels, predicted from the prompt.

    Compares the candidates by cross-validation over prompts and keeps the one with the least log-loss. Run
    `router tune` afterwards: a policy is worth nothing under another model's levels.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.schema import read_attempts
    from router.errors import MissingDependency, MissingWeights
    from router.training.difficulty import save_training
    from router.training.difficulty import train as fit

    frame = read_attempts(attempts)
    hidden = None
    if features is not Features.TEXT:
        try:
            hidden = hidden_states(bundle)
        except (MissingDependency, MissingWeights) as error:
            if features is Features.HIDDEN:
                raise
            typer.echo(f"comparing text features only: {error}", err=True)
    model, training = fit(frame, hidden, statistic=statistic.value, features=features.value, seed=seed)
    save_training(model, training, bundle)
    edges = ", ".join(f"{edge:.3g}" for edge in training.edges)
    typer.echo(f"{len(training.prompts)} prompts, levels cut at {statistic.value} {edges}; out of fold:")
    typer.echo(f"{'':18}{'log-loss':>10}{'ECE':>8}{'kappa':>8}{'Spearman':>10}{'accuracy':>10}{'ms':>8}")
    for name, row in training.comparison.items():
        typer.echo(
            f"{name:18}{row['log_loss']:10.3f}{row['ece']:8.3f}{row['kappa']:8.3f}{row['spearman']:10.3f}"
            f"{row['accuracy']:10.3f}{row['milliseconds']:8.2f}{'  ← chosen' if name == training.chosen else ''}"
        )
    typer.echo(f"wrote {bundle}/difficulty.joblib; next: router tune")


def tune(
    attempts: Annotated[
        list[Path], typer.Argument(help="The attempts files of `router train`, and runs of more arms on its prompts.")
    ],
    *,
    bundle: Annotated[Path, typer.Option(help="Folder that `router train` wrote to; the policy goes there.")],
    overwrite: Overwrite = False,
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Sizes at which sampling arms are replayed, in complete solutions, and budgets to report.  "
            "[default: powers of two up to the pools of attempts]"
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            help="Objective of a request that names none: budget=16, average_budget=4, target_accuracy=0.9 or "
            "price_per_flop=1e-13.  [default: the largest budget]"
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracies this close are a tie, which the cheaper arm wins.")
    ] = 0.005,
    seed: Seed = 0,
) -> None:
    """Measure every arm at every level: one table, from which each request's objective takes its arm.

    Majority and best-of-N are replayed from the pools of attempts; every other arm counts where it was really run
    (`router collect --arm`). How the table is made is chosen by cross-validation; tuning.json says what was tried.
    Finishes the bundle.
    """
    check_unfinished(bundle, overwrite)
    from router.attempts.schema import read_attempts
    from router.bundle.models import read_engine
    from router.policy.table import LEVELS, Objective
    from router.training.difficulty import read_training
    from router.tuning.tune import finish_bundle, save_tuning
    from router.tuning.tune import tune as choose

    sizes = None if budgets is None else _budgets(budgets)
    objective = None if default is None else parse_objective(default)
    engine = read_engine(bundle)
    tuning = choose(
        read_attempts(attempts),
        read_training(bundle),
        sizes,
        generator_parameters=engine.generator.parameters,
        verifier_parameters=engine.verifier.parameters,
        larger_parameters=engine.larger.parameters if engine.larger else 0,
        default=objective,
        tolerance=tolerance,
        seed=seed,
    )
    save_tuning(tuning, bundle)
    policy, report = tuning.policy, tuning.report
    finish_bundle(bundle, engine, {"default": str(policy.default), "tune_seed": seed, "tolerance": tolerance})
    for row in report["methods"]:
        mark = "  ← chosen" if row["method"] == report["method"] else ""
        typer.echo(f"{row['method']:56} accuracy {row['accuracy']:.4f}, best fixed {_signed(row)}{mark}")
    for row in report["budgets"]:
        typer.echo(
            f"budget {row['budget']:3}: policy {row['policy']['accuracy']:.3f}, on oracle levels "
            f"{row['oracle']['accuracy']:.3f}, best fixed {row['best_fixed_arm']} {row['best_fixed']['accuracy']:.3f}"
        )
    for level in LEVELS:
        certain = [float(each == level) for each in LEVELS]
        arms = [str(policy.decide(certain, Objective("budget", row["budget"])).arm) for row in report["budgets"]]
        typer.echo(f"level {level}: {', '.join(dict.fromkeys(arms))}")
    for entry in report["left_out"]:
        typer.echo(f"left out: {entry['arm']}: {entry['reason']}")
    typer.echo(f"wrote {bundle}/manifest.json: the bundle is complete")


def evaluate(
    attempts: Annotated[list[Path], typer.Argument(help="Attempts files on prompts never trained or tuned on.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and evaluation.json.")],
    *,
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle; its card is written there.")],
    judged: Annotated[
        Path | None, typer.Option(help="Output of `router judge --json`, for the card's comparison of verifiers.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="One more objective to measure, e.g. target_accuracy=0.85; may be repeated."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON, the last line.")] = False,
) -> None:
    """Evaluate a bundle on held-out attempts: accuracy against generations and FLOPs, savings, and what limits them.

    Every fixed arm, the best fixed arm, and the policy on predicted and on oracle levels, under every objective, each
    with 95% intervals; as JSON and as one HTML page. Writes the bundle's card.md as well.
    """
    from json import dumps, loads

    from router.attempts.schema import read_attempts
    from router.bundle.bundle import load_bundle
    from router.evaluation.card import CARD, card
    from router.evaluation.evaluate import evaluate as measure
    from router.evaluation.page import save_evaluation

    needs_generator = load_bundle(bundle).difficulty.input == "hidden"
    report = measure(
        read_attempts(attempts),
        bundle,
        hidden_states(bundle) if needs_generator else None,
        objectives=[parse_objective(text) for text in objective or ()],
    )
    try:
        results = [loads(line) for line in judged.read_text().splitlines()] if judged else []
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{judged}: {error}; write it with `router judge --json ATTEMPTS... > FILE`") from error
    (bundle / CARD).write_text(card(bundle, report, results))
    written = [*save_evaluation(report, out), bundle / CARD]
    if json:
        typer.echo(dumps(report))
        return
    names = ("majority", "weighted_best_of_n", "best_fixed", "predicted", "predicted_average", "oracle")
    typer.echo(f"{report['prompts']} held-out prompts, bundle {report['bundle']}; accuracy:")
    typer.echo(f"{'budget':8}" + "".join(f"{name:>20}" for name in names))
    for row in report["headline"]:
        cells = [f"{row[name]['accuracy']:.3f}" if row[name] else "not measured" for name in names]
        typer.echo(f"{row['budget']:<8}" + "".join(f"{cell:>20}" for cell in cells))
    for name in ("savings_fixed_budget", "savings_average_budget", "savings_oracle"):
        saved = report[name]
        if saved["target"] is None or "reason" in saved:
            typer.echo(f"{name}: {saved['reason']}")
        else:
            times = [f"{saved[u]['times']:.2f} [{saved[u]['low']:.2f}, {saved[u]['high']:.2f}]" for u in _UNITS]
            typer.echo(f"{name}: {saved['target']['arm']} with {times[0]} times fewer generations, {times[1]} FLOPs")
    for missed in report["limits"]["missed"]:
        typer.echo(f"{missed['goal']} is missed, limited by the {missed['limit']}: {missed['because']}")
    for entry in report["left_out"]:
        typer.echo(f"left out: {entry.get('arm') or entry['policy'] + ' ' + entry['objective']}: {entry['reason']}")
    typer.echo("wrote " + ", ".join(map(str, written)))


_UNITS = ("generations", "flops")


def _signed(row: dict[str, Any]) -> str:
    difference = row["minus_best_fixed"]
    return f"{difference['accuracy']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def hidden_states(folder: Path) -> "Hidden":
    """The embedding of the generator that the folder's engine.json names. Raises MissingDependency, MissingWeights."""
    import asyncio
    from collections.abc import Sequence
    from dataclasses import replace

    import numpy as np

    from router.backends import Usage, VerifierSpec
    from router.bundle.models import load_engines, read_engine

    # Only the generator is asked anything: don't load a second model.
    engine = replace(read_engine(folder), verifier=VerifierSpec("log_prob", None, 0), larger=None)
    generator = load_engines("transformers", engine, folder).generator

    def hidden(prompts: Sequence[str]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        async def embed() -> list[list[float]]:
            try:
                return await generator.embed(prompts, usage=Usage())
            finally:
                await generator.close()

        return np.asarray(asyncio.run(embed()), dtype=np.float32)

    return hidden


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
