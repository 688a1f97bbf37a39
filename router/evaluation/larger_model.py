"""Thinking longer against a larger model, at equal FLOPs (Snell et al., section 7)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.evaluation.curves import Runs
from router.policy.table import LEVELS, Objective, Policy
from router.tuning.evidence import Measured, interval, resamples

RATIOS = (0.16, 0.79, 22.0)  # tokens written in service ÷ tokens trained on: the paper's three
MIDDLING = (0.1, 0.6)  # pass rates at which more thinking has something to work with


def generations_worth(times: float, ratio: float) -> float:
    """How many solutions a model may write for one of a model ``times`` its size, when all FLOPs count.

    Training costs 6, writing 2 FLOPs a parameter and token: M + 3 (M - 1) / R, where R is written ÷ trained tokens.
    """
    return times + 3 * (times - 1) / ratio


def flops_matched(
    measured: Measured,
    policy: Policy,
    probabilities: NDArray[np.float64],
    levels: NDArray[np.int64],
    pass_rates: NDArray[np.float64],
    *,
    budgets: Sequence[int],
    seed: int,
) -> dict[str, Any] | None:
    """The policy on the small model alone against one greedy solution of the larger; None where that was not run.

    times   how many times the small model's parameters;  flops  of the larger one's solution ÷ one of the small one's
    curve   by group and budget: what the policy reaches and spends
    ratios  by R: the solutions that the small model may write (``allowed``), what it spent (less, where no larger
            budget was measured), and by group both accuracies and their difference

    Groups are all prompts, each level, and the prompts of middling pass rate.
    """
    column = next((k for k, arm in enumerate(measured.arms) if arm.larger), None)
    if column is None:
        return None
    generator, _, parameters = measured.parameters
    times = parameters / generator
    groups = {"all": np.ones(len(levels), dtype=bool)}
    groups |= {f"level {level}": levels == level for level in LEVELS}
    groups["pass rate {} to {}".format(*MIDDLING)] = (pass_rates >= MIDDLING[0]) & (pass_rates <= MIDDLING[1])
    rows = {name: np.flatnonzero(inside) for name, inside in groups.items() if inside.sum() > 1}
    draws = {name: resamples(len(inside), np.random.default_rng(seed)) for name, inside in rows.items()}
    alone = _without_larger(policy)
    larger = measured.accuracy[:, column]

    def thinking(budget: float) -> Runs:
        objective = Objective("budget", min(budget, alone.largest))
        arms = [alone.decide(row, objective).arm for row in probabilities.tolist()]
        columns = [measured.arms.index(arm) for arm in arms]
        everyone = np.arange(len(levels))
        return Runs(
            *(values[everyone, columns] for values in (measured.accuracy, measured.generations, measured.flops))
        )

    def compared(ratio: float) -> dict[str, Any]:
        allowed = generations_worth(times, ratio)
        small = thinking(int(allowed))
        return {
            "ratio": ratio,
            "allowed": round(allowed, 1),
            "spent": round(float(small.generations.mean()), 2),
            "groups": [
                {
                    "group": name,
                    "prompts": len(inside),
                    "small": interval(small.accuracy[inside], draws[name]),
                    "larger": interval(larger[inside], draws[name]),
                    "difference": interval((small.accuracy - larger)[inside], draws[name]),
                }
                for name, inside in rows.items()
            ],
        }

    sample = measured.flops[:, [arm.strategy == "majority" and arm.n == 1 for arm in measured.arms]].mean()
    return {
        "arm": str(measured.arms[column]),
        "times": round(times, 2),
        "flops": round(float(measured.flops[:, column].mean() / sample), 2),
        "curve": [
            {"group": name, "budget": budget, **_point(runs, inside, draws[name])}
            for budget, runs in ((budget, thinking(budget)) for budget in budgets)
            for name, inside in rows.items()
        ],
        "ratios": [compared(ratio) for ratio in RATIOS],
    }


def _without_larger(policy: Policy) -> Policy:
    cells = [cell for cell in policy.cells if not cell.arm.larger]
    default = Objective("budget", min(cell.arm.budget for cell in cells))
    return Policy(cells, default, ladder=policy.ladder, deciding=policy.deciding, tolerance=policy.tolerance)


def _point(runs: Runs, inside: NDArray[np.int64], draws: NDArray[np.float64]) -> dict[str, float]:
    return Runs(runs.accuracy[inside], runs.generations[inside], runs.flops[inside]).point(draws)
