"""Plots of the policy at average budgets: accuracy against cost, plans as trees, reliability of confidences."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from router.evaluation.parts import AtAverage, Plan, Trust
from router.evaluation.words import WAYS

# A line for every way that ``averages.at_averages`` measures.
_STYLES: dict[str, dict[str, Any]] = {
    "best_fixed_arm": {"color": "#000000", "marker": "x", "ls": ":"},
    "best_fixed_cascade": {"color": "#0072b2", "marker": "s", "ls": "-."},
    "random_mix": {"color": "#6a6a6a", "marker": "v", "ls": "--"},
    "confidence_only": {"color": "#009e73", "marker": "^", "ls": "-"},
    "shuffled_levels": {"color": "#cc79a7", "marker": "h", "ls": "--"},
    "nearest_neighbours": {"color": "#e69f00", "marker": "D", "ls": ":"},
}
_BOX = 2.15  # width of a stage and the gap after it
_WIDTH = 5.4


def averages(rows: Sequence[AtAverage]) -> Figure:
    """Plot accuracy against actual spend, with a line for each way to choose."""
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.subplots()
    policy = [row.policy for row in rows]
    spent = [point.generations for point in policy]
    axes.plot(
        spent, [point.accuracy for point in policy], color="#d55e00", marker="o", lw=2.4, label="policy", zorder=6
    )
    axes.fill_between(spent, [p.low for p in policy], [p.high for p in policy], color="#d55e00", alpha=0.12, lw=0)
    for name, style in _STYLES.items():
        points = [row.ways[name].point for row in rows if name in row.ways]
        if points:
            at = [point.generations for point in points]
            axes.plot(at, [point.accuracy for point in points], lw=1.4, label=WAYS[name], **style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("generations a prompt, in complete solutions, mean over prompts")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def trees(plans: Sequence[Plan]) -> Figure:
    """Plot a row for each level of each task: stages from left to right, who goes on, and the results of the others."""
    most = max(len(plan.stages) for plan in plans)
    figure = Figure(figsize=(max(_WIDTH, 0.6 + _BOX * most), 1.25 * len(plans) + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.6, _BOX * most)
    axes.set_ylim(-len(plans), 0)
    axes.axis("off")
    for row, plan in enumerate(plans):
        y = -row - 0.34
        axes.text(
            -0.5, y, f"{plan.task}\n" * bool(plan.task) + f"level\n{plan.level}", va="center", fontsize=9, weight="bold"
        )
        for i, stage in enumerate(plan.stages):
            x = i * _BOX
            shade = 0.06 + 0.3 * stage.reached
            axes.add_patch(
                FancyBboxPatch(
                    (x, y - 0.2),
                    1.55,
                    0.4,
                    boxstyle="round,pad=0.03",
                    facecolor=(0, 0.45, 0.7, shade),
                    edgecolor="#555",
                )
            )
            axes.text(x + 0.78, y, _wrapped(stage.arm), ha="center", va="center", fontsize=6.5)
            ends = f"ends {stage.ended:.0%}"
            if stage.accuracy is not None and stage.generations is not None:
                ends += f", right {stage.accuracy:.2f},\n{stage.generations:.1f} generations"
            axes.text(x + 0.78, y - 0.27, ends, ha="center", va="top", fontsize=6.5, color="#333")
            if stage.threshold is not None:
                arrow = {"arrowstyle": "->", "color": "#555"}
                axes.annotate("", (x + _BOX - 0.04, y), (x + 1.6, y), arrowprops=arrow)
                on = stage.reached - stage.ended
                axes.text(x + 1.86, y + 0.05, f"<{stage.threshold:g}\n{on:.0%}", ha="center", va="bottom", fontsize=6.5)
    return figure


def _wrapped(arm: str) -> str:
    name, bracket, rest = arm.partition("(")
    return f"{name}\n({rest}" if bracket else name


def reliability(trust: Trust) -> Figure:
    """Plot the share of right answers against confidence, with intervals. Perfect confidences lie on the diagonal."""
    figure = Figure(figsize=(_WIDTH * 0.75, _WIDTH * 0.7), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999", lw=1, ls="--")
    for each in trust.bins:
        axes.plot([each.confidence] * 2, [each.low, each.high], color="#d55e00", lw=1)
        axes.scatter(each.confidence, each.right, s=16 + 160 * each.count / trust.answers, color="#d55e00")
        axes.annotate(str(each.count), (each.confidence, each.right), (6, -3), textcoords="offset points", fontsize=7)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of right answers")
    axes.set_xlim(0, 1.04)
    axes.set_ylim(0, 1.04)
    return figure
