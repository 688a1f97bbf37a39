"""Levels: quintiles of a per-prompt statistic, 1 the easiest fifth and 5 the hardest (Snell et al., section 3.2)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = (1, 2, 3, 4, 5)
_DIGITS = 9  # decimal places of statistics; what differs only after them is rounding, and counts as equal


def find_edges(statistics: ArrayLike, smallest: int = 5) -> NDArray[np.float64]:
    """Return the four edges between levels, from the easiest (so in falling order), in units of the statistic.

    statistics  (n,) pass rate or mean score of each prompt; larger is easier
    smallest    least number of prompts that each level must have

    A pass rate over 16 attempts has 17 values, and many prompts share 0 or 1. So plain quintiles often coincide and
    leave levels empty. Prompts with equal statistics can't be told apart and must share a level. Among all ways to cut
    between different values, this takes the one whose five levels are nearest to a fifth of the prompts each, by least
    squares. Without ties that is exactly the quintiles; with ties no level is empty as long as there are five groups of
    equal values. An edge lies half way between the two values that it separates.

    Raises ValueError where there are no five levels of ``smallest`` prompts.
    """
    statistics = np.asarray(statistics, dtype=float).round(_DIGITS)
    if statistics.ndim != 1 or not len(statistics) or not np.isfinite(statistics).all():
        raise ValueError("statistics must be a non-empty list of finite numbers, one a prompt")
    values, counts = np.unique(statistics, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # below[i]: prompts with a value under values[i]
    # Dynamic programming, with one level more in each round, from the lowest values up.
    # error[i, j]: squared error of one level with values[i:j], infinite where it is too small.
    # best[j]: least total error of cutting values[:j] into the levels so far.
    # cuts: of each round, by j, where the last level begins.
    sizes = below[None, :] - below[:, None]
    error = np.where(sizes >= max(1, smallest), (sizes - len(statistics) / len(LEVELS)) ** 2, np.inf)
    best, cuts = error[0], []
    for _ in LEVELS[1:]:
        total = best[:, None] + error
        cuts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError(_too_few(statistics, len(values), smallest))
    end, edges = len(values), []
    for cut in reversed(cuts):
        end = int(cut[end])
        edges.append((values[end - 1] + values[end]) / 2)
    return np.array(edges)


def levels_of(statistics: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """(n,) the level of each of (n,) statistics: 1 at or above the first edge, 5 below the last of the four."""
    harder = np.asarray(statistics, dtype=float)[:, None] < np.asarray(edges)[None, :]
    return np.asarray(1 + harder.sum(axis=1), dtype=np.int64)


def _too_few(statistics: NDArray[np.float64], distinct: int, smallest: int) -> str:
    """Return what to tell where there are no five levels: which of the plain quintiles are too small, and why."""
    quintiles = np.quantile(statistics, [0.8, 0.6, 0.4, 0.2])
    counts = np.bincount(levels_of(statistics, quintiles), minlength=6)[1:]
    small = [
        f"level {level} ({count} prompts)" for level, count in zip(LEVELS, counts, strict=True) if count < smallest
    ]
    return (
        f"the {len(statistics)} prompts don't fall into five levels of at least {smallest}: their statistic has "
        f"{distinct} different values, {np.mean(statistics == statistics.min()):.0%} of them at its lowest "
        f"{statistics.min():g} and {np.mean(statistics == statistics.max()):.0%} at its highest {statistics.max():g}; "
        f"quintiles would leave {', '.join(small) or 'levels'} too small"
    )
