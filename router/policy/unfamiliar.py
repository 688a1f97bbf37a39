"""What is done with a prompt unlike those that the policy was tuned on: no level is known, so its samples decide.

The plan is a vote of as many samples as the budget allows, at most 16 and 16 where no budget is given, which from 8 on
stops early once it is 95% sure to keep its leader: ``majority(n=16, stop=0.95)``. Within less than 3 samples there is
nothing to vote about, and it is ``single``.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from router.policy.objectives import AverageBudget, Budget, Objective
from router.policy.table import LEVELS, Cost, Expectation, Policy
from strategies import Majority, Single, Strategy

SAMPLES = 16  # at most
_SURE = 0.95  # that the leading answer keeps its lead


def shares(policy: Policy) -> tuple[float, ...]:
    """(5,) the levels' shares among the prompts that the policy was tuned on: what is known of an unknown prompt."""
    counts = [max(cell.prompts for cell in policy.cells if cell.level == level) for level in LEVELS]
    return tuple(count / sum(counts) for count in counts)


def middle(probabilities: Sequence[float]) -> int:
    """The median level."""
    return next(level for level in LEVELS if sum(probabilities[:level]) >= 0.5 or level == LEVELS[-1])


def plan(
    policy: Policy, objective: Objective, weights: Sequence[float], max_seconds: float | None = None
) -> Expectation:
    """What runs, and what it costs prompts of these level weights. No accuracy is promised: 0, in 0 to 1.

    max_seconds  where a vote is not known to end by then, one solution is written
    """
    match objective:
        case Budget():
            found = within(policy, objective.value, weights)
        case AverageBudget():
            found = within(policy, objective.leaves, weights)
        case _:
            found = within(policy, SAMPLES, weights)
    if max_seconds is None or (found.cost.seconds is not None and found.cost.seconds <= max_seconds):
        return found
    return within(policy, 1, weights)


def within(policy: Policy, samples: float, weights: Sequence[float]) -> Expectation:
    """The plan of so many samples at most. An arm that was not measured costs as if it never stopped early."""
    n = int(min(SAMPLES, samples))
    arm: Strategy = Single() if n < 3 else Majority(n=n, stop=_SURE if n >= Majority.stops_from else 0.0)
    arms = [policy.arm(column) for column in range(len(policy.arms))]
    if arm in arms:
        cost = policy.promise(arms.index(arm), weights).cost
    else:
        known = policy.promise(0, weights).cost  # of the smallest arm
        cost = _times(known, arm.budget() / max(known.generations, 1e-9))
    return Expectation(arm, 0.0, 0.0, 1.0, cost, sufficient=False)


def _times(cost: Cost, factor: float) -> Cost:
    """Of so many times as many samples; the prompt is read once."""
    fixed = ("prompt_tokens",)
    found = Cost(**{k: v if k in fixed or v is None else v * factor for k, v in asdict(cost).items()})
    return replace(found, seconds=None)  # samples are written at the same time
