"""Compares candidates for the difficulty model by cross-validation over prompts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import cohen_kappa_score, log_loss
from sklearn.model_selection import StratifiedGroupKFold

from difficulty.levels import LEVELS, levels_of
from difficulty.model import CANDIDATES, DifficultyModel

_SLOW = {"hidden_logistic"}  # candidates that are slow to fit: they are not tried on several kinds of vectors


@dataclass(frozen=True, slots=True)
class Quality:
    """How good predicted levels are.

    log_loss    in nats; candidates are chosen by it
    ece         expected calibration error of the likeliest level, 10 equal-width bins
    kappa       quadratic weighted kappa of the likeliest level with the true one; 0 where there is one level only
    spearman    rank correlation of the expected level, from hard to easy, with the statistic; 1 is perfect, 0 where one
                of them is constant
    accuracy    share of prompts whose likeliest level is the true one
    """

    log_loss: float
    ece: float
    kappa: float
    spearman: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """The out-of-fold result of one candidate.

    probabilities  (n, 5) of the levels, for each prompt;  milliseconds  to predict one prompt
    vectors  name of the vectors that it read; empty where it read the text
    """

    name: str
    quality: Quality
    milliseconds: float
    probabilities: NDArray[np.float64]
    vectors: str = ""


def compare(
    prompts: Sequence[str],
    vectors: Mapping[str, NDArray[np.float32]],
    statistics: ArrayLike,
    edges: ArrayLike,
    *,
    names: Sequence[str] = tuple(CANDIDATES),
    folds: int = 5,
    seed: int = 0,
) -> list[Candidate]:
    """Return out-of-fold predictions of each candidate on the same folds, best log-loss first.

    prompts     n texts
    vectors     by name: (n, d) vectors of the prompts, such as hidden states. A candidate that reads vectors is tried
                on each; where there are several, a candidate that is slow to fit is left out
    statistics  (n,) pass rate or mean score of each prompt
    edges       (4,) edges between levels, in falling order
    names       of the candidates
    folds       number of folds; fewer where the smallest level has fewer prompts than this
    seed        of the folds and of the random numbers in fitting

    Prompts with the same text are in the same fold. Calibration happens inside each training fold. Raises ValueError
    where a level has one prompt only.
    """
    statistics = np.asarray(statistics, dtype=float)
    levels = levels_of(statistics, edges)
    folds = min(folds, int(np.unique(levels, return_counts=True)[1].min()))
    if folds < 2:
        raise ValueError("cross-validation needs at least two prompts at each level; collect more prompts")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(levels, levels, groups=prompts))
    results = []
    for name in names:
        model = DifficultyModel(name, edges=list(np.asarray(edges)), seed=seed)
        tried: Mapping[str, NDArray[Any]] = {"": np.asarray(prompts, dtype=object)}
        if model.input == "hidden":
            tried = {} if len(vectors) > 1 and name in _SLOW else vectors
        for read, X in tried.items():  # noqa: N806
            probabilities = np.zeros((len(levels), len(LEVELS)))
            for train, test in splits:
                probabilities[test] = model.fit(X[train], statistics[train]).predict_proba(X[test])
            quality = measure(probabilities, statistics, edges)
            results.append(Candidate(name, quality, _speed(model, X), probabilities, read))
    return sorted(results, key=lambda result: result.quality.log_loss)


def measure(probabilities: NDArray[np.float64], statistics: ArrayLike, edges: ArrayLike) -> Quality:
    """Return the quality of (n, 5) predicted probabilities, against the levels of the (n,) statistics by (4,) edges."""
    levels = levels_of(statistics, edges)
    predicted = 1 + probabilities.argmax(axis=1)
    same = len({*levels, *predicted}) == 1  # kappa is undefined where there is one level only
    return Quality(
        log_loss=float(log_loss(levels, probabilities / probabilities.sum(axis=1, keepdims=True), labels=LEVELS)),
        ece=calibration_error(probabilities.max(axis=1), predicted == levels),
        kappa=0.0 if same else float(cohen_kappa_score(levels, predicted, labels=LEVELS, weights="quadratic")),
        spearman=_rank_correlation(-probabilities @ np.array(LEVELS), np.asarray(statistics, dtype=float)),
        accuracy=float((levels == predicted).mean()),
    )


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_] | NDArray[np.float64], bins: int = 10
) -> float:
    """Return the expected calibration error, 0 to 1 (Naeini et al. 2015).

    Predictions are sorted into equal-width bins of confidence. The error is the mean distance between a bin's mean
    confidence and its share right, weighted by its number of predictions.

    confidence, right  (n,) of the predictions; right is 0 or 1
    """
    bucket = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(
        sum(abs(confidence[bucket == b].sum() - right[bucket == b].sum()) for b in np.unique(bucket)) / len(right)
    )


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation; 0 where one side is constant."""
    # Expected levels are computed: equal ones may differ in the last digits. Rounding makes them ties again.
    a, b = rankdata(a.round(12)), rankdata(b)
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else 0.0


def _speed(model: DifficultyModel, X: NDArray[Any], repeats: int = 20) -> float:  # noqa: N803
    """Return the median milliseconds to predict one prompt."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        model.predict_proba(X[:1])
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
