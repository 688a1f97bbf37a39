"""The commands diff and estimate: what a new policy changes, and what it would have been worth."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Seed, finite
from router.errors import RouterError
from router.policy.objectives import parse_objective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.prompt import Prompt

_MOST_CELLS = 10  # most cells that are printed; the JSON has all of them


class Reward(StrEnum):
    CORRECT = "correct"
    SCORE = "score"


def diff(
    old: Annotated[Path, typer.Argument(help="A bundle's folder, or a policy.json.")],
    new: Annotated[Path, typer.Argument(help="The bundle's folder or policy.json to compare it with.")],
    *,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="One more objective to compare, e.g. target_accuracy=0.85; may be repeated."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Compare two policies or bundles: which arm is chosen at each level, with its accuracy, interval and cost.

    Compares choices for prompts whose level is certain, at every budget, a few average budgets and both defaults. Warns
    where the two have different levels or models, so that their cells can't be compared. The exit code is 0 where
    nothing differs, 1 where something does, 2 on errors.
    """
    from json import dumps

    from router.evaluation.diff import diff as compare
    from router.evaluation.diff import read_side

    try:
        report = compare(read_side(old), read_side(new), [parse_objective(text) for text in objective or ()])
    except RouterError as error:
        typer.echo(f"router: {error}", err=True)
        raise typer.Exit(2) from error
    if json:
        typer.echo(dumps(report))
    else:
        _print_diff(report)
    raise typer.Exit(0 if report["same"] else 1)


def estimate(
    new: Annotated[Path, typer.Argument(help="The policy to value: a bundle's folder, or a policy.json.")],
    outcomes: Annotated[
        str,
        typer.Option(
            envvar="ROUTER_OUTCOMES",
            help="Database written by serve --outcomes with --explore: sqlite:///outcomes.db, or a "
            "postgresql+psycopg URL.",
        ),
    ],
    *,
    reward: Annotated[
        Reward, typer.Option(help="Value of an answer: whether it was recorded as correct, or its score.")
    ] = Reward.CORRECT,
    unsupported: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Largest share of decisions that may go to arms that were never explored.",
        ),
    ] = 0.05,
    seed: Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Estimate from recorded outcomes what a policy that never served would have been worth, and have cost.

    A logged decision for which the new policy takes the arm that ran counts 1 / (that arm's probability) times. ips is
    the mean of these outcomes, snips divides it by the mean of the weights, direct is a model of outcomes alone, and dr
    is that model corrected by its weighted errors. Trust dr and snips where they agree, and none of them where the
    effective sample size is small. A policy.json is assumed to be for the recorded levels. A bundle with another
    difficulty model predicts its own levels, for which prompts must be recorded. Refuses where the new policy's arms
    were never explored.
    """
    from json import dumps

    from router.bundle.bundle import load_bundle
    from router.cli.policy import vectors_of
    from router.evaluation.diff import read_side
    from router.evaluation.off_policy import estimate as value
    from router.solving.features import features_of

    policy, levels_by, predict_levels = read_side(new).policy, None, None
    if new.is_dir():
        bundle = load_bundle(new)
        policy, levels_by = bundle.policy, bundle.levels_by

        def predict_levels(prompts: "Sequence[Prompt]") -> Any:
            features = bundle.manifest.features
            vectors = features_of(features).vectors
            read = vectors_of(new, features)(prompts) if vectors else [prompt.question for prompt in prompts]
            return bundle.difficulty.predict_proba(read)

    report = value(
        outcomes,
        policy,
        levels_by=levels_by,
        predict_levels=predict_levels,
        outcome=reward.value,
        unsupported=unsupported,
        seed=seed,
    )
    if json:
        typer.echo(dumps(report))
    else:
        _print_estimate(report)


def _print_estimate(report: dict[str, Any]) -> None:
    typer.echo(
        f"{report['used']} of {report['decisions']} decisions, {report['first'][:10]} to {report['last'][:10]}, by "
        + ", ".join(report["bundles"])
    )
    for reason, count in report["left_out"].items():
        typer.echo(f"left out: {count} {reason}")
    typer.echo(
        f"the new policy takes another arm at {report['changed']:.1%} of them; the log tells as much about it as "
        f"{report['effective']:.0f} decisions of its own would (effective sample size)"
    )
    tables = {report["outcome"]["of"]: report["outcome"], **report["cost"]}
    for of, table in tables.items():
        typer.echo(f"{of.replace('_', ' ')} of a call")
        for name in (name for name in _VALUES if name in table):
            form = ("+" if name == "gain" else "") + (".3g" if of in report["cost"] else ".3f")
            typer.echo(f"  {_VALUES[name]:38}{_valued(table[name], form)}")
    for warning in report["warnings"]:
        typer.echo(f"warning: {warning}")


_VALUES = {
    "logged": "as logged, exploring included",
    "before": "policy that served, without exploring",
    "dr": "new policy, doubly robust",
    "snips": "new policy, self-normalised",
    "ips": "new policy, inverse propensity",
    "direct": "new policy, by the model alone",
    "gain": "new less before, doubly robust",
}


def _valued(row: dict[str, Any], form: str) -> str:
    if row["value"] is None:
        return "unknown: it never took an arm that ran"
    return f"{row['value']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def _print_diff(report: dict[str, Any]) -> None:
    if report["same"]:
        whose = "policy" if report["comparable"] is None else "levels, models and policy"
        typer.echo(f"same {whose}: {report['old']} and {report['new']}")
        return
    typer.echo(f"--- {report['old']}\n+++ {report['new']}")
    if report["comparable"] is None:
        typer.echo("a policy file doesn't say which difficulty model it is for: the same one is assumed")
    elif not report["comparable"]:
        typer.echo(
            "levels or models differ, so cells of one can't be compared with those of the other; both are only listed"
        )
    for row in (*report["models"], *report["settings"]):
        typer.echo(f"{row['name']}: {_setting(row['old'])} → {_setting(row['new'])}")
    for sign, arms in (("-", report["arms_removed"]), ("+", report["arms_added"])):
        for arm in arms:
            typer.echo(f"{sign} arm {arm}")
    choices, cells = report["choices"], report["cells"]
    typer.echo(f"\n{len(choices['changed'])} of {choices['compared']} choices differ")
    for row in choices["changed"]:
        typer.echo(f"{_task(row)}level {row['level']}, {_objective(row)}")
        for sign, cell in (("-", row["old"]), ("+", row["new"])):
            typer.echo(f"  {sign} {cell['arm']:31} {_cell(cell)}" if cell else f"  {sign} refused: out of range")
        if row["explained"]:
            typer.echo(f"    {row['explained']}")
    if cells["changed"]:
        _print_cells(cells)


def _print_cells(cells: dict[str, Any]) -> None:
    both = cells["same"] + len(cells["changed"])
    remeasured = [row for row in cells["changed"] if not row["seconds_only"]]
    if timed := len(cells["changed"]) - len(remeasured):
        typer.echo(f"\nseconds alone differ in {timed} of {both} cells in both")
    if remeasured:
        apart = [row for row in remeasured if row["apart"]]
        most = max(abs(row["new"]["accuracy"] - row["old"]["accuracy"]) for row in remeasured)
        typer.echo(
            f"\n{len(remeasured)} of {both} cells in both were measured otherwise, accuracy by up to {most:.3f}; "
            f"{len(apart)} of them beyond an interval"
        )
        apart.sort(key=lambda row: -abs(row["new"]["accuracy"] - row["old"]["accuracy"]))
        for row in apart[:_MOST_CELLS]:
            typer.echo(
                f"{_task(row)}level {row['level']}, {row['arm']}\n  - {_cell(row['old'])}\n  + {_cell(row['new'])}"
            )
        if apart[_MOST_CELLS:]:
            typer.echo(f"and {len(apart) - _MOST_CELLS} more: see --json")


def _setting(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):  # (average budget, price) pairs
        return f"{value[0][0]:g} to {value[-1][0]:g} in {len(value)} steps"
    return "none" if value in (None, []) else str(value)


def _task(row: dict[str, Any]) -> str:
    return f"task {row['task']}, " if row["task"] else ""


def _objective(row: dict[str, Any]) -> str:
    return row["objective"] if row["upto"] in (None, row["value"]) else f"{row['objective']} to {row['upto']:g}"


def _cell(cell: dict[str, Any]) -> str:
    return (
        f"{cell['accuracy']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}] on {cell['prompts']:.0f} prompts,"
        f" {cell['generations']:.1f} generations, {cell['flops']:.3g} FLOPs"
    )
