"""The bundle's card: what was measured, on what, with intervals; for people who decide whether to serve it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from router.bundle import read_manifest
from router.offline.train import read_training
from router.offline.tune import TUNING
from router.policy import LEVELS, Policy

CARD = "card.md"


def card(folder: Path, report: Mapping[str, Any], judged: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown from a complete bundle, its report by ``evaluate``, and verifiers' results by ``judge``."""
    manifest, _ = read_manifest(folder)
    training = read_training(folder)
    tuning = json.loads((folder / TUNING).read_text())
    policy = Policy.loads((folder / "policy.json").read_text())
    generator, verifier = manifest.generator, manifest.verifier
    arms = {level: sorted({str(cell.arm) for cell in policy.cells if cell.level == level}) for level in LEVELS}
    sections = [
        f"# {manifest.name}",
        f"Generator `{generator.model}`{_with(generator.adapter)}, {generator.parameters / 1e6:.1f} M parameters, "
        f"temperature {generator.temperature}. Verifier `{verifier.kind}`{_with(verifier.adapter)}. "
        f"Difficulty and policy from {len(training.prompts)} prompts, report on {report['prompts']} held-out ones.\n\n"
        "Intervals are 95%, by bootstrap over prompts. FLOPs are 2 · parameters · tokens of generator and verifier.",
        "## Policy",
        _table(
            ["level", *(f"N={budget}" for budget in policy.budgets)],
            [[str(level), *(_cell(policy, level, budget) for budget in policy.budgets)] for level in LEVELS],
        ),
        "Accuracy is by two-fold cross-validation within the level. "
        f"{len(set().union(*arms.values()))} different arms are chosen in all.",
        "## On held-out prompts",
        _table(
            [
                "N",
                "majority",
                "best of N",
                "weighted",
                "best fixed arm",
                "policy",
                "policy, oracle levels",
                "policy − fixed",
            ],
            [_headline(row) for row in report["headline"]],
        ),
        _savings(report["savings_fixed_budget"]),
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


def _cell(policy: Policy, level: int, budget: int) -> str:
    cell = policy.choose(level, budget)
    return f"{cell.arm}<br>{cell.accuracy:.2f} [{cell.low:.2f}, {cell.high:.2f}]"


def _headline(row: Mapping[str, Any]) -> list[str]:
    names = ("majority", "best_of_n", "weighted_best_of_n", "best_fixed", "predicted", "oracle")
    cells = [_interval(row[name]) for name in (*names, "predicted_minus_best_fixed")]
    cells[3] += f"<br>{row['best_fixed_arm']}"
    return [str(row["budget"]), *cells]


def _interval(point: Mapping[str, float] | None) -> str:
    return f"{point['accuracy']:.3f} [{point['low']:.3f}, {point['high']:.3f}]" if point else "not measured"


def _savings(savings: Mapping[str, Any]) -> str:
    if savings["target"] is None:
        return f"No savings to report: {savings['reason']}."
    lines = [f"To reach {savings['target']['arm']} ({savings['target']['accuracy']:.3f}):"]
    for name in ("best_fixed", "predicted", "oracle"):
        entry = savings[name]
        if entry.get("times_fewer_generations") is None:
            lines.append(f"- {name}: {entry['reason']}")
        else:
            lines.append(
                f"- {name}: {entry['times_fewer_generations']:.2f} times fewer generations "
                f"{entry['generations_interval']}, {entry['times_fewer_flops']:.2f} times fewer FLOPs "
                f"{entry['flops_interval']}, reached in {entry['reached_in_resamples']:.0%} of the resamples"
            )
    return "\n".join(lines)


def _judged(result: Mapping[str, Any]) -> list[list[str]]:
    names = ("one_sample", "majority", "best_of_n", "weighted_best_of_n", "oracle")
    return [
        [Path(result["file"]).stem, f"{result['auc']:.3f}", f"{result['auc_within']:.3f}", n]
        + [f"{row[name]:.3f}" for name in names]
        for n, row in result["best_of"].items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
