"""The best fixed arm, which routing is held against."""

import pytest

from router.policy.fixed import best_fixed
from router.policy.objectives import AverageBudget, Budget, BudgetPoint, PricePerFlop, TargetAccuracy
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse

# Accuracy at each level and generations.
ARMS = {
    "single": ((0.9, 0.5, 0.3, 0.1, 0.0), 1),
    "majority(n=4)": ((0.9, 0.7, 0.5, 0.3, 0.1), 4),
    "beam_search(n=16, m=4)": ((0.9, 0.8, 0.7, 0.6, 0.5), 12),
    "single @0.8 > beam_search(n=16, m=4)": ((0.9, 0.9, 0.9, 0.9, 0.9), 3),
}
EVEN = (0.2,) * 5


@pytest.fixture
def policy() -> Policy:
    cells = [
        Cell(level, parse(arm), accuracy[level - 1], accuracy[level - 1] - 0.0, 1.0, 10, Cost(n, 1, n, 0, 100.0 * n, 0))
        for arm, (accuracy, n) in ARMS.items()
        for level in LEVELS
    ]
    return Policy(cells, Budget(16), budget_points=[BudgetPoint(1, 1.0), BudgetPoint(12, 0.001)])


@pytest.mark.parametrize(
    ("objective", "arm"),
    [
        (Budget(4), "majority(n=4)"),
        (Budget(16), "beam_search(n=16, m=4)"),
        (AverageBudget(3), "single"),
        (AverageBudget(5), "majority(n=4)"),
        (AverageBudget(12), "beam_search(n=16, m=4)"),
        (TargetAccuracy(0.5), "majority(n=4)"),
        (TargetAccuracy(0.99), "beam_search(n=16, m=4)"),
        (PricePerFlop(1), "single"),
        (PricePerFlop(0), "beam_search(n=16, m=4)"),
    ],
)
def test_it_is_no_cascade_and_serves_the_objective_for_all_prompts_alike(policy, objective, arm):
    assert str(policy.arms[best_fixed(policy, objective, EVEN)]) == arm


def test_where_all_prompts_are_easy_little_is_enough(policy):
    assert str(policy.arms[best_fixed(policy, Budget(16), (1, 0, 0, 0, 0))]) == "single"
