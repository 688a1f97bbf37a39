"""Off-policy estimators of a policy's value from another policy's log: importance weights, outcome models, or both.

A logged decision shows one arm's outcome. It tells about a new policy only where that would have taken the same arm. It
then also stands for calls at which that arm was not taken, so it counts 1 / (the arm's probability of being taken).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from router.policy.table import LEVELS

RESAMPLES = 1000
FOLDS = 5
_PENALTIES = np.logspace(-2, 3, 11)
Values = NDArray[np.float64]
Arms = NDArray[np.int64]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Logged:
    """n decisions with known outcomes, of arms numbered 0 to K - 1.

    probabilities  (n, 5) level probabilities
    taken          (n,) number of the arm that ran
    propensity     (n,) the arm's probability of being taken, above 0 and at most 1
    prompt         (n,) number of the prompt, since decisions at one prompt are not independent
    weight         (n,) how many decisions each stands for; 1 where every outcome is known
    """

    probabilities: Values
    taken: Arms
    propensity: Values
    prompt: Arms
    weight: Values


def importance(log: Logged, target: Arms) -> Values:
    """Return the (n,) importance weights: 1 / propensity where the target takes the arm that ran, else 0.

    target  (n,) numbers of the arms that the new policy takes

    Horvitz & Thompson, A generalization of sampling without replacement from a finite universe, JASA 1952.
    """
    return np.where(target == log.taken, 1 / log.propensity, 0.0)


def effective_size(weights: Values) -> float:
    """Return how many equally weighted decisions tell as much: (sum w)² / sum w² (Kish, Survey Sampling, 1965)."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def predict(log: Logged, happened: Values, arms: Sequence[Arms], *, seed: int = 0) -> list[Values]:
    """Predict the (n, m) values of each decision for each of ``arms``, by models fitted on other prompts' decisions.

    happened  (n, m) observed values of each decision: its outcome, its costs

    This is cross-fitting: a decision's own outcome must not influence its prediction. The model is ridge regression on
    the level probabilities, once for all arms together and once for each, so arms seldom seen stay near the average.
    """
    count = 1 + max(int(arm.max()) for arm in (log.taken, *arms))

    def features(taken: Arms) -> Values:
        own = np.zeros((len(taken), count, len(LEVELS)))
        own[np.arange(len(taken)), taken] = log.probabilities
        return np.hstack([log.probabilities, own.reshape(len(taken), -1)])

    seen, asked = features(log.taken), [features(arm) for arm in arms]
    found = [np.empty_like(happened) for _ in arms]
    folds = min(FOLDS, len(np.unique(log.prompt)))
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(seen, groups=log.prompt):
        model = RidgeCV(_PENALTIES, alpha_per_target=True)
        model.fit(seen[train], happened[train], sample_weight=log.weight[train])
        for values, question in zip(found, asked, strict=True):
            values[test] = model.predict(question[test]).reshape(-1, happened.shape[1])
    return found


def estimators(log: Logged, outcome: Values, target: Arms, expected: Values, expected_taken: Values) -> dict[str, Any]:
    """Return name → (numerators, denominators), both (n,). The ratio of their sums estimates the target's mean outcome.

    expected, expected_taken  predictions q by :func:`predict` for the target's arms, and for those that ran

    direct  the model's predictions alone: wrong wherever the model is
    ips     sum w y / n, inverse propensity scoring: unbiased with the right propensities, whatever the outcomes
            (Horvitz & Thompson 1952)
    snips   sum w y / sum w, self-normalised: a little biased, far less variable, and between the smallest and largest
            outcome (Swaminathan & Joachims, The self-normalized estimator for counterfactual learning, NIPS 2015)
    dr      the predictions corrected by their weighted errors, sum (q + w (y - q)) / n, doubly robust: right where the
            model or the propensities are (Dudík, Langford & Li, Doubly robust policy evaluation and learning, ICML
            2011)
    """
    weight, w = log.weight, log.weight * importance(log, target)
    return {
        "dr": (weight * expected + w * (outcome - expected_taken), weight),
        "snips": (w * outcome, w),
        "ips": (w * outcome, weight),
        "direct": (weight * expected, weight),
    }


def intervals(
    ratios: Mapping[Key, tuple[Values, Values]],
    prompt: Arms,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Key, dict[str, float | None]]:
    """Return value, low and high of each ratio of sums; the interval is a bootstrap over prompts.

    Calls at the same prompt are drawn together. Resamples in which a denominator is 0 are left out; where that is so in
    all of them, the values are None.
    """
    rng = np.random.default_rng(seed)
    sums = np.stack(
        [np.bincount(prompt, part) for numerator, denominator in ratios.values() for part in (numerator, denominator)],
        axis=1,
    )
    sums = sums[np.bincount(prompt) > 0]
    even = np.full(len(sums), 1 / len(sums))
    drawn = np.stack([rng.multinomial(len(sums), even) @ sums for _ in range(resamples)])
    found = {}
    for i, name in enumerate(ratios):
        value = _ratio(sums[:, 2 * i].sum(), sums[:, 2 * i + 1].sum())
        draws = _ratio(drawn[:, 2 * i], drawn[:, 2 * i + 1])
        draws = draws[np.isfinite(draws)]
        tail = (1 - confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (np.nan, np.nan)
        numbers = {"value": value, "low": low, "high": high}
        found[name] = {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
    return found


def _ratio(numerator: Any, denominator: Any) -> Any:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator != 0)
