"""Decides by cross-validation whether tasks get tables of their own, or share one.

Prompts of several tasks share one average budget. A table for each task is worth most where one price buys much in one
task and little in another. A value at some price hardly shows that: it moves spending, too. So the two are compared at
equal FLOPs, which count alike in all tasks, and within the fixed budgets.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.policy.objectives import PricePerFlop
from router.tuning.between import neighbours
from router.tuning.evidence import Floats, Measured, interval
from router.tuning.tables import Method, halved

_PRICES = np.geomspace(3, 0.001, 24)  # of what the cheapest arm takes on average, in right answers
_AMOUNTS = 6  # mean FLOPs at which tables are compared


@dataclass(frozen=True, slots=True)
class Curve:
    """What tables give at C prices of a FLOP, in the order of rising mean FLOPs: (P, C) of each prompt."""

    accuracy: Floats
    flops: Floats

    @property
    def spent(self) -> Floats:
        """(C,) mean FLOPs."""
        return np.asarray(self.flops.mean(axis=0))

    def at(self, flops: float) -> Floats:
        """(P,) accuracy where a share of the prompts pays the lower of two prices, so that the mean is ``flops``."""
        low, high, share = neighbours(self.spent, flops)
        return np.asarray((1 - share) * self.accuracy[:, low] + share * self.accuracy[:, high])


def curve(measured: Measured, weights: Floats, probabilities: Floats, method: Method, **halves: Any) -> Curve:
    """Return the curve of the method's tables at prompts that they were not made from; arguments as in ``tables``."""
    shape = len(measured.prompts), len(_PRICES)
    accuracy, flops, times = np.zeros(shape), np.zeros(shape), np.zeros((len(measured.prompts), 1))
    prices = _PRICES / measured.flops.mean(axis=0).min()
    for read, table in halved(measured, weights, method, **halves):
        times[read] += 1
        for i, price in enumerate(prices.tolist()):
            chosen = table.decide_many(probabilities[read], PricePerFlop(price), measured.tasks[read])
            accuracy[read, i] += measured.accuracy[read, chosen]
            flops[read, i] += measured.flops[read, chosen]
    order = np.argsort((flops / times).mean(axis=0), kind="stable")
    return Curve((accuracy / times)[:, order], (flops / times)[:, order])


def gain(one: Curve, other: Curve) -> Floats:
    """(P,) accuracy of the second less that of the first at equal mean FLOPs, mean over amounts that both can spend.

    0 where there is no such amount.
    """
    least, most = max(one.spent[0], other.spent[0]), min(one.spent[-1], other.spent[-1])
    if least >= most:
        return np.zeros(len(one.accuracy))
    amounts = np.linspace(least, most, _AMOUNTS + 2)[1:-1].tolist()
    return np.asarray(np.mean([other.at(flops) - one.at(flops) for flops in amounts], axis=0))


def decide(
    single: Collection[Method],
    parted: Sequence[Method],
    measured: Measured,
    probabilities: Floats,
    *,
    within: Mapping[Method, Floats],
    draws: Floats,
    **halves: Any,
) -> tuple[Method | None, dict[str, Any]]:
    """Return the method with a table for each task that is served, and how the best one does beside single tables.

    It is served where it gains more than the tolerance on every one of the ``single`` methods, else None is returned.
    What it gains is the mean of two: at equal FLOPs, and within fixed budgets. The best one is picked on the prompts
    that its gain is measured on, so the gain is a little too high.

    within  (P, budgets) accuracy within each fixed budget, by method;  draws (R, P) resamples, for intervals
    halves  for :func:`tables.halved`
    """
    curves = {
        method: curve(measured, method.weights(probabilities, halves["levels"]), probabilities, method, **halves)
        for method in (*single, *parted)
    }

    def gains(method: Method, than: Method) -> Floats:
        """(2, P) at equal FLOPs, and within fixed budgets."""
        return np.stack([gain(curves[than], curves[method]), (within[method] - within[than]).mean(axis=1)])

    def least(method: Method) -> tuple[float, Method]:
        """Return the smallest gain on a single table's method, and that method."""
        return min(((float(gains(method, than).mean()), than) for than in single), key=lambda pair: pair[0])

    best = max(parted, key=lambda method: least(method)[0])
    rival = least(best)[1]
    found = gains(best, rival)
    served = bool(found.mean() > halves["tolerance"])
    report = {
        "served": served,
        "method": str(best),
        "instead_of": str(rival),
        "prompts": {task: int((measured.tasks == task).sum()) for task in best.tasks},
        "gain": interval(found.mean(axis=0), draws),
        "at_equal_flops": interval(found[0], draws),
        "within_budgets": interval(found[1], draws),
    }
    return best if served else None, report
