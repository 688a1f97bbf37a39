"""The view of the policy: the arm at each level for each budget, and its measured accuracy."""

from dataclasses import dataclass
from typing import Any

from router.policy.objectives import AverageBudget, Budget, mostly
from router.policy.table import LEVELS, Expectation, Policy
from router.policy.unfamiliar import shares
from router.solving.solver import Solver

_MOST = 12  # most budgets that are shown


@dataclass(frozen=True, slots=True)
class Plans:
    """What a table of the policy runs for one kind of objective.

    task  whose table it is; empty: of all tasks that have none of their own
    rows  for each level: the level, its share of the prompts, and the choice for each of ``budgets``
    """

    task: str
    kind: str
    budgets: list[float]
    rows: list[tuple[int, float, list[Expectation]]]


def view(solver: Solver) -> dict[str, Any]:
    """Return the values for the template."""
    policy, bundle = solver.policy, solver.bundle
    fixed = [float(size) for size in _doubling(policy.smallest, policy.largest)]
    asked: list[tuple[type[Budget] | type[AverageBudget], list[float]]] = [(Budget, fixed)]
    if policy.budget_points:
        least = policy.budget_points[0].generations
        most = max(least, policy.budget_points[-1].generations)
        asked.append((AverageBudget, [size for size in _doubling(1, most) if size >= least] or [least]))
    tables = [
        _plans(task, table, kind, budgets)
        for task, table in policy.by_task(solver.tasks.names).items()
        for kind, budgets in asked
    ]
    arms = [str(found.arm) for table in tables for _, _, row in table.rows for found in row]
    return {
        "tables": tables,
        "bundle": bundle,
        "policy": policy,
        "setup": bundle.setup,
        "edges": bundle.manifest.edges,
        "statistic": bundle.manifest.statistic,
        "arms": arms,
        "left_out": len(solver.left_out),
    }


def _plans(task: str, policy: Policy, kind: type[Budget] | type[AverageBudget], budgets: list[float]) -> Plans:
    rows = []
    for level, part in zip(LEVELS, shares(policy), strict=True):
        certain = tuple(float(each == level) for each in LEVELS)
        objectives = [mostly(policy, kind(budget)) for budget in budgets]
        rows.append((level, part, [policy.decide(certain, objective) for objective in objectives]))
    return Plans(task, kind.kind, budgets, rows)


def _doubling(least: float, most: float) -> list[float]:
    """Return the powers of two from ``least`` to ``most``, the smallest and largest budgets that can be asked for."""
    sizes = [float(2**power) for power in range(_MOST) if least <= 2**power <= most]
    return sizes or [least]
