"""Summarises the report in a few lines for the terminal."""

from router.evaluation.parts import Point
from router.evaluation.report import Report
from router.evaluation.words import MEASURES, in_short

_COLUMNS = ("majority", "weighted_best_of_n", "best_fixed", "predicted", "predicted_average", "oracle")


def summary(report: Report) -> list[str]:
    """Return lines with the accuracy at each budget, the main results, goals, and what was left out."""
    lines = [f"{report.prompts} held-out prompts, bundle {report.bundle}; accuracy:"]
    lines.append(f"{'budget':8}" + "".join(f"{name:>20}" for name in _COLUMNS))
    for row in report.budgets:
        points: list[Point | None] = [getattr(row, name) for name in _COLUMNS]
        cells = [f"{point.accuracy:.3f}" if point else "not measured" for point in points]
        lines.append(f"{row.budget:<8}" + "".join(f"{cell:>20}" for cell in cells))
    lines += in_short(report)
    for goal in report.goals or ():
        said = "met" if goal.met else f"missed, limited by the {goal.limited_by}: {goal.because}"
        lines.append(f"goal: {MEASURES[goal.goal.measure]}: {said}")
    return lines + [f"left out: {entry.what}: {entry.reason}" for entry in report.left_out]
