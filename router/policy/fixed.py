"""The best fixed arm: the same arm for all prompts. Routing has to beat it."""

from collections.abc import Sequence
from typing import Any

from router.policy.objectives import ROUNDING, AverageBudget, BudgetPoint, Objective
from router.policy.table import Policy
from strategies import Cascade


def best_fixed(policy: Policy, objective: Objective, shares: Sequence[float]) -> int:
    """Return the arm that serves the objective best without knowing the prompt: its column in ``Policy.expected``.

    shares  (5,) the levels' shares among the prompts that the policy was tuned on

    It is no cascade unless all arms are, since a cascade reacts to the prompt. For an average budget it is the most
    accurate arm that spends no more on average; else it is what the objective chooses.
    """
    weights = tuple(shares)
    columns = [i for i in range(len(policy.arms)) if not isinstance(policy.arm(i), Cascade)]
    arms = _Some(policy, columns or list(range(len(policy.arms))))
    flops, accuracy = arms.expected("flops", weights), arms.expected("accuracy", weights)
    if isinstance(objective, AverageBudget):
        spent = arms.expected("generations", weights)
        within = [i for i, each in enumerate(spent) if each <= objective.value + ROUNDING] or [spent.index(min(spent))]
        best = max(within, key=lambda i: (accuracy[i], -flops[i]))
    else:
        best = min(objective.good(arms, weights), key=lambda i: (flops[i], -accuracy[i]))
    return arms.columns[best]


class _Some:
    """The measurements of some of a policy's arms; see ``objectives.Measurements``."""

    def __init__(self, policy: Policy, columns: Sequence[int]):
        self.columns, self._policy = columns, policy
        self.budgets: Sequence[float] = [policy.budgets[i] for i in columns]
        self.budget_points: Sequence[BudgetPoint] = policy.budget_points
        self.tolerance: float = policy.tolerance

    def expected(self, of: str, weights: Any) -> Any:
        values = self._policy.expected(of, weights)
        return [values[i] for i in self.columns]
