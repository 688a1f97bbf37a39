"""A limit on an arm's duration, in addition to an objective. It uses the measured mean seconds of each arm."""

import math
from collections.abc import Sequence

from router.errors import InvalidRequest
from router.policy.objectives import Budget, Measurements, Objective, SomeArms


def measured(policy: Measurements) -> bool:
    """Whether the seconds of any arm were measured."""
    return not all(math.isnan(each) for each in policy.expected("seconds", (0.2,) * 5))


def check_seconds(policy: Measurements, limit: float) -> None:
    """Raise InvalidRequest where the limit is not positive and finite, or no arm's seconds were measured."""
    if not 0 < limit < math.inf:
        raise InvalidRequest(
            "objective.max_seconds",
            f"max_seconds {limit:g} must be above 0 and finite",
            reason="OBJECTIVE_OUT_OF_RANGE",
        )
    if not measured(policy):
        raise InvalidRequest(
            "objective.max_seconds",
            "max_seconds: the seconds of this bundle's arms were not measured. Measure them with `router collect "
            "--one-by-one` and `router time`; or leave max_seconds out and give the call a deadline",
            reason="SECONDS_NOT_MEASURED",
        )


def good_in_time(
    policy: Measurements, objective: Objective, weights: Sequence[float], limit: float
) -> tuple[list[int], bool]:
    """Return the columns of good arms that are expected to end within ``limit`` seconds, and whether there are any.

    If there are none, the fastest arm is returned, within the budget if the objective is one. Arms whose seconds are
    unknown are left out.
    """
    seconds = policy.expected("seconds", weights)
    known = [column for column, each in enumerate(seconds) if not math.isnan(each)]
    if isinstance(objective, Budget):
        known = [column for column in known if policy.budgets[column] <= objective.value]
    fast = [column for column in known if seconds[column] <= limit]
    if fast:
        return [fast[i] for i in objective.good(SomeArms(policy, fast), weights)], True
    least = min((seconds[column] for column in known), default=math.inf)
    # If the seconds of all arms within the budget are unknown, column 0 is taken: the smallest arm.
    return [column for column in known if seconds[column] == least] or [0], False
