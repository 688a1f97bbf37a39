"""Accuracy against spend, and how much less of it one curve needs than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.tuning.evidence import interval
from strategies import Arm

REFERENCES = ("weighted_best_of_n", "majority")
UNITS = ("generations", "flops")


@dataclass(frozen=True, slots=True)
class Runs:
    """(P,) one arm on each prompt: accuracy, generations (complete solutions' worth), FLOPs (the estimator's too)."""

    accuracy: NDArray[np.float64]
    generations: NDArray[np.float64]
    flops: NDArray[np.float64]

    def point(self, draws: NDArray[np.float64]) -> dict[str, float]:
        spent = {"generations": round(float(self.generations.mean()), 3), "flops": round(float(self.flops.mean()))}
        return interval(self.accuracy, draws) | spent


Curve = Mapping[float, Runs]  # by budget, in rising order


def savings(points: Curve, fixed: Mapping[str, Curve], draws: NDArray[np.float64]) -> dict[str, Any]:
    """Times less compute for the best accuracy of each reference curve.

    The target is the reference's best budget. A resample in which the curve never reaches it counts as 0 times.
    """
    results = {}
    for name in REFERENCES:
        reference = fixed.get(name, {})
        if not reference or not points:
            results[name] = {"target": None, "reason": "not measured on these attempts"}
            continue
        best = max(reference, key=lambda budget: (round(float(reference[budget].accuracy.mean()), 9), -budget))
        result: dict[str, Any] = {
            "target": {
                "arm": str(Arm(name, int(best))) if best > 1 else "majority(n=1)",
                **reference[best].point(draws),
            }
        }
        everyone = np.full((1, draws.shape[1]), 1 / draws.shape[1])
        for unit in UNITS:
            exact = float(_times_less(points, reference[best], unit, everyone)[0])
            spread = _times_less(points, reference[best], unit, draws)
            low, high = np.quantile(spread, [0.025, 0.975])
            result[unit] = {
                "times": round(exact, 3),
                "low": round(float(low), 3),
                "high": round(float(high), 3),
                "reached": round(float((spread > 0).mean()), 3),
            }
        result["by_budget"] = [
            {
                "budget": budget,
                **{unit: round(float(_times_less(points, runs, unit, everyone)[0]), 3) for unit in UNITS},
            }
            for budget, runs in reference.items()
        ]
        if not result["generations"]["times"]:
            top = max(float(runs.accuracy.mean()) for runs in points.values())
            result["reason"] = f"its highest accuracy {top:.4f} stays below {result['target']['accuracy']:.4f}"
        results[name] = result
    return {**results[REFERENCES[0]], "majority": results["majority"]}


def _times_less(points: Curve, target: Runs, unit: str, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) the target's spend over the curve's for the same accuracy, on each resample; 0 where never reached."""
    accuracy = np.stack([draws @ runs.accuracy for runs in points.values()], axis=1)
    spend = np.stack([draws @ getattr(runs, unit) for runs in points.values()], axis=1)
    goals, spent = draws @ target.accuracy, draws @ getattr(target, unit)
    matched = [spend_to_match(x, y, goal) for x, y, goal in zip(spend, accuracy, goals, strict=True)]
    return np.array([0.0 if x is None else total / x for x, total in zip(matched, spent, strict=True)])


def spend_to_match(spend: Sequence[float], accuracy: Sequence[float], goal: float) -> float | None:
    """Where a curve first reaches an accuracy, interpolated on a log scale between its points; None: never."""
    for i, reached in enumerate(accuracy):
        if reached >= goal - 1e-12:
            if i == 0 or reached == accuracy[i - 1]:
                return float(spend[i])
            share = (goal - accuracy[i - 1]) / (reached - accuracy[i - 1])
            return float(spend[i - 1] * (spend[i] / spend[i - 1]) ** share)
    return None


def gain_kept(policies: Mapping[str, Curve], reference: Curve, draws: NDArray[np.float64]) -> dict[str, Any]:
    """Mean gain over the budgets that all three were measured at, and the ratio of the two."""
    shared = [budget for budget in reference if budget in policies["predicted"] and budget in policies["oracle"]]
    if not shared:
        return {"value": None, "reason": "not measured on these attempts"}
    predicted, oracle = (
        np.mean([policies[name][budget].accuracy - reference[budget].accuracy for budget in shared], axis=0)
        for name in ("predicted", "oracle")
    )
    result: dict[str, Any] = {"predicted": interval(predicted, draws), "oracle": interval(oracle, draws)}
    if oracle.mean() <= 0:
        return {"value": None, "reason": "with oracle levels there is no gain to keep"} | result
    gains = draws @ oracle
    ratios = np.where(gains > 0, (draws @ predicted) / np.where(gains > 0, gains, 1), np.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    value = round(float(predicted.mean() / oracle.mean()), 3)
    return {"value": value, "low": round(float(low), 3), "high": round(float(high), 3)} | result
