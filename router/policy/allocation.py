"""One budget shared out over many prompts by marginal gain (Damani et al., arXiv 2410.04707).

Of each prompt only the arms on the concave hull of (cost, accuracy) matter: going up the hull, each step buys accuracy
at a higher price than the one before. The steps of all prompts, cheapest accuracy first, are taken for as long as the
budget lasts. No other choice is more accurate at what this one spends, and what it leaves over is less than a step.
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

    start   (n,) each prompt's cheapest arm, the most accurate of equally cheap ones;  base (n,) what it costs
    prompt  (steps,) whose step it is;  arm (steps,) where it leads to;  cost (steps,) what it adds, above 0
    """

    start: Ints
    base: Floats
    prompt: Ints
    arm: Ints
    cost: Floats

    @classmethod
    def among(cls, columns: Ints, accuracy: Floats, cost: Floats) -> Self:
        """Of these columns (k,) only; ``accuracy`` and ``cost`` (n, k) are theirs."""
        found = cls.of(accuracy, cost)
        return cls(columns[found.start], found.base, found.prompt, columns[found.arm], found.cost)

    @classmethod
    def of(cls, accuracy: Floats, cost: Floats) -> Self:
        """accuracy, cost: (n, arms) expectations, finite."""
        rows = np.arange(len(accuracy))
        least = ROUNDING * max(float(cost.max(initial=0.0)), float(np.finfo(float).tiny))  # costs this close are equal
        cheapest = cost <= cost.min(axis=1, keepdims=True) + least
        start = np.where(cheapest, accuracy, -np.inf).argmax(axis=1)
        now, slopes = start.copy(), np.full(len(rows), np.inf)
        steps: list[tuple[Ints, Ints, Floats, Floats]] = []
        while len(rows):
            more = cost[rows] - cost[rows, now[rows]][:, None]
            gain = accuracy[rows] - accuracy[rows, now[rows]][:, None]
            slope = np.where((more > least) & (gain > ROUNDING), gain / np.maximum(more, least), -np.inf)
            steepest = slope.max(axis=1)
            # Of arms on one line the farthest: those between would only be passed.
            arm = np.where(slope >= steepest[:, None] * (1 - ROUNDING), more, -np.inf).argmax(axis=1)
            rises = steepest > 0
            rows, arm, added = rows[rises], arm[rises], more[rises, arm[rises]]
            slopes[rows] = np.minimum(slopes[rows], steepest[rises])  # they fall, whatever rounding does
            now[rows] = arm
            steps.append((rows, arm, added, slopes[rows]))
        base = cost[np.arange(len(start)), start]
        if not steps:
            return cls(start, base, start[:0], start[:0], base[:0])
        prompt, arms, costs, prices = map(np.concatenate, zip(*steps, strict=True))
        order = np.argsort(-prices, kind="stable")  # a prompt's own steps stay in order where they tie
        return cls(start, base, prompt[order], arms[order], costs[order])

    def choose(self, budget: float, among: Mask | None = None) -> Ints:
        """(n,) the arm of each prompt, ``budget`` being for those ``among`` (n,), or for all.

        Others keep their cheapest arm, and so does everybody where the cheapest arms alone cost more.
        """
        chosen = self.start.copy()
        if among is None:
            among = np.ones(len(chosen), dtype=bool)
        own = among[self.prompt]
        prompt, arm, cost = self.prompt[own], self.arm[own], self.cost[own]
        left = budget * (1 + ROUNDING) - self.base[among].sum()
        spent = np.cumsum(cost)
        whole = int(np.searchsorted(spent, left, side="right"))
        chosen[prompt[:whole]] = arm[:whole]  # of a prompt's steps the last one counts
        if left > 0 and whole < len(cost):
            left -= spent[whole - 1] if whole else 0.0
            _fill(chosen, left, prompt[whole:], arm[whole:], cost[whole:])
        return chosen


def undominated(accuracy: Floats, cost: Floats) -> Ints:
    """(k,) the arms that are worth something to some prompt; accuracy, cost: (levels, arms).

    What prompts get is a mean over levels: an arm that costs no less at every level than another, and is no more
    accurate at any, is on nobody's hull. Of equal arms the first stays.
    """
    dearer = (cost[:, :, None] >= cost[:, None, :]).all(axis=0)
    worse = (accuracy[:, :, None] <= accuracy[:, None, :]).all(axis=0)
    beaten: Mask = np.asarray(dearer & worse)
    equal = beaten & beaten.T
    beaten &= ~equal | np.tri(len(beaten), k=-1).astype(bool)
    return np.flatnonzero(~beaten.any(axis=1))


def _fill(chosen: Ints, left: float, prompt: Ints, arm: Ints, cost: Floats) -> None:
    """With what is left, later steps that still fit, none of a prompt whose step before did not."""
    least, stuck = cost.min(), set()
    for whose, to, added in zip(prompt.tolist(), arm.tolist(), cost.tolist(), strict=True):
        if left < least:
            return
        if added > left:
            stuck.add(whose)
        elif whose not in stuck:
            chosen[whose] = to
            left -= added
