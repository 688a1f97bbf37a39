"""Summarises the report in a few lines for the terminal."""

from router.evaluation.parts import Point
from router.evaluation.report import GoalResult, Report
from router.evaluation.words import goal as wanted
from router.evaluation.words import in_short

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
        lines.append(f"goal: {wanted(goal.goal)}: {'met' if goal.met else _missed(goal)}")
    return lines + [f"left out: {entry.what}: {entry.reason}" for entry in report.left_out]


def _missed(result: GoalResult) -> str:
    said = "missed" if result.value is None else f"missed, {result.value:g}"
    if result.limited_by:
        said += f", limited by the {result.limited_by}"
    return f"{said}: {result.because}" if result.because else said
