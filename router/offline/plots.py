"""The plots of an evaluation, from the numbers in its ``figures.json``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display: evaluation runs on servers
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Routed curves stand out; fixed arms share a muted palette.
_ROUTED: dict[str, dict[str, Any]] = {
    "predicted": {"label": "policy, predicted levels", "color": "#c1121f", "lw": 2.6, "marker": "o", "zorder": 5},
    "oracle": {"label": "policy, oracle levels", "color": "#2a7f3f", "lw": 2.0, "marker": "s", "ls": "--", "zorder": 4},
    "best_fixed": {"label": "best fixed arm", "color": "black", "lw": 1.6, "marker": "D", "ls": ":", "zorder": 4},
}
_MUTED = ["#5b8db8", "#e0a458", "#8d7fb5", "#7fb5a6", "#b57f93", "#9c9c6b", "#7c7c7c", "#b8925b"]


def draw(figures: Mapping[str, Any], out: Path) -> list[Path]:
    """Accuracy against budget, accuracy against FLOPs, accuracy by level, as PNG."""
    written = []
    for name, x, label in (
        ("accuracy_budget", "budget", "generation budget (complete solutions)"),
        ("accuracy_flops", "flops", "FLOPs a prompt: generator, verifier and difficulty model"),
    ):
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        _curves(axes, figures["series"], x)
        axes.set(xlabel=label, ylabel=f"accuracy on {figures['prompts']} held-out prompts")
        axes.set_title(f"{figures['bundle']}: 95% intervals shaded", fontsize=10)
        written.append(_save(figure, out / f"{name}.png"))
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    _bars(axes, [row for row in figures["per_level"] if row["by"] == "oracle"])
    axes.set_title(f"{figures['bundle']}: each strategy at its largest budget, 95% intervals", fontsize=10)
    written.append(_save(figure, out / "accuracy_level.png"))
    return written


def _curves(axes: Axes, series: Mapping[str, Any], x: str) -> None:
    fixed = iter(_MUTED * 4)
    for name in [*(name for name in series if name not in _ROUTED), *(name for name in _ROUTED if name in series)]:
        style = _ROUTED.get(name) or {"label": name, "color": next(fixed), "lw": 1.3, "marker": "."}
        points = sorted(series[name], key=lambda point: point[x])
        at, accuracy, low, high = ([point[key] for point in points] for key in (x, "accuracy", "low", "high"))
        axes.plot(at, accuracy, **style)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.14 if name == "predicted" else 0.05, lw=0)
    axes.set_xscale("log", base=2 if x == "budget" else 10)
    if x == "budget":
        ticks = sorted({point["budget"] for points in series.values() for point in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _bars(axes: Axes, rows: list[Mapping[str, Any]]) -> None:
    largest: dict[str, str] = {}
    for row in rows:  # in order of budget within each strategy
        largest[row["arm"].partition("(")[0]] = row["arm"]
    arms = list(dict.fromkeys(["majority(n=1)", *largest.values()]))
    width = 0.84 / len(arms)
    for i, arm in enumerate(arms):
        found = [row for row in rows if row["arm"] == arm]
        at = [row["level"] + (i - (len(arms) - 1) / 2) * width for row in found]
        accuracy = [row["accuracy"] for row in found]
        errors = [
            [max(0.0, row["accuracy"] - row["low"]) for row in found],
            [max(0.0, row["high"] - row["accuracy"]) for row in found],
        ]
        color = "#c9c9c9" if i == 0 else _MUTED[(i - 1) % len(_MUTED)]
        axes.bar(at, accuracy, width * 0.92, label=arm, color=color, yerr=errors, ecolor="#444444", capsize=2)
    counts = {row["level"]: row["prompts"] for row in rows}
    axes.set_xticks(list(counts), [f"level {level}\n{count} prompts" for level, count in counts.items()])
    axes.set(ylabel="accuracy", xlabel="level by held-out statistic (1 easiest)")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path
