"""Whether what is served has moved away from what was tuned on: levels, and promised accuracies."""

import math
from collections.abc import Sequence

from router.policy.table import LEVELS, Policy
from router.service.middleware.call import Verdict

_BINS = 10  # of expected accuracy


def training_counts(policy: Policy) -> list[float]:
    """How many of the prompts that a policy was tuned on were predicted to be at each level."""
    return [max((cell.prompts for cell in policy.cells if cell.level == level), default=0) for level in LEVELS]


def stability(counts: Sequence[float], expected: Sequence[float]) -> float:
    """Population stability index of two histograms: sum of (p - q) ln(p / q). Below 0.1 alike, above 0.25 shifted.

    Half a count is added to each bin, so that an empty one counts much, and not infinitely.
    """

    def shares(bins: Sequence[float]) -> list[float]:
        return [(count + 0.5) / (sum(bins) + len(bins) / 2) for count in bins]

    return sum((p - q) * math.log(p / q) for p, q in zip(shares(counts), shares(expected), strict=True))


def calibration_error(verdicts: Sequence[Verdict]) -> float:
    """Expected calibration error (Naeini et al. 2015): mean distance, over ten equal bins of expected accuracy weighed
    by their verdicts, between what was expected there and the share that was right; 0 to 1.

    It is never quite 0: 1000 verdicts of a perfectly calibrated policy give 0.01 to 0.03, 100 of them up to 0.1.
    """
    gaps = [0.0] * _BINS
    for verdict in verdicts:
        gaps[min(int(verdict.expected * _BINS), _BINS - 1)] += verdict.right - verdict.expected
    return sum(map(abs, gaps)) / len(verdicts)
