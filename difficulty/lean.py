"""The fitted text model as plain arithmetic: equal probabilities in a hundredth of the time.

scikit-learn spends most of its time on checking its input at every step of the pipeline. One prompt is predicted
without numpy: a server does much else between two calls, and numpy's code is slow until it is in the processor's caches
again. Many prompts are predicted in arrays. So the formula is written twice, and
``test_prompts_are_predicted_together_as_alone`` holds the two together.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise, repeat
from operator import mul
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV

from difficulty.features import NAMES, describe, description, tokens, tokens_of_many

_COUNTS = 8  # a phrase's weights are computed beforehand for each of the counts below this


class TextLogistic:
    """Softmax of a linear function of a prompt's description and of its phrases.

    described   (features, classes) weights of the description, whose features are ``features.NAMES``
    vocabulary  phrase, a word or two words with a space between them → its row in ``phrases``
    phrases     (phrases, classes) weights of the phrases' tf-idf
    rarity      (phrases,) inverse document frequencies
    bias        (classes,)

    The weights include the scaling of features and the temperature. A phrase that occurs c times in a prompt has the
    tf-idf (1 + log c) · rarity, and a prompt's tf-idf values are divided by their Euclidean length: scikit-learn's
    ``TfidfVectorizer(sublinear_tf=True)``. Raises ValueError where a description has other features.
    """

    def __init__(
        self,
        described: NDArray[np.float64],
        vocabulary: Mapping[str, int],
        phrases: NDArray[np.float64],
        rarity: NDArray[np.float64],
        bias: NDArray[np.float64],
    ):
        if len(described) != len(NAMES):  # or one prompt would be predicted with the wrong weights
            raise ValueError(f"the model weighs {len(described)} features, but a description has {len(NAMES)}")
        # Pickles hold these arrays, and not the lists below.
        self._arrays = {"described": described, "phrases": phrases, "rarity": rarity, "bias": bias}
        self._vocabulary = vocabulary
        # Columns of words and word pairs, from 1, so that what is not there can be filtered out.
        split = {tuple(phrase.split(" ")): row + 1 for phrase, row in vocabulary.items()}
        self._columns: dict[Any, int] = {
            words if len(words) > 1 else words[0]: column for words, column in split.items()
        }
        # For many prompts: the words of all phrases, numbered from 1, and the columns by their numbers.
        self._numbers = {word: 1 + i for i, word in enumerate(dict.fromkeys(chain.from_iterable(split)))}
        self._words = np.zeros(1 + len(self._numbers), dtype=np.int64)
        self._pairs = np.zeros((1 + len(self._numbers),) * 2, dtype=np.int64)
        for words, column in split.items():
            of = self._words if len(words) == 1 else self._pairs
            of[tuple(self._numbers[word] for word in words)] = column
        self._described = list(zip(described.T.tolist(), bias.tolist(), strict=True))
        # For each count of a phrase in a prompt, one row per phrase: its tf-idf times each class's weight and, last,
        # its tf-idf alone, for the length.
        rows = np.column_stack([rarity[:, None] * phrases, rarity]).tolist()
        self._phrases: list[list[list[float]]] = [
            [_repeated(row, count) for row in rows] if count else [] for count in range(_COUNTS)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return self._arrays | {"vocabulary": self._vocabulary}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TextLogistic.__init__(self, **state)

    @classmethod
    def of(cls, fitted: CalibratedClassifierCV) -> Self:
        """Convert a fitted ``text_logistic`` that is calibrated by temperature.

        The features' scaling (x - mean) / scale and the temperature's factor are linear, so they go into the weights.
        """
        (calibrated,) = fitted.calibrated_classifiers_
        (calibration,) = calibrated.calibrators
        union, logistic = (step for _, step in calibrated.estimator.steps)
        scaler, words = union["described"][-1], union["words"]
        coef, intercept = logistic.coef_, logistic.intercept_
        if len(intercept) == 1:  # for two classes scikit-learn keeps only the second's weights
            coef, intercept = np.vstack([-coef, coef]), np.hstack([-intercept, intercept])
        weights = calibration.beta_ * coef.T
        described = weights[: len(scaler.scale_)] / scaler.scale_[:, None]
        bias = calibration.beta_ * intercept - scaler.mean_ @ described
        vocabulary = {phrase: int(row) for phrase, row in words.vocabulary_.items()}
        return cls(described, vocabulary, weights[len(described) :], words.idf_, bias)

    def predict_proba(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """(n, classes) probabilities for many prompts: as :meth:`probabilities`, computed in arrays."""
        from scipy.sparse import csr_array

        if not len(prompts):
            return np.zeros((0, len(self._described)))
        columns, ends = self._found(tokens_of_many(tuple(prompts)))
        counts = csr_array((np.ones(len(columns)), columns, ends), shape=(len(prompts), len(self._columns)))
        counts.sum_duplicates()
        counts.data = (1 + np.log(counts.data)) * self._arrays["rarity"][counts.indices]
        lengths = np.sqrt(np.maximum(counts.power(2).sum(axis=1), np.finfo(float).tiny))  # not 0 without phrases
        logits = describe(prompts) @ self._arrays["described"] + self._arrays["bias"]
        logits += (counts @ self._arrays["phrases"]) / lengths[:, None]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def _found(self, prompts: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the phrases in the prompts' tokens, one prompt after the other; (n + 1,) where each ends.

        The first end is 0, where the first prompt begins.
        """
        ends = np.cumsum([0, *map(len, prompts)])
        # The last two stand for no word. So there is a pair to clear below even if no prompt has a word.
        numbers = np.zeros(ends[-1] + 2, dtype=np.int64)
        numbers[:-2] = np.fromiter(map(self._numbers.get, chain.from_iterable(prompts), repeat(0)), np.int64, ends[-1])
        pairs = self._pairs[numbers[:-1], numbers[1:]]
        pairs[ends[1:] - 1] = 0  # a prompt's last word and the next one's first word are no pair
        columns = np.column_stack([self._words[numbers[:-1]], pairs]).ravel()
        many = np.cumsum(np.append(False, columns > 0))
        return columns[columns > 0] - 1, many[2 * ends]

    def probabilities(self, prompt: str) -> list[float]:
        """(classes,) probabilities for one prompt."""
        described = description(prompt)
        logits = [sum(map(mul, described, weights), bias) for weights, bias in self._described]
        # Phrases are weighted by tf-idf, with logarithmic counts and unit length.
        words = tokens(prompt)
        counts: dict[int, int] = {}
        for column in filter(None, map(self._columns.get, chain(words, pairwise(words)))):
            counts[column] = counts.get(column, 0) + 1
        if counts:
            rows = [
                self._phrases[count][column - 1] if count < _COUNTS else _repeated(self._phrases[1][column - 1], count)
                for column, count in counts.items()
            ]
            *columns, shares = zip(*rows, strict=True)
            length = math.sqrt(sum(map(mul, shares, shares)))
            logits = [logit + sum(column) / length for logit, column in zip(logits, columns, strict=True)]
        largest = max(logits)
        odds = [math.exp(logit - largest) for logit in logits]
        total = sum(odds)
        return [each / total for each in odds]


def _repeated(row: Sequence[float], count: int) -> list[float]:
    """Return the row of a phrase that occurs ``count`` times, from that of one that occurs once."""
    return [(1 + math.log(count)) * each for each in row]
