"""The best fixed arm: the same arm for all prompts. Routing has to beat it."""

from collections.abc import Sequence

from router.policy.objectives import ROUNDING, AverageBudget, Objective, SomeArms
from router.policy.table import Policy
from strategies import Cascade


def best_fixed(policy: Policy, objective: Objective, shares: Sequence[float]) -> int:
    """Return the arm that serves the objective best without knowing the prompt: its index in ``Policy.arms``.

    shares  (5,) the levels' shares among the prompts that the policy was tuned on

    It is no cascade unless all arms are, since a cascade reacts to the prompt. For an average budget it is the most
    accurate arm that spends no more on average; else it is what the objective chooses.
    """
    weights = tuple(shares)
    columns = [i for i in range(len(policy.arms)) if not isinstance(policy.arms[i], Cascade)]
    arms = SomeArms(policy, columns or list(range(len(policy.arms))))
    flops, accuracy = arms.expected("flops", weights), arms.expected("accuracy", weights)
    if isinstance(objective, AverageBudget):
        spent = arms.expected("generations", weights)
        within = [i for i, each in enumerate(spent) if each <= objective.value + ROUNDING] or [spent.index(min(spent))]
        best = max(within, key=lambda i: (accuracy[i], -flops[i]))
    else:
        best = min(objective.good(arms, weights), key=lambda i: (flops[i], -accuracy[i]))
    return arms.columns[best]
