"""The difficulty model: a calibrated five-level classifier on a prompt's text or on its hidden state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted

from difficulty.features import describe, length, phrases
from difficulty.lean import TextLogistic
from difficulty.levels import LEVELS, find_edges, levels_of
from difficulty.ridge import RidgeLevels

_FLOOR = 0.005  # probability divided among all levels, so that none is ever predicted as impossible


def _described(scale: bool = True) -> Pipeline:
    """Return the step that describes prompts; ``scale``: to a mean of 0 and a standard deviation of 1."""
    described = FunctionTransformer(describe)
    return make_pipeline(described, StandardScaler()) if scale else make_pipeline(described)


def _text() -> FeatureUnion:
    """Return the step that gives ``text_logistic`` its features; :class:`TextLogistic` computes the same."""
    words = TfidfVectorizer(analyzer=phrases, max_features=300, sublinear_tf=True)
    return FeatureUnion([("described", _described()), ("words", words)])


# Name → a function from a seed to a new estimator. To add a candidate, add a line. A candidate whose name starts with
# "hidden" reads hidden states. The others read the prompts' text.
CANDIDATES: Mapping[str, Callable[[int], Any]] = {
    "prior": lambda seed: DummyClassifier(),
    "prompt_length": lambda seed: make_pipeline(FunctionTransformer(length), StandardScaler(), LogisticRegression()),
    # The tree computes each distance by itself. Brute force computes them in blocks. There, rounding puts a prompt at a
    # small distance from its own copy, or not, depending on the prompts beside it.
    "text_knn": lambda seed: make_pipeline(
        _described(), KNeighborsClassifier(15, weights="distance", algorithm="kd_tree")
    ),
    "text_logistic": lambda seed: make_pipeline(_text(), LogisticRegression(C=1, max_iter=2000)),
    "text_boosting": lambda seed: make_pipeline(
        _described(scale=False),
        GradientBoostingClassifier(
            n_estimators=40, learning_rate=0.1, max_depth=2, subsample=0.7, min_samples_leaf=5, random_state=seed
        ),
    ),
    "hidden_logistic": lambda seed: make_pipeline(
        StandardScaler(), PCA(0.95, svd_solver="full"), LogisticRegression(C=0.01, max_iter=2000)
    ),
    "hidden_ridge": lambda seed: RidgeLevels(),
}
_CALIBRATED = {"prior", "hidden_ridge"}  # calibrated as they are fitted, so they get no temperature


class DifficultyModel(ClassifierMixin, BaseEstimator):
    """Predicts the level of prompts; scikit-learn conventions.

    candidate  a name in :data:`CANDIDATES`
    edges      the four edges between levels; None: found from the statistics by :func:`difficulty.find_edges`
    seed       of the random numbers in fitting

    Probabilities are calibrated by one temperature (Guo et al., arXiv 1706.04599), fitted on out-of-fold predictions.
    No temperature is fitted where the candidate is calibrated already, and where a level has one training prompt only.

    After :meth:`fit`, ``edges_`` has the edges, ``classes_`` all five levels, ``seen_`` the levels that the training
    prompts have, and ``estimator_`` the fitted estimator, which predicts the levels in ``seen_``.
    """

    def __init__(self, candidate: str = "text_logistic", edges: Sequence[float] | None = None, seed: int = 0):
        self.candidate = candidate
        self.edges = edges
        self.seed = seed

    @property
    def input(self) -> Literal["text", "hidden"]:
        """What ``X`` is: a list of prompts, or an (n, d) array of hidden-state vectors."""
        return "hidden" if self.candidate.startswith("hidden") else "text"

    def fit(self, X: Any, statistics: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit on n prompts.

        X           prompts or vectors, see :attr:`input`
        statistics  (n,) pass rates or mean scores; larger is easier

        Raises ValueError where the candidate is unknown, where it doesn't read such an ``X``, where there are not n
        statistics, and where ``edges`` is None and :func:`difficulty.find_edges` finds none.
        """
        if self.candidate not in CANDIDATES:
            raise ValueError(f"unknown candidate {self.candidate!r}; known: {', '.join(CANDIDATES)}")
        X = self._checked(X)  # noqa: N806
        if len(X) != len(np.asarray(statistics)):
            raise ValueError(f"{len(X)} prompts but {len(np.asarray(statistics))} statistics")
        self.edges_ = find_edges(statistics) if self.edges is None else np.asarray(self.edges, dtype=float)
        self.classes_ = np.array(LEVELS)
        levels = levels_of(statistics, self.edges_)
        # The estimator learns column numbers instead of levels, since temperature scaling in scikit-learn 1.9 takes
        # labels for column numbers.
        found, columns, counts = np.unique(levels, return_inverse=True, return_counts=True)
        self.seen_ = found
        estimator = CANDIDATES[self.candidate](self.seed)
        if len(found) == 1:
            estimator = DummyClassifier()
        elif counts.min() > 1 and self.candidate not in _CALIBRATED:  # folds need two prompts at each level
            # Shuffled: attempts come sorted by task, and a fold of one whole task makes any model look unsure.
            folds = StratifiedKFold(int(min(5, counts.min())), shuffle=True, random_state=self.seed)
            estimator = CalibratedClassifierCV(estimator, method="temperature", ensemble=False, cv=folds)
        self.estimator_ = self._lean(estimator.fit(X, columns))
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "estimator_" in state:  # models of earlier versions hold scikit-learn's estimator
            self.estimator_ = self._lean(self.estimator_)

    def _lean(self, fitted: Any) -> Any:
        """Return the fitted estimator, or one that computes the same faster."""
        text = self.candidate == "text_logistic" and isinstance(fitted, CalibratedClassifierCV)
        return TextLogistic.of(fitted) if text else fitted

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """(n, 5) probabilities of levels 1 to 5; each row sums to 1. A level unseen in training gets ``_FLOOR / 5``.

        Raises ValueError where ``X`` is not what the candidate reads, and NotFittedError before :meth:`fit`.
        """
        if not hasattr(self, "estimator_"):  # check_is_fitted alone would take a tenth of the time
            check_is_fitted(self)
        found = self.estimator_.predict_proba(self._checked(X))
        probabilities = np.full((len(found), len(LEVELS)), _FLOOR / len(LEVELS))
        probabilities[:, self.seen_ - 1] += (1 - _FLOOR) * found
        return probabilities

    def probabilities(self, x: Any) -> list[float]:
        """(5,) probabilities for one prompt or hidden state, as :meth:`predict_proba`; text_logistic uses no arrays."""
        if isinstance(self.estimator_, TextLogistic):
            return self._spread(self.estimator_.probabilities(x))
        (row,) = self.predict_proba([x]).tolist()
        return list(row)

    def _spread(self, found: Sequence[float]) -> list[float]:
        """(5,) probabilities of all levels, from those of the levels that training saw."""
        probabilities = [_FLOOR / len(LEVELS)] * len(LEVELS)
        for level, probability in zip(self.seen_.tolist(), found, strict=True):  # iterating an array is slow
            probabilities[level - 1] += (1 - _FLOOR) * probability
        return probabilities

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """(n,) the likeliest levels."""
        levels: NDArray[np.int64] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return levels

    def _checked(self, X: Any) -> Any:  # noqa: N803
        if self.input == "hidden":
            hidden = np.asarray(X, dtype=float)
            if hidden.ndim != 2:
                raise ValueError(f"hidden states must be (n, d), got shape {hidden.shape}")
            return hidden
        prompts = list(X)
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError("this model reads prompts as text, a list of strings")
        return prompts
