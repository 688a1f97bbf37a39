"""Choices at average budgets on held-out prompts, beside the same with levels shuffled."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from router.evaluation.averages import Averages
from router.policy.objectives import Budget, BudgetPoint
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import Majority

SIZES = (1, 2, 4, 8, 16)
ACCURACY = (0.5, 0.6, 0.68, 0.74, 0.78)
PRICES = (0.2, 0.07, 0.025, 0.01, 0.001)  # at each the next size is the best


@pytest.fixture
def averages():
    """A policy with the same arms at every level; on the held-out prompts the larger ones spend less."""
    arms = [Majority(n=n) for n in SIZES]
    cells = [
        Cell(level, arm, right, right, right, 20, Cost(arm.n, 10, 10 * arm.n, 0, arm.n, 0))
        for level in LEVELS
        for arm, right in zip(arms, ACCURACY, strict=True)
    ]
    points = [BudgetPoint(float(n), price) for n, price in zip(SIZES, PRICES, strict=True)]
    policy = Policy(cells, Budget(16), budget_points=points, tolerance=0.0)
    rng = np.random.default_rng(0)
    spent = np.array([2.65, 2.6, 2.55, 2.5, 2.45]) + np.zeros((30, 1))
    right = rng.random((30, 5)).round(3)
    measured: Any = SimpleNamespace(
        arms=tuple(arms), accuracy=right, generations=spent, flops=100 * spent, tasks=np.full(30, "math")
    )
    return Averages(measured, policy, rng.dirichlet(np.ones(5), 30))


@pytest.mark.parametrize("size", SIZES)
def test_shuffled_levels_change_nothing_where_all_levels_have_the_same_arm(averages, size):
    policy = averages.run(size)
    spent = float(policy.generations.mean())
    shuffled = averages.shuffled(spent, np.random.default_rng(0))
    assert shuffled.generations.mean() == pytest.approx(spent)
    assert shuffled.accuracy == pytest.approx(policy.accuracy)


def test_prices_at_which_an_arm_was_not_run_are_left_out(averages):
    measured = averages.measured
    values = {name: getattr(measured, name)[:, :2] for name in ("accuracy", "generations", "flops")}
    fewer: Any = SimpleNamespace(arms=measured.arms[:2], tasks=measured.tasks, **values)
    shuffled = Averages(fewer, averages.policy, averages.probabilities).shuffled(2.6, np.random.default_rng(0))
    assert shuffled.accuracy == pytest.approx(fewer.accuracy[:, 1])
    none: Any = SimpleNamespace(**{**vars(fewer), "arms": (Majority(n=32), Majority(n=64))})
    assert Averages(none, averages.policy, averages.probabilities).shuffled(2.6, np.random.default_rng(0)) is None
