"""The fitted text model as plain arithmetic: equal probabilities in a hundredth of the time, most of which
scikit-learn spends on checking its input at every step of the pipeline."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV

from difficulty.features import describe, phrases


class TextLogistic:
    """Softmax of a linear function of a prompt's description and of its phrases.

    described   (27, classes) weights of the description
    vocabulary  phrase → its row in ``phrases``
    phrases     (phrases, classes) weights of the phrases' tf-idf
    rarity      (phrases,) inverse document frequencies
    bias        (classes,)

    Scaling and temperature are part of the weights.
    """

    def __init__(
        self,
        described: NDArray[np.float64],
        vocabulary: Mapping[str, int],
        phrases: NDArray[np.float64],
        rarity: NDArray[np.float64],
        bias: NDArray[np.float64],
    ):
        self.described = described
        self.vocabulary = vocabulary
        self.phrases = phrases
        self.rarity = rarity
        self.bias = bias

    @classmethod
    def of(cls, fitted: CalibratedClassifierCV) -> Self:
        """What a fitted ``text_logistic``, calibrated by temperature, computes."""
        (calibrated,) = fitted.calibrated_classifiers_
        (calibration,) = calibrated.calibrators
        union, logistic = (step for _, step in calibrated.estimator.steps)
        scaler, words = union["described"][-1], union["words"]
        coef, intercept = logistic.coef_, logistic.intercept_
        if len(intercept) == 1:  # of two classes scikit-learn keeps the second's weights; the first's are opposite
            coef, intercept = np.vstack([-coef, coef]), np.hstack([-intercept, intercept])
        weights = calibration.beta_ * coef.T
        described = weights[: len(scaler.scale_)] / scaler.scale_[:, None]
        bias = calibration.beta_ * intercept - scaler.mean_ @ described
        vocabulary = {phrase: int(row) for phrase, row in words.vocabulary_.items()}
        return cls(described, vocabulary, weights[len(described) :], words.idf_, bias)

    def predict_proba(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """(n, classes) probabilities."""
        logits = describe(prompts) @ self.described + self.bias
        logits += [self._phrases(prompt) for prompt in prompts]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def _phrases(self, prompt: str) -> NDArray[np.float64]:
        """(classes,) what the phrases add: their weights by tf-idf, with logarithmic counts and unit length."""
        known = [row for phrase in phrases(prompt) if (row := self.vocabulary.get(phrase)) is not None]
        if not known:
            return np.zeros_like(self.bias)
        counts = np.bincount(known)
        rows = counts.nonzero()[0]
        shares = (1 + np.log(counts[rows])) * self.rarity[rows]
        return np.asarray(shares @ self.phrases[rows] / np.sqrt(shares @ shares))
