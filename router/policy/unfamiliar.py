"""What runs for a prompt unlike those that the policy was tuned on. Its level is unknown, so its samples decide.

The arm is a majority vote of as many samples as the budget allows, at most 16, and 16 without a budget. From 8 samples
on, the vote stops early once the leading answer keeps its lead with probability 0.95: ``majority(n=16, stop=0.95)``.
With fewer than 3 samples a vote decides nothing, and the arm is ``single``.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

from router.policy.objectives import AverageBudget, Budget, Objective
from router.policy.table import LEVELS, Cost, Expectation, Policy
from strategies import Majority, Single, Strategy

SAMPLES = 16  # at most
_SURE = 0.95  # that the leading answer keeps its lead


def shares(policy: Policy) -> tuple[float, ...]:
    """(5,) the levels' shares among the prompts that the policy was tuned on: the best guess for an unknown prompt."""
    counts = policy.level_counts
    return tuple(count / sum(counts) for count in counts)


def middle(probabilities: Sequence[float]) -> int:
    """Return the median level of (5,) probabilities."""
    return next(level for level in LEVELS if sum(probabilities[:level]) >= 0.5 or level == LEVELS[-1])


def plan(
    policy: Policy, objective: Objective, weights: Sequence[float], max_seconds: float | None = None
) -> Expectation:
    """Return the arm that runs and its cost at these level weights. Its accuracy is unknown: from 0 to 1.

    max_seconds  limit of the duration; a single solution is written where the vote is not known to end in time
    """
    match objective:
        case Budget():
            found = within(policy, objective.value, weights)
        case AverageBudget():
            found = within(policy, objective.corrected, weights)
        case _:
            found = within(policy, SAMPLES, weights)
    if max_seconds is None or (found.cost.seconds is not None and found.cost.seconds <= max_seconds):
        return found
    return within(policy, 1, weights)


def within(policy: Policy, samples: float, weights: Sequence[float]) -> Expectation:
    """Return the plan with at most this many samples. An unmeasured arm costs as if it never stopped early."""
    n = int(min(SAMPLES, samples))
    arm: Strategy = Single() if n < 3 else Majority(n=n, stop=_SURE if n >= Majority.stops_from else 0.0)
    if arm in policy.arms:
        cost = policy.promise(policy.arms.index(arm), weights).cost
    else:
        known = policy.promise(0, weights).cost  # of the smallest arm
        cost = _times(known, arm.budget() / max(known.generations, 1e-9))
    return Expectation(arm, 0.0, 0.0, 1.0, cost, sufficient=False)


def _times(cost: Cost, factor: float) -> Cost:
    """Return the cost of ``factor`` times as many samples; the prompt is read once."""
    fixed = ("prompt_tokens",)
    found = Cost(**{k: v if k in fixed or v is None else v * factor for k, v in asdict(cost).items()})
    return replace(found, seconds=None)  # unknown: samples are written in parallel
