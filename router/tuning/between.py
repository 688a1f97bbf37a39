"""Mixes two neighbouring points of a curve: some prompts take one choice, the others the next, at random."""

import numpy as np
from numpy.typing import NDArray

ROOM = 1.02  # spending that differs by no more than this factor counts as equal


def neighbours(spent: NDArray[np.float64], amount: float) -> tuple[int, int, float]:
    """Return the two neighbouring points of a curve whose mix spends this much on average, and the second's share.

    Beyond the ends it is the nearer end, twice.

    spent  (C,) mean spend at each point, rising
    """
    high = int(np.searchsorted(spent, amount))
    if high in (0, len(spent)):
        end = min(high, len(spent) - 1)
        return end, end, 0.0
    return high - 1, high, share_of_second(float(spent[high - 1]), float(spent[high]), amount)


def share_of_second(first: float, second: float, amount: float) -> float:
    """Return the share of the second in a mix of two that spends this much on average; 0 or 1 where no mix does."""
    return float(np.clip((amount - first) / (second - first), 0, 1)) if second != first else 0.0
