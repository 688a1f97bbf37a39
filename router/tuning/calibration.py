"""How well confidences agree with outcomes, compared with what chance alone would show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from difficulty.compare import calibration_error
from router.schema import STRICT

Floats = NDArray[np.float64]
BINS = 10
_SIMULATED = 1000


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose confidence lies in one tenth: how many, mean confidence, share right with its 95% interval."""

    __pydantic_config__ = STRICT

    count: int
    confidence: float
    right: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well confidences agree with outcomes.

    error    expected calibration error: mean distance between the two over ten equal-width bins, weighted by answers
    chance   mean error of perfectly calibrated confidences of this spread, by simulation; ``chance_high`` is exceeded
             in one of 20 simulations
    brier    mean squared distance between confidence and outcome;  brier_constant  the same for always saying the mean
    auc      probability that a right answer has a higher confidence than a wrong one; None without both
    bins     the reliability diagram, empty bins left out
    """

    __pydantic_config__ = STRICT

    answers: int
    error: float
    chance: float
    chance_high: float
    brier: float
    brier_constant: float
    auc: float | None
    bins: tuple[Bin, ...]


def calibration(confidence: Floats, right: Floats, *, seed: int = 0) -> Calibration:
    """Compare (N,) confidences of answers with whether each is right (0 or 1). The answers must be independent."""
    rng = np.random.default_rng(seed)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    perfect = [calibration_error(confidence, rng.random(len(confidence)) < confidence, BINS) for _ in range(_SIMULATED)]
    bins = []
    for i in np.unique(place):
        inside = place == i
        mean = float(right[inside].mean())
        low, high = _wilson(mean, int(inside.sum()))
        bins.append(Bin(int(inside.sum()), round(float(confidence[inside].mean()), 4), round(mean, 4), low, high))
    auc = float(roc_auc_score(right > 0.5, confidence)) if 0 < right.mean() < 1 else None
    return Calibration(
        answers=len(confidence),
        error=round(calibration_error(confidence, right, BINS), 4),
        chance=round(float(np.mean(perfect)), 4),
        chance_high=round(float(np.quantile(perfect, 0.95)), 4),
        brier=round(float(((confidence - right) ** 2).mean()), 4),
        brier_constant=round(float(right.var()), 4),
        auc=None if auc is None else round(auc, 4),
        bins=tuple(bins),
    )


def _wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return round(float(middle - half), 4), round(float(middle + half), 4)
