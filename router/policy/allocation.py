"""Divides one budget among many prompts by marginal gain (Damani et al., arXiv 2410.04707).

For each prompt only the arms on the concave hull of (cost, accuracy) matter: along the hull, each step buys accuracy at
a higher price than the one before. The steps of all prompts are taken, cheapest accuracy first, for as long as the
budget lasts. Up to the first step that no longer fits, no other choice that spends as much is more accurate. Later,
smaller steps then fill what is left. So the accuracy that is missing to the optimum is less than that first step gains,
and the budget that is left over less than it costs.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from router.policy.objectives import ROUNDING

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ladders:
    """The hulls of n prompts, as steps in the order in which they are worth taking.

    start   (n,) each prompt's cheapest arm, the most accurate of equally cheap ones;  base (n,) the cost of that arm
    prompt  (steps,) prompt of the step;  arm (steps,) the arm after it;  cost (steps,) the cost that it adds, > 0
    """

    start: Ints
    base: Floats
    prompt: Ints
    arm: Ints
    cost: Floats

    @classmethod
    def among(cls, columns: Ints, accuracy: Floats, cost: Floats) -> Self:
        """Return the hulls over the arms in ``columns`` (k,) only, with their ``accuracy`` and ``cost`` (n, k)."""
        found = cls.of(accuracy, cost)
        return cls(columns[found.start], found.base, found.prompt, columns[found.arm], found.cost)

    @classmethod
    def of(cls, accuracy: Floats, cost: Floats) -> Self:
        """Return the hulls over all arms. ``accuracy`` and ``cost`` (n, arms) are expectations, finite."""
        rows = np.arange(len(accuracy))
        least = ROUNDING * max(float(cost.max(initial=0.0)), float(np.finfo(float).tiny))  # costs this close are equal
        cheapest = cost <= cost.min(axis=1, keepdims=True) + least
        start = np.where(cheapest, accuracy, -np.inf).argmax(axis=1)
        base = cost[rows, start]
        # What follows is of the prompts that still have steps to take: ``rows``.
        now, slopes = start, np.full(len(rows), np.inf)
        steps: list[tuple[Ints, Ints, Floats, Floats]] = []
        while len(rows):
            each = np.arange(len(rows))
            more = cost - cost[each, now][:, None]
            gain = accuracy - accuracy[each, now][:, None]
            better = (more > least) & (gain > ROUNDING)
            slope = np.divide(gain, more, out=np.full(more.shape, -np.inf), where=better)
            arm = slope.argmax(axis=1)  # of several on one line any: the next step takes a farther one
            steepest = slope[each, arm]
            rises = np.flatnonzero(steepest > 0)
            rows, now = rows[rises], arm[rises]
            slopes = np.minimum(slopes[rises], steepest[rises])  # slopes must fall, also with rounding errors
            steps.append((rows, now, more[rises, now], slopes))
            if len(rises) < len(each):
                cost, accuracy = cost[rises], accuracy[rises]
        if not steps:
            return cls(start, base, start[:0], start[:0], base[:0])
        prompt, arms, costs, prices = map(np.concatenate, zip(*steps, strict=True))
        order = np.argsort(-prices, kind="stable")  # stable: equal steps of one prompt stay in order
        return cls(start, base, prompt[order], arms[order], costs[order])

    def choose(self, budget: float, among: Mask | None = None) -> Ints:
        """(n,) the arm of each prompt.

        budget  total cost of the prompts ``among`` (n,), or of all prompts if that is None

        The other prompts keep their cheapest arm. So does every prompt where the cheapest arms alone cost more than the
        budget.
        """
        chosen = self.start.copy()
        if among is None:
            among = np.ones(len(chosen), dtype=bool)
        own = among[self.prompt]
        prompt, arm, cost = self.prompt[own], self.arm[own], self.cost[own]
        left = budget * (1 + ROUNDING) - self.base[among].sum()
        spent = np.cumsum(cost)
        whole = int(np.searchsorted(spent, left, side="right"))
        chosen[prompt[:whole]] = arm[:whole]  # a prompt's last step overwrites its earlier ones
        if left > 0 and whole < len(cost):
            left -= spent[whole - 1] if whole else 0.0
            _fill(chosen, left, prompt[whole:], arm[whole:], cost[whole:])
        return chosen


def undominated(accuracy: Floats, cost: Floats) -> Ints:
    """(k,) columns of the arms that may be best for some prompt; ``accuracy`` and ``cost`` are (levels, arms).

    A prompt's expectations are means over levels. So an arm that costs at least as much as another at every level, and
    is more accurate at none, is on no prompt's hull. Of equal arms the first stays.
    """
    dearer = (cost[:, :, None] >= cost[:, None, :]).all(axis=0)
    worse = (accuracy[:, :, None] <= accuracy[:, None, :]).all(axis=0)
    beaten: Mask = np.asarray(dearer & worse)
    equal = beaten & beaten.T
    beaten &= ~equal | np.tri(len(beaten), k=-1).astype(bool)
    return np.flatnonzero(~beaten.any(axis=1))


def _fill(chosen: Ints, left: float, prompt: Ints, arm: Ints, cost: Floats) -> None:
    """Spend what is left on later steps that fit; a prompt gets no step after one that didn't fit."""
    least, stuck = cost.min(), set()
    for whose, to, added in zip(prompt.tolist(), arm.tolist(), cost.tolist(), strict=True):
        if left < least:
            return
        if added > left:
            stuck.add(whose)
        elif whose not in stuck:
            chosen[whose] = to
            left -= added
