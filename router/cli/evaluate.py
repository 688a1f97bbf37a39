"""evaluate: held-out attempts → report."""

from pathlib import Path
from typing import Annotated

import typer

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
    json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON, the last line.")] = False,
) -> None:
    """Evaluate a bundle on held-out attempts: accuracy against generations and FLOPs, savings, and what limits them.

    Every fixed arm, the best fixed arm, and the policy on predicted and on oracle levels, under every objective, each
    with 95% intervals; as JSON and as one HTML page. Writes the bundle's card.md as well.
    """
    from json import dumps, loads

    from router.attempts.schema import read_attempts
    from router.bundle.bundle import load_bundle
    from router.cli.policy import vectors_of
    from router.evaluation.card import CARD, card
    from router.evaluation.evaluate import evaluate as measure
    from router.evaluation.page import save_evaluation
    from router.policy.objectives import parse_objective
    from router.solving.features import features_of

    features = load_bundle(bundle).manifest.features
    report = measure(
        read_attempts(attempts),
        bundle,
        vectors_of(bundle, features) if features_of(features).vectors else None,
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
