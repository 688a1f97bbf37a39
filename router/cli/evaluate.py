"""The command evaluate: makes a report from held-out attempts."""

from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import AllowCode, Vectors, say
from router.errors import InvalidFile


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
    goals: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with a list of goals for the bundle, e.g. "
            '[{"measure": "savings_fixed_budget", "at_least": 4}]; the report says what limits a missed goal.'
        ),
    ] = None,
    tuned_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="Attempts file that `router tune` was given, to compare with the best arm at similar prompts as well; "
            "may be repeated."
        ),
    ] = None,
    vectors: Vectors = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON on the last line.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Evaluate a bundle on held-out attempts: accuracy against generations and FLOPs, savings, and what limits them.

    The report covers every fixed arm, the best fixed arm or cascade, and the policy on predicted and on measured levels
    under every objective, each with 95% intervals. It is written as JSON and as one HTML page, and the bundle's card.md
    as well.
    """
    from json import dumps, loads

    from router.attempts.schema import read_attempts
    from router.bundle.bundle import load_bundle
    from router.cli.policy import vectors_of
    from router.evaluation.card import CARD, card
    from router.evaluation.evaluate import evaluate as measure
    from router.evaluation.goals import read_goals
    from router.evaluation.page import save_evaluation
    from router.evaluation.summary import summary
    from router.policy.objectives import parse_objective
    from router.solving.features import features_of
    from router.tasks import Tasks

    manifest = load_bundle(bundle).manifest
    features = manifest.features
    tasks = Tasks(manifest.setup.tasks, allow_code)
    report = measure(
        read_attempts(attempts, tasks, say=say),
        bundle,
        vectors_of(bundle, features, vectors) if features_of(features).vectors else None,
        tuned_on=read_attempts(tuned_on, tasks, say=say) if tuned_on else None,
        objectives=[parse_objective(text) for text in objective or ()],
        goals=None if goals is None else read_goals(goals),
    )
    try:
        results = [loads(line) for line in judged.read_text().splitlines()] if judged else []
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{judged}: {error}; write it with `router judge --json ATTEMPTS... > FILE`") from error
    (bundle / CARD).write_text(card(bundle, report, results))
    written = [*save_evaluation(report, out), bundle / CARD]
    if json:
        typer.echo(dumps(report.as_json()))
        return
    for line in summary(report):
        typer.echo(line)
    typer.echo("wrote " + ", ".join(map(str, written)))
