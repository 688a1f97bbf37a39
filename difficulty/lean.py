"""The fitted text model as plain arithmetic: equal probabilities in a hundredth of the time, most of which
scikit-learn spends on checking its input at every step of the pipeline.

No array is made of one prompt: a server does much else between two calls, and numpy's code is slow until the processor
has it in its caches again.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV

from difficulty.features import description, phrases


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
        # Kept for pickles: those of earlier versions hold them, and no lists.
        self._arrays = {"described": described, "phrases": phrases, "rarity": rarity, "bias": bias}
        self._vocabulary = vocabulary
        self._described = list(zip(described.T.tolist(), bias.tolist(), strict=True))
        # A row a phrase: its weights and, last, its rarity; all of them grow with its count.
        self._phrases: list[list[float]] = np.column_stack([rarity[:, None] * phrases, rarity]).tolist()

    def __getstate__(self) -> dict[str, Any]:
        return self._arrays | {"vocabulary": self._vocabulary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TextLogistic.__init__(self, **state)

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
        return np.array([self.probabilities(prompt) for prompt in prompts])

    def probabilities(self, prompt: str) -> list[float]:
        """(classes,) of one prompt."""
        described = description(prompt)
        logits = [sum(map(mul, described, weights), bias) for weights, bias in self._described]
        # Phrases by tf-idf, with logarithmic counts and unit length.
        counts = Counter(map(self._vocabulary.get, phrases(prompt)))
        rows = [
            self._phrases[row] if count == 1 else _repeated(self._phrases[row], count)
            for row, count in counts.items()
            if row is not None
        ]
        if rows:
            *columns, shares = zip(*rows, strict=True)
            length = math.sqrt(sum(map(mul, shares, shares)))
            logits = [logit + sum(column) / length for logit, column in zip(logits, columns, strict=True)]
        largest = max(logits)
        odds = [math.exp(logit - largest) for logit in logits]
        total = sum(odds)
        return [each / total for each in odds]


def _repeated(row: Sequence[float], count: int) -> list[float]:
    """The row of a phrase that comes so often."""
    return [(1 + math.log(count)) * each for each in row]
