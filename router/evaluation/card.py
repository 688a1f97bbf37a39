"""The bundle's card: what was measured, on what, with intervals; for people who decide whether to serve it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.bundle.bundle import read_manifest
from router.evaluation.page import interval, times
from router.policy.table import LEVELS
from router.training.difficulty import read_training
from router.tuning.tune import TUNING

CARD = "card.md"


def card(folder: Path, report: Mapping[str, Any], judged: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown from a complete bundle, its report by ``evaluate``, and verifiers' results by ``judge``."""
    manifest, _ = read_manifest(folder)
    training = read_training(folder)
    tuning = json.loads((folder / TUNING).read_text())
    generator, verifier = manifest.generator, manifest.verifier
    budgets = [row["budget"] for row in report["headline"]]
    sections = [
        f"# {manifest.name}",
        f"Generator `{generator.model}`{_with(generator.adapter)}, {generator.parameters / 1e6:.1f} M parameters, "
        f"temperature {generator.temperature}. Verifier `{verifier.kind}`{_with(verifier.adapter)}. "
        f"Difficulty and policy from {len(training.prompts)} prompts, report on {report['prompts']} held-out ones.\n\n"
        "Intervals are 95%, by bootstrap over prompts. FLOPs are 2 · parameters · tokens of generator and verifier. "
        "The plots and the rest are in `report/report.html`.",
        "## Policy",
        "What it runs for a prompt whose level is certain, under a fixed budget of N complete solutions:",
        _table(
            ["level", *(f"N={budget}" for budget in budgets)],
            [[str(level), *(_cell(report, level, budget) for budget in budgets)] for level in LEVELS],
        ),
        f"The table is made from {report['method']}, which cross-validation on the training prompts preferred.",
        "## On held-out prompts",
        _table(
            ["N", *(name.replace("_", " ") for name in _COLUMNS)],
            [_headline(row) for row in report["headline"]],
        ),
        "Compute saved, predicted levels unless it says oracle:",
        _table(["", "to reach", "generations", "FLOPs"], [row for name in _SAVINGS for row in _savings(report, name)]),
        _limits(report),
        "## Difficulty",
        f"Levels are quintiles of {training.statistic}, cut at "
        f"{', '.join(f'{edge:.3g}' for edge in training.edges)}; prompts by level, easiest first: "
        f"{', '.join(map(str, tuning['levels']['oracle']))} by the attempts, "
        f"{', '.join(map(str, tuning['levels']['predicted']))} as predicted out of fold.",
        _table(
            ["features", "log-loss", "ECE", "kappa", "Spearman", "ms a prompt"],
            [
                [f"**{name}**" if name == training.chosen else name]
                + [f"{row[key]:.3f}" for key in ("log_loss", "ece", "kappa", "spearman")]
                + [f"{row['milliseconds']:.2f}"]
                for name, row in training.comparison.items()
            ],
        ),
    ]
    if judged:
        sections += [
            "## Verifiers",
            "Scores on the same generator's attempts at the held-out prompts; the AUC within prompts and best-of-N "
            "against majority say which one selects.",
            _table(
                [
                    "attempts",
                    "AUC",
                    "AUC within prompts",
                    "by step",
                    "calibration error",
                    "N",
                    "one sample",
                    "majority",
                    "best of N",
                    "weighted",
                    "oracle",
                ],
                [row for result in judged for row in _judged(result)],
            ),
        ]
    return "\n\n".join(sections) + "\n"


def _with(adapter: str | None) -> str:
    return f" with the adapter in `{adapter}/`" if adapter else ""


_COLUMNS = (
    "majority",
    "weighted_best_of_n",
    "best_fixed",
    "predicted",
    "predicted_average",
    "oracle",
    "predicted_minus_best_fixed",
)
_SAVINGS = ("savings_fixed_budget", "savings_average_budget", "savings_oracle")


def _cell(report: Mapping[str, Any], level: int, budget: int) -> str:
    wanted = ("budget", budget, level)
    row = next(row for row in report["map"] if (row["objective"], row["budget"], row["level"]) == wanted)
    return f"{row['arm']}<br>{row['accuracy']:.2f}"


def _headline(row: Mapping[str, Any]) -> list[str]:
    cells = [interval(row[name]) for name in _COLUMNS]
    cells[2] += f"<br>{row['best_fixed_arm']}"
    return [str(row["budget"]), *cells]


def _savings(report: Mapping[str, Any], name: str) -> list[list[str]]:
    return [
        [
            name,
            f"{saved['target']['arm']} ({saved['target']['accuracy']:.3f})",
            *(times(saved, unit) for unit in _UNITS),
        ]
        for saved in (report[name], report[name]["majority"])
        if saved["target"]
    ]


_UNITS = ("generations", "flops")


def _limits(report: Mapping[str, Any]) -> str:
    lines = [
        f"- {goal['goal']}: {goal['value']}, wanted {goal['wanted']}: {'met' if goal['met'] else 'missed'}"
        for goal in report["limits"]["goals"]
    ]
    lines += [
        f"- {missed['goal']} is limited by the {missed['limit']}: {missed['because']}"
        for missed in report["limits"]["missed"]
    ]
    return "\n".join(lines)


def _judged(result: Mapping[str, Any]) -> list[list[str]]:
    names = ("one_sample", "majority", "best_of_n", "weighted_best_of_n", "oracle")
    return [
        [Path(result["file"]).stem, f"{result['auc']:.3f}", f"{result['auc_within']:.3f}"]
        + [" ".join(f"{auc:.2f}" for auc in result["by_step"]), f"{result['ece']:.3f}", n]
        + [f"{row[name]:.3f}" for name in names]
        for n, row in result["best_of"].items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
