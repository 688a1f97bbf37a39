"""Measures how far served prompts have drifted from the tuning prompts: by levels, and by accuracies promised."""

import math
from collections.abc import Sequence

from router.service.middleware.call import Verdict

_BINS = 10  # bins of expected accuracy


def stability(counts: Sequence[float], expected: Sequence[float]) -> float:
    """Return the population stability index of two histograms: sum of (p - q) ln(p / q).

    By convention, below 0.1 they are alike, above 0.25 they differ. Half a count is added to each bin, so that an empty
    bin has a large and not an infinite effect.
    """

    def shares(bins: Sequence[float]) -> list[float]:
        return [(count + 0.5) / (sum(bins) + len(bins) / 2) for count in bins]

    return sum((p - q) * math.log(p / q) for p, q in zip(shares(counts), shares(expected), strict=True))


def calibration_error(verdicts: Sequence[Verdict]) -> float:
    """Return the expected calibration error (Naeini et al. 2015), 0 to 1.

    Verdicts are sorted into ten equal bins of expected accuracy. The error is the mean distance between a bin's mean
    expected accuracy and its share of right answers, weighted by its number of verdicts. It is never quite 0: 1000
    verdicts of a perfectly calibrated policy give 0.01 to 0.03, 100 of them up to 0.1.
    """
    gaps = [0.0] * _BINS
    for verdict in verdicts:
        gaps[min(int(verdict.expected * _BINS), _BINS - 1)] += verdict.right - verdict.expected
    return sum(map(abs, gaps)) / len(verdicts)
