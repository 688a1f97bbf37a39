"""Writes the bundle's card: what was measured, on what, with intervals. It helps decide whether to serve the bundle."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.backends.specs import Setup
from router.bundle.manifest import read_manifest
from router.evaluation.page import render
from router.evaluation.parts import Estimate
from router.evaluation.report import Report
from router.policy.table import LEVELS
from router.training.difficulty import read_training
from router.tuning.tune import TUNING

CARD = "card.md"


def card(folder: Path, report: Report, judged: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the card as Markdown, from a complete bundle, ``evaluate``'s report, and ``judge``'s verifier results."""
    manifest, _ = read_manifest(folder)
    return render(
        "card.md",
        name=manifest.name,
        models=_models(manifest.setup),
        training=read_training(folder),
        tuning=json.loads((folder / TUNING).read_text()),
        report=report,
        budgets=[f"N={row.budget}" for row in report.budgets],
        choices=_choices(report),
        judged=[_judged(result) for result in judged],
    )


def _judged(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """A verifier's results with the file's name, and what best-of-N gains on majority where `judge` measured that."""
    best_of = {
        n: {**row, "gain": Estimate(**row["above_majority"]["best_of_n"]) if "above_majority" in row else None}
        for n, row in result["best_of"].items()
    }
    return {**result, "name": Path(result["file"]).stem, "best_of": best_of}


def _models(setup: Setup) -> list[str]:
    """Return a sentence for each model, the reference model first."""
    names = sorted(setup.models, key=lambda name: name != setup.reference)
    sentences = [
        f"Model `{name}`: `{spec.model}`{_with(spec.adapter)}, {spec.parameters / 1e6:.1f} M parameters, temperature "
        f"{spec.temperature:g}."
        for name, spec in ((name, setup.models[name]) for name in names)
    ]
    return [
        *sentences,
        f"Verifier: `{setup.verifier.kind}`{_with(setup.verifier.adapter)}. Task: `{', '.join(setup.tasks)}`.",
    ]


def _with(adapter: str | None) -> str:
    return f" with the adapter in `{adapter}/`" if adapter else ""


def _choices(report: Report) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """Return for each table, by task, for each level, for each fixed budget, a text with the arm and its accuracy."""
    fixed = [choice for choice in report.choices if choice.objective == "budget"]
    return [
        (
            task,
            [
                (
                    level,
                    [
                        f"{each.arm}<br>{each.accuracy:.2f}"
                        for each in fixed
                        if (each.task, each.level) == (task, level)
                    ],
                )
                for level in LEVELS
            ],
        )
        for task in dict.fromkeys(each.task for each in fixed)
    ]
