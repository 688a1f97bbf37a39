"""The objectives that an evaluation measures, and what the policy gives for each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from router.evaluation.arms import Decider
from router.evaluation.curves import ratio
from router.evaluation.report import LeftOut, ObjectiveResult
from router.evaluation.tables import objective_result
from router.policy.objectives import Objective, PricePerFlop, TargetAccuracy
from router.policy.table import Policy
from router.tuning.cascades import Enumerated
from router.tuning.evidence import Measured
from strategies import Cascade, Strategy

TARGETS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_PRICES = (0.01, 3, 8)  # least, most, number: in right answers, of what the dearest arm takes on average


def usual_objectives(measured: Measured) -> list[Objective]:
    """Return the target accuracies and prices of a FLOP that every evaluation measures."""
    prices = np.geomspace(*_PRICES) / measured.flops.mean(axis=0).max()
    return [
        *(TargetAccuracy(target) for target in TARGETS),
        *(PricePerFlop(float(f"{price:.2g}")) for price in prices),
    ]


def run_until(
    policy: Policy, probabilities: NDArray[np.float64], tasks: NDArray[np.str_], objectives: Sequence[Objective]
) -> list[Cascade]:
    """Return the cascades that really run for target accuracies, where they differ from the chosen ones.

    probabilities  (P, 5) of the prompts' levels;  tasks (P,) of the prompts
    """
    found = {
        objective.runs(policy.for_task(task).decide(row, objective).arm)
        for objective in objectives
        if objective.kind == TargetAccuracy.kind
        for task, row in zip(tasks.tolist(), probabilities.tolist(), strict=True)
    }
    return sorted(arm for arm in found if isinstance(arm, Cascade))


def at_objectives(
    measured: Measured,
    served: Decider,
    objectives: Sequence[Objective],
    draws: NDArray[np.float64],
    enumerated: Enumerated,
) -> tuple[list[ObjectiveResult], list[LeftOut]]:
    """Return a row for each objective whose arms were run on these prompts, and the other objectives.

    draws       (R, P) weights of R bootstrap resamples
    enumerated  the runs that cascades are replayed from
    """
    policy, rows, left_out = served.policy, [], []
    for objective in objectives:
        runs, missing = served.run(measured, objective)
        left_out += missing
        if not runs:
            continue
        row = objective_result(policy, served.probabilities, objective, runs, draws, tasks=measured.tasks)
        if objective.kind == TargetAccuracy.kind:
            picked = policy.decide_many(served.probabilities, objective, measured.tasks).tolist()
            row = _refusing(row, [objective.runs(policy.arms[k]) for k in picked], objective, draws, enumerated)
        rows.append(row)
    return rows, left_out


def _refusing(
    row: ObjectiveResult,
    arms: Sequence[Strategy],
    objective: Objective,
    draws: NDArray[np.float64],
    enumerated: Enumerated,
) -> ObjectiveResult:
    """Add what a caller gets who refuses answers that are not sure enough; nothing where an arm can't be replayed.

    arms  (P,) of the prompts
    """
    answered, right = np.zeros(len(arms)), np.zeros(len(arms))
    for arm in dict.fromkeys(arms):
        runs = enumerated.alone(arm)
        if runs is None or runs.confidence is None:
            return row
        mine = np.array([each == arm for each in arms])
        sure = np.broadcast_to(runs.confidence, runs.correct.shape)[mine] >= objective.value  # no answer: NaN, not sure
        answered[mine], right[mine] = sure.mean(axis=1), (sure * runs.correct[mine]).mean(axis=1)
    return replace(row, answered=round(float(answered.mean()), 4), where_answered=ratio(right, answered, draws))
