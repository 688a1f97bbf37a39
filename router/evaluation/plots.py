"""The plots of an evaluation, from the numbers in its report."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display: evaluation runs on servers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Policies stand out; fixed arms share a muted palette.
POLICIES: Mapping[str, dict[str, Any]] = {
    "predicted": {"label": "policy, fixed budget", "color": "#c1121f", "lw": 2.6, "marker": "o", "zorder": 6},
    "predicted_average": {"label": "policy, average budget", "color": "#e07a1f", "lw": 2.2, "marker": "v", "zorder": 5},
    "oracle": {"label": "oracle levels, fixed budget", "color": "#2a7f3f", "lw": 1.6, "marker": "s", "ls": "--"},
    "oracle_average": {
        "label": "oracle levels, average budget",
        "color": "#7cb518",
        "lw": 1.4,
        "marker": "^",
        "ls": "--",
    },
    "best_fixed": {"label": "best fixed arm", "color": "black", "lw": 1.8, "marker": "D", "ls": ":", "zorder": 4},
}
_MUTED = ["#5b8db8", "#8d7fb5", "#7fb5a6", "#b57f93", "#9c9c6b", "#7c7c7c", "#b8925b", "#4f6d7a"]
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False}
_STYLE |= {"axes.spines.right": False}


def draw(report: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures by name; ``revision`` and ``larger`` only where they were measured."""
    with mpl.rc_context(_STYLE):
        figures = {
            "generations": _curves(report, "generations", "generations a prompt (complete solutions' worth)"),
            "flops": _curves(report, "flops", "FLOPs a prompt: generator, verifier and estimator"),
            "levels": _bars(report["per_level"]),
            "map": _map(report["map"]),
        }
        if report["revision"]:
            figures["revision"] = _revision(report["revision"])
        if report["larger"]:
            figures["larger"] = _larger(report["larger"])
    return figures


def svg(figure: Figure, name: str) -> str:
    """To be put into a page; ``name`` keeps the ids of several figures apart."""
    text = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "<svg" + text.getvalue().partition("<svg")[2]


def _curves(report: Mapping[str, Any], x: str, label: str) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    fixed = iter(_MUTED * 9)
    for name, points in report["curves"].items():
        if not points:
            continue
        style = POLICIES.get(name) or {"label": name, "color": next(fixed), "lw": 1.1, "marker": ".", "alpha": 0.9}
        ordered = sorted(points, key=lambda point: point[x])
        at, accuracy, low, high = ([point[key] for point in ordered] for key in (x, "accuracy", "low", "high"))
        axes.plot(at, accuracy, ms=4 if len(at) > 1 else 9, **style)
        if name in ("predicted", "weighted_best_of_n"):
            axes.fill_between(at, low, high, color=style["color"], alpha=0.1, lw=0)
    axes.set_xscale("log", base=2 if x == "generations" else 10)
    if x == "generations":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=label, ylabel=f"accuracy on {report['prompts']} held-out prompts")
    axes.grid(alpha=0.25)
    _legend(axes)
    return figure


def _bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a level; a group a strategy, its budgets from light to dark."""
    levels = sorted({row["level"] for row in rows})
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(11, 1.6 * len(levels) + 1), layout="constrained")
    panels = figure.subplots(len(levels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, level in zip(panels, levels, strict=True):
        for group, family in enumerate(families):
            bars = sorted(
                (row for row in rows if row["level"] == level and row["family"] == family),
                key=lambda row: row["budget"],
            )
            width = 0.84 / len(bars)
            for i, row in enumerate(bars):
                errors = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
                at = group + (i - (len(bars) - 1) / 2) * width
                color = _MUTED[group % len(_MUTED)]
                axes.bar(
                    at,
                    row["accuracy"],
                    min(width, 0.3) * 0.92,
                    color=color,
                    alpha=0.35 + 0.65 * (i + 1) / len(bars),
                    yerr=[[max(0, e[0])] for e in errors],
                    ecolor="#555555",
                    error_kw={"lw": 0.6},
                )
                axes.text(at, 0.01, str(row["budget"]), ha="center", va="bottom", fontsize=6)
        axes.set(ylabel=f"level {level}", ylim=(0, 1.02))
        axes.grid(axis="y", alpha=0.25)
    panels[-1].set_xticks(range(len(families)), families, rotation=20, ha="right")
    return figure


def _map(rows: Sequence[Mapping[str, Any]]) -> Figure:
    strategies = sorted({row["arm"].partition("(")[0] for row in rows})
    color = {name: _MUTED[i % len(_MUTED)] for i, name in enumerate(strategies)}
    budgets = sorted({row["budget"] for row in rows})
    figure = Figure(figsize=(1.9 * len(budgets) + 1, 6), layout="constrained")
    titles = {"budget": "fixed budget for each prompt", "average_budget": "average budget over prompts"}
    for axes, (kind, title) in zip(figure.subplots(2, 1, sharex=True), titles.items(), strict=True):
        for row in (row for row in rows if row["objective"] == kind):
            at, level = budgets.index(row["budget"]), row["level"]
            strategy, _, options = row["arm"].partition("(")
            axes.barh(level, 0.97, 0.95, left=at - 0.485, color=color[strategy], alpha=0.3 + 0.6 * row["accuracy"])
            text = f"{strategy}\n({options}\n{row['accuracy']:.2f}, {row['generations']:.1f} gen."
            axes.text(at, level, text, ha="center", va="center", fontsize=7)
        axes.set(title=title, ylabel="level", ylim=(5.5, 0.5), yticks=range(1, 6))
        axes.set_xticks(range(len(budgets)), list(map(str, budgets)))
        axes.set_xlim(-0.5, len(budgets) - 0.5)
        axes.tick_params(length=0)
    axes.set_xlabel("budget, in complete solutions")
    return figure


def _revision(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    chains = sorted({row["chains"] for row in rows})
    for i, level in enumerate(sorted({row["level"] for row in rows})):
        points = [row for row in rows if row["level"] == level]
        at = [chains.index(row["chains"]) for row in points]
        accuracy = [row["accuracy"] for row in points]
        axes.plot(at, accuracy, marker="o", color=_MUTED[i], label=f"level {level}")
        axes.fill_between(
            at, [row["low"] for row in points], [row["high"] for row in points], color=_MUTED[i], alpha=0.1
        )
    n = rows[0]["n"]
    axes.set_xticks(range(len(chains)), [f"{c} × {n // c}" for c in chains])
    axes.set(
        xlabel=f"parallel chains × attempts in each, {n} in all (left: sequential, right: parallel)", ylabel="accuracy"
    )
    axes.grid(alpha=0.25)
    _legend(axes)
    return figure


def _larger(report: Mapping[str, Any]) -> Figure:
    """A line a group: the small model thinking; its stars: the larger one, where it costs the same FLOPs."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for i, group in enumerate(dict.fromkeys(row["group"] for row in report["curve"])):
        color = "black" if group == "all" else _MUTED[i % len(_MUTED)]
        points = sorted((row for row in report["curve"] if row["group"] == group), key=lambda row: row["budget"])
        axes.plot([p["budget"] for p in points], [p["accuracy"] for p in points], ".-", color=color, label=group)
        stars = [(each["allowed"], row) for each in report["ratios"] for row in each["groups"] if row["group"] == group]
        axes.plot(
            [at for at, _ in stars], [row["larger"]["accuracy"] for _, row in stars], "*:", ms=9, lw=0.6, color=color
        )
    for each in report["ratios"]:
        axes.axvline(each["allowed"], color="#bbbbbb", lw=0.8, zorder=0)
        axes.text(each["allowed"], 1.01, f"R = {each['ratio']:g}", ha="center", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(
        xlabel=f"solutions written; stars: one by a model {report['times']:g} times the size, at equal FLOPs",
        ylabel="accuracy",
        ylim=(0, 1.05),
    )
    axes.grid(alpha=0.25)
    _legend(axes)
    return figure


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
