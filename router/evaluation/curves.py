"""Curves of accuracy against spend, and how much less one curve spends than another for the same accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from router.evaluation.parts import Estimate, Point
from router.evaluation.report import GapRecovered, Saving, Times, TimesAt
from router.tuning.between import neighbours, share_of_second
from router.tuning.evidence import interval
from router.tuning.warnings import FEWEST

REFERENCES = ("weighted_best_of_n", "majority")  # savings are counted against these strategies


@dataclass(frozen=True, slots=True)
class PerPrompt:
    """The results of a choice of arms on each of P prompts; every array is (P,).

    accuracy     expected share of right answers
    generations  spend in complete solutions
    flops        FLOPs of all models
    """

    accuracy: NDArray[np.float64]
    generations: NDArray[np.float64]
    flops: NDArray[np.float64]

    def on(self, rows: NDArray[np.int64]) -> "PerPrompt":
        """Return the results on some of the prompts."""
        return PerPrompt(self.accuracy[rows], self.generations[rows], self.flops[rows])

    def point(self, draws: NDArray[np.float64]) -> Point:
        """Return means over the prompts with intervals. ``draws``: (R, P) weights of R bootstrap resamples."""
        found = estimate(self.accuracy, draws)
        spent = round(float(self.generations.mean()), 3), round(float(self.flops.mean()))
        return Point(found.value, found.low, found.high, *spent)


_NUMBERS = tuple(each.name for each in fields(PerPrompt))


def mean_of(found: Sequence[PerPrompt], shares: Sequence[float] | None = None) -> PerPrompt:
    """Return the mean of several results on the same prompts, prompt by prompt; ``shares``: weights, None if equal."""
    return PerPrompt(
        *(np.average([getattr(runs, name) for runs in found], axis=0, weights=shares) for name in _NUMBERS)
    )


def mixed(first: PerPrompt, second: PerPrompt, spent: float, unit: Literal["generations", "flops"]) -> PerPrompt:
    """Return a random mix of the two that spends this much on average, or the nearer one if no mix does."""
    first_spent, second_spent = (float(getattr(runs, unit).mean()) for runs in (first, second))
    return _blend(first, second, share_of_second(first_spent, second_spent, spent))


def between(points: Sequence[PerPrompt], spent: NDArray[np.float64], amount: float) -> PerPrompt:
    """Return a random mix of the two nearest of several results at this mean spend; beyond the ends the nearer one.

    spent  mean spend of each, rising, in the unit of ``amount``
    """
    low, high, share = neighbours(spent, amount)
    return _blend(points[low], points[high], share)


def _blend(first: PerPrompt, second: PerPrompt, share: float) -> PerPrompt:
    """Return the results where so large a share of the prompts takes the second."""
    return PerPrompt(*((1 - share) * getattr(first, name) + share * getattr(second, name) for name in _NUMBERS))


Curve = Mapping[float, PerPrompt]  # results by budget, in rising order of budgets


def estimate(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Estimate:
    """Return the mean of (P,) values, with its interval over (R, P) resamples."""
    found = interval(values, draws)
    return Estimate(found["accuracy"], found["low"], found["high"])


def ratio(some: NDArray[np.float64], every: NDArray[np.float64], draws: NDArray[np.float64]) -> Estimate | None:
    """Return the sum of (P,) values / the sum of (P,) others, with its interval over (R, P) resamples; None: it is x/0.

    Resamples in which nothing is divided by are left out.
    """
    if not every.any():
        return None
    below = draws @ every
    low, high = np.quantile((draws @ some)[below > 0] / below[below > 0], [0.025, 0.975])
    return Estimate(round(float(some.sum() / every.sum()), 4), round(float(low), 4), round(float(high), 4))


def saving(curve: Curve, name: str, reference: Curve, draws: NDArray[np.float64]) -> Saving:
    """Return how many times less ``curve`` spends for the highest accuracy of ``reference``, the strategy ``name``.

    A resample in which ``curve`` never reaches that accuracy counts as 0 times. Where ``reference`` solves fewer than
    :data:`FEWEST` prompts, nothing is compared.
    """
    if not reference or not curve:
        return Saving(None, None, None, None, (), "not measured on these attempts")
    best = max(reference, key=lambda budget: (round(float(reference[budget].accuracy.mean()), 9), -budget))
    arm = f"{name}(n={best:g})" if best > 1 else "majority(n=1)"  # with one sample all sampling arms are the same
    solved = int((reference[best].accuracy > 0).sum())
    if solved < FEWEST:
        thin = f"it is sometimes right on only {solved} of {draws.shape[1]} prompts, and {FEWEST} are needed"
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
        reason = f"the highest accuracy reached, {highest:.4f}, stays below {target.accuracy:.4f}"
    return Saving(arm, target, generations, flops, by_budget, reason)


def savings_of(
    policies: Mapping[str, Curve], references: Mapping[str, Curve], draws: NDArray[np.float64]
) -> dict[str, dict[str, Saving]]:
    """Return the savings of each policy against each of :data:`REFERENCES`, by their names; see :func:`saving`."""
    return {
        policy: {name: saving(curve, name, references.get(name, {}), draws) for name in REFERENCES}
        for policy, curve in policies.items()
    }


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
    """Return (R,) target's spend / curve's spend for the same accuracy, on each resample; 0 where never reached."""
    accuracy = np.stack([draws @ runs.accuracy for runs in curve.values()], axis=1)
    spend = np.stack([draws @ getattr(runs, unit) for runs in curve.values()], axis=1)
    goals, spent = draws @ target.accuracy, draws @ getattr(target, unit)
    matched = [spend_to_match(x, y, goal) for x, y, goal in zip(spend, accuracy, goals, strict=True)]
    return np.array([0.0 if x is None else total / x for x, total in zip(matched, spent, strict=True)])


def spend_to_match(spend: Sequence[float], accuracy: Sequence[float], goal: float) -> float | None:
    """Return the spend at which a curve first reaches an accuracy; None: never.

    Between two points it is that of the random mix of the two which has this accuracy.
    """
    for i, reached in enumerate(accuracy):
        if reached >= goal - 1e-12:
            if i == 0 or reached == accuracy[i - 1]:
                return float(spend[i])
            share = (goal - accuracy[i - 1]) / (reached - accuracy[i - 1])
            return float(spend[i - 1] + share * (spend[i] - spend[i - 1]))
    return None


def gap_recovered(predicted: Curve, oracle: Curve, reference: Curve, draws: NDArray[np.float64]) -> GapRecovered:
    """Return the mean gains of ``predicted`` and ``oracle`` over ``reference``, and the ratio of the two gains.

    The means are over the budgets at which all three were measured.
    """
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
