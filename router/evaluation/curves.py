"""Accuracy against spend, and how much less of it one curve needs than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.evaluation.parts import Estimate, Point
from router.evaluation.report import GapRecovered, Saving, Times, TimesAt
from router.tuning.evidence import interval
from router.tuning.warnings import FEWEST

REFERENCES = ("weighted_best_of_n", "majority")  # the strategies that savings are counted against


@dataclass(frozen=True, slots=True)
class PerPrompt:
    """One arm on each of P prompts; every array is (P,).

    accuracy     expected share of right answers;  generations in complete solutions;  flops of all models
    """

    accuracy: NDArray[np.float64]
    generations: NDArray[np.float64]
    flops: NDArray[np.float64]

    def on(self, rows: NDArray[np.int64]) -> "PerPrompt":
        """Some of the prompts."""
        return PerPrompt(self.accuracy[rows], self.generations[rows], self.flops[rows])

    def point(self, draws: NDArray[np.float64]) -> Point:
        """Means over the prompts; ``draws`` (R, P) are the weights of R bootstrap resamples."""
        found = estimate(self.accuracy, draws)
        spent = round(float(self.generations.mean()), 3), round(float(self.flops.mean()))
        return Point(found.value, found.low, found.high, *spent)


Curve = Mapping[float, PerPrompt]  # by budget, in rising order


def estimate(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Estimate:
    """The mean of (P,) values with its interval over (R, P) resamples."""
    found = interval(values, draws)
    return Estimate(found["accuracy"], found["low"], found["high"])


def saving(curve: Curve, name: str, reference: Curve, draws: NDArray[np.float64]) -> Saving:
    """How many times less ``curve`` spends for the highest accuracy of ``reference``, the curve of strategy ``name``.

    A resample in which ``curve`` never reaches that accuracy counts as 0 times. Where ``reference`` solves fewer than
    :data:`FEWEST` prompts nothing is compared.
    """
    if not reference or not curve:
        return Saving(None, None, None, None, (), "not measured on these attempts")
    best = max(reference, key=lambda budget: (round(float(reference[budget].accuracy.mean()), 9), -budget))
    arm = f"{name}(n={best:g})" if best > 1 else "majority(n=1)"  # one sample leaves nothing to select
    solved = int((reference[best].accuracy > 0).sum())
    if solved < FEWEST:
        thin = f"it is ever right on {solved} of {draws.shape[1]} prompts only, and {FEWEST} are needed"
        return Saving(arm, reference[best].point(draws), None, None, (), thin)
    everyone = np.full((1, draws.shape[1]), 1 / draws.shape[1])
    generations, flops = (_times(curve, reference[best], unit, everyone, draws) for unit in ("generations", "flops"))
    by_budget = tuple(
        TimesAt(
            budget,
            round(float(_times_less(curve, runs, "generations", everyone)[0]), 3),
            round(float(_times_less(curve, runs, "flops", everyone)[0]), 3),
        )
        for budget, runs in reference.items()
    )
    target, reason = reference[best].point(draws), None
    if not generations.times:
        highest = max(float(runs.accuracy.mean()) for runs in curve.values())
        reason = f"its highest accuracy {highest:.4f} stays below {target.accuracy:.4f}"
    return Saving(arm, target, generations, flops, by_budget, reason)


def _times(
    curve: Curve, target: PerPrompt, unit: str, everyone: NDArray[np.float64], draws: NDArray[np.float64]
) -> Times:
    spread = _times_less(curve, target, unit, draws)
    low, high = np.quantile(spread, [0.025, 0.975])
    return Times(
        times=round(float(_times_less(curve, target, unit, everyone)[0]), 3),
        low=round(float(low), 3),
        high=round(float(high), 3),
        reached=round(float((spread > 0).mean()), 3),
    )


def _times_less(curve: Curve, target: PerPrompt, unit: str, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R,) the target's spend over the curve's for the same accuracy, on each resample; 0 where never reached."""
    accuracy = np.stack([draws @ runs.accuracy for runs in curve.values()], axis=1)
    spend = np.stack([draws @ getattr(runs, unit) for runs in curve.values()], axis=1)
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


def gap_recovered(predicted: Curve, oracle: Curve, reference: Curve, draws: NDArray[np.float64]) -> GapRecovered:
    """Mean gain over the budgets that all three were measured at, and the ratio of the two."""
    shared = [budget for budget in reference if budget in predicted and budget in oracle]
    if not shared:
        return GapRecovered(None, None, None, None, None, "not measured on these attempts")
    mine, most = (
        np.mean([curve[budget].accuracy - reference[budget].accuracy for budget in shared], axis=0)
        for curve in (predicted, oracle)
    )
    both = estimate(mine, draws), estimate(most, draws)
    if most.mean() <= 0:
        return GapRecovered(None, None, None, *both, "on measured levels there is no gain either")
    gains = draws @ most
    ratios = np.where(gains > 0, (draws @ mine) / np.where(gains > 0, gains, 1), np.nan)
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return GapRecovered(
        round(float(mine.mean() / most.mean()), 3), round(float(low), 3), round(float(high), 3), *both, None
    )
