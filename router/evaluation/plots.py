"""The plots of a report. Each has at most eight lines, which differ in colour, marker and dashes."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # needs no display, since evaluation runs on servers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from router.evaluation import plan_plots
from router.evaluation.report import CurvePoint, LargerModel, LevelAccuracy, Report
from router.evaluation.words import CURVES
from router.evaluation.words import curve as label_of

MOST_LINES = 8
# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart, and darker ones.
POLICIES: dict[str, dict[str, Any]] = {
    "predicted": {"color": "#d55e00", "marker": "o", "ls": "-", "lw": 2.4, "zorder": 6},
    "predicted_average": {"color": "#e69f00", "marker": "D", "ls": "-", "lw": 1.8, "zorder": 5},
    "oracle": {"color": "#cc79a7", "marker": "h", "ls": "--", "lw": 1.6, "zorder": 4},
    "best_fixed": {"color": "#000000", "marker": "x", "ls": ":", "lw": 1.8, "zorder": 7},
}
FIXED: list[dict[str, Any]] = [
    {"color": color, "marker": marker, "ls": ls, "lw": 1.3}
    for color, marker, ls in (
        ("#0072b2", "s", "-"),
        ("#56b4e9", "^", "-"),
        ("#7a4b00", "P", "--"),
        ("#6a6a6a", "v", "-."),
        ("#332288", "*", ":"),
        ("#dd77aa", "<", "--"),
        ("#b79f00", "X", "-"),
        ("#661100", ">", "-."),
    )
]
_BANDS = ("predicted", "weighted_best_of_n")
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False}
_STYLE |= {"axes.spines.right": False, "axes.titlesize": 9, "lines.markersize": 5}
_WIDTH = 5.4  # inches: narrow enough for a plot's text to be readable on a phone


def draw(report: Report) -> dict[str, Figure]:
    """Return the figures by name, without those of what was not measured."""
    with mpl.rc_context(_STYLE):
        figures = {
            "generations": _curves(report, "generations"),
            "flops": _curves(report, "flops"),
            "levels": _levels(report),
        }
        if report.revisions:
            figures["revisions"] = _revisions(report)
        if report.larger:
            figures["larger"] = _larger(report.larger)
        if report.averages:
            figures["averages"] = plan_plots.averages(report.averages)
        if report.plans:
            figures["plans"] = plan_plots.trees(report.plans)
        if report.trust:
            figures["trust"] = plan_plots.reliability(report.trust)
    return figures


def svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as SVG. ``name``: a prefix that keeps ids unique; ``description``: for screen readers."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE | {"svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata=nothing)
    own = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text.getvalue().partition("<svg")[2])
    return f'<svg role="img" aria-label="{description}"{own}'


def fixed_curves(report: Report, most: int) -> list[str]:
    """Return the fixed strategies to show: the two references, the larger model, then one curve of each algorithm.

    An algorithm's curve is the one with the most budgets, and among those the most accurate. Algorithms with several
    budgets come first, and among those the most accurate.
    """
    fixed = {name: points for name, points in report.curves.items() if points and name not in CURVES}
    larger = {row.curve for row in report.per_level if report.larger and row.arm == report.larger.arm}

    def accuracy(name: str) -> float:
        return max(point.accuracy for point in fixed[name])

    of_algorithm: dict[str, str] = {}
    for name in sorted(fixed, key=lambda name: (-len(fixed[name]), -accuracy(name))):
        of_algorithm.setdefault(name if name in larger else name.partition("(")[0], name)
    first = ("weighted_best_of_n", "majority")
    others = [name for name in of_algorithm.values() if name not in first]
    others.sort(key=lambda name: (name not in larger, len(fixed[name]) < 2, -accuracy(name)))
    return [*(name for name in first if name in fixed), *others][:most]


def shown_curves(report: Report) -> list[str]:
    """Return the names of the curves in the plots of accuracy against compute."""
    policies = [name for name in POLICIES if report.curves[name]]
    return [*policies, *fixed_curves(report, MOST_LINES - len(policies))]


def _styles(report: Report) -> dict[str, dict[str, Any]]:
    """Return a line style for each curve, the same in every plot."""
    fixed = fixed_curves(report, MOST_LINES)
    return POLICIES | {name: dict(style) for name, style in zip(fixed, FIXED, strict=False)}


def _curves(report: Report, x: str) -> Figure:
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    axes = figure.subplots()
    styles, handles = _styles(report), []
    for name in shown_curves(report):
        points: Sequence[CurvePoint] = sorted(report.curves[name], key=lambda point: float(getattr(point, x)))
        at = [getattr(point, x) for point in points]
        alone = {"ms": 10, "mfc": "none", "zorder": 8} if len(points) == 1 else {}  # a line may hide a single point
        (line,) = axes.plot(at, [point.accuracy for point in points], **styles[name] | alone)
        handle: Any = line
        if name in _BANDS:
            low, high = [point.low for point in points], [point.high for point in points]
            band = axes.fill_between(at, low, high, color=styles[name]["color"], alpha=0.12, lw=0)
            handle = (band, line)
        handles.append((handle, label_of(name) + (" (shaded: 95% interval)" if name in _BANDS else "")))
    spent = [getattr(point, x) for name in shown_curves(report) for point in report.curves[name]]
    if x == "generations":
        _solutions(axes, min(spent), max(spent))
        axes.set_xlabel("generations a prompt, in complete solutions")
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("FLOPs for a prompt (G: 10⁹, T: 10¹²)")
    axes.set_ylabel(f"accuracy on {report.prompts} held-out prompts")
    axes.grid(alpha=0.25)
    figure.legend(*zip(*handles, strict=True), loc="outside lower left", frameon=False)
    return figure


def _levels(report: Report) -> Figure:
    """Plot accuracy against budget, with a panel for each level and one for the legend."""
    levels = sorted({row.level for row in report.per_level})
    names, styles = fixed_curves(report, MOST_LINES), _styles(report)
    figure = Figure(figsize=(_WIDTH, 2 * -(-(len(levels) + 1) // 2)), layout="constrained")
    grid = figure.subplots(-(-(len(levels) + 1) // 2), 2, sharey=True).ravel().tolist()
    for axes, level in zip(grid, levels, strict=False):
        for name in names:
            rows: list[LevelAccuracy] = [row for row in report.per_level if row.level == level and row.curve == name]
            rows.sort(key=lambda row: row.budget)
            axes.plot([row.budget for row in rows], [row.accuracy for row in rows], label=name, **styles[name])
        _solutions(axes, 1, max(row.budget for row in report.per_level if row.curve in names))
        axes.set(ylim=(-0.03, 1.05), title=f"level {level}{_HARDNESS.get(level, '')}", ylabel="accuracy")
        axes.grid(alpha=0.25)
    for axes in grid[len(levels) :]:
        axes.axis("off")
    for axes in grid[max(0, len(levels) - 2) : len(levels)]:
        axes.set_xlabel("budget in complete solutions")
    grid[len(levels)].legend(*grid[0].get_legend_handles_labels(), loc="center", frameon=False)
    return figure


_HARDNESS = {1: ", the easiest", 5: ", the hardest"}


def _revisions(report: Report) -> Figure:
    rows = report.revisions
    chains = sorted({row.chains for row in rows})
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    levels = sorted({row.level for row in rows})
    for i, level in enumerate(levels):
        points = [row for row in rows if row.level == level]
        at = [chains.index(row.chains) + 0.05 * (i - (len(levels) - 1) / 2) for row in points]
        errors = [[row.accuracy - row.low for row in points], [row.high - row.accuracy for row in points]]
        errors = [[max(0.0, each) for each in side] for side in errors]
        label = f"level {level}{_HARDNESS.get(level, '')}"
        axes.errorbar(at, [row.accuracy for row in points], errors, label=label, capsize=2, elinewidth=0.8, **FIXED[i])
    n = rows[0].n
    axes.set_xticks(range(len(chains)), [_split(n, count) for count in chains])
    axes.set(xlabel=f"how {n} solutions are written", ylabel="accuracy", ylim=(-0.03, 1.05))
    axes.grid(axis="y", alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    interval = Line2D([], [], color="#555555", marker="|", ls="", ms=12)
    figure.legend([*handles, interval], [*labels, "95% interval"], loc="outside lower left", ncols=2, frameon=False)
    return figure


def _split(n: int, chains: int) -> str:
    if chains == n:
        return f"{n} independent ones"
    return f"one chain of {n}" if chains == 1 else f"{chains} chains of {n // chains}"


def _larger(found: LargerModel) -> Figure:
    """Plot the comparison with the larger model, with a panel for each group of prompts and one for the legend."""
    groups = list(dict.fromkeys(point.group for point in found.curve))
    small, large = POLICIES["predicted"], FIXED[0]
    figure = Figure(figsize=(_WIDTH, 2.1 * -(-(len(groups) + 1) // 2)), layout="constrained")
    grid = figure.subplots(-(-(len(groups) + 1) // 2), 2, sharey=True).ravel().tolist()
    allowed = [each.allowed for each in found.comparisons]
    for axes, group in zip(grid, groups, strict=False):
        points = sorted((point for point in found.curve if point.group == group), key=lambda point: point.budget)
        at = [point.budget for point in points]
        axes.plot(at, [point.accuracy for point in points], **small)
        axes.fill_between(at, [p.low for p in points], [p.high for p in points], color=small["color"], alpha=0.15, lw=0)
        end = max([*allowed, *at])
        if end > at[-1]:
            axes.plot([at[-1], end], [points[-1].accuracy] * 2, color=small["color"], ls=":", lw=1.6)
        other = next(row for row in found.comparisons[0].groups if row.group == group)
        axes.plot([at[0], end], [other.larger.value] * 2, color=large["color"], ls="--", lw=1.8)
        axes.fill_between([at[0], end], other.larger.low, other.larger.high, color=large["color"], alpha=0.15, lw=0)
        for solutions in allowed:
            axes.axvline(solutions, color="#777777", lw=0.8, zorder=0)
        _solutions(axes, at[0], end)
        top = axes.secondary_xaxis("top")
        top.xaxis.set_major_locator(FixedLocator(allowed))
        top.xaxis.set_minor_locator(NullLocator())
        ratios = {each.allowed: f"R = {each.ratio:g}" for each in found.comparisons}
        top.xaxis.set_major_formatter(FuncFormatter(lambda value, _, ratios=ratios: _nearest(ratios, value)))
        top.tick_params(length=0, labelsize=7, colors="#555555")
        axes.set(ylim=(-0.03, 1.05), ylabel="accuracy", title=f"{group}: {other.prompts} prompts")
        axes.grid(axis="y", alpha=0.25)
    for axes in grid[len(groups) :]:
        axes.axis("off")
    for axes in grid[max(0, len(groups) - 2) : len(groups)]:
        axes.set_xlabel("solutions by the small model")
    handles = [
        (Line2D([], [], **small), "policy on the small model"),
        (Line2D([], [], color=small["color"], ls=":", lw=1.6), "no larger budget measured"),
        (Line2D([], [], color=large["color"], ls="--", lw=1.8), "the larger model, once"),
        (tuple(Patch(color=style["color"], alpha=0.15) for style in (small, large)), "95% intervals"),
        (Line2D([], [], color="#777777", lw=0.8), "equal FLOPs"),
    ]
    side_by_side = {tuple: HandlerTuple(ndivide=None)}
    grid[len(groups)].legend(*zip(*handles, strict=True), loc="center", frameon=False, handler_map=side_by_side)
    return figure


def _nearest(labels: dict[float, str], value: float) -> str:
    return labels[min(labels, key=lambda each: abs(each - value))]


def _solutions(axes: Axes, low: float, high: float) -> None:
    """Make the x axis one of complete solutions, with a label at each power of two."""
    ticks = [2**i for i in range(16) if low * 0.9 <= 2**i <= high * 1.1]
    if len(ticks) > 9:
        ticks = ticks[::2]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
