"""Levels from vectors that have more columns than there are prompts: hidden states, embeddings."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

_ALPHAS = np.logspace(0, 6, 13)


class RidgeLevels(ClassifierMixin, BaseEstimator):
    """Ridge regression on the level as a number, then logistic regression on that number for probabilities.

    Levels are ordered, and so few prompts can teach no more than one direction in the vectors. The strength of the
    penalty is chosen by leave-one-out error. The logistic regression reads the number and its square. It is fitted on
    the leave-one-out predictions, so that its probabilities are calibrated.

    After :meth:`fit`, ``regression_`` has the fitted ridge regression, ``spread_`` the logistic one.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Fit on (n, d) vectors ``X`` and (n,) levels ``y``: numbers whose order is that of the classes."""
        y = np.asarray(y, dtype=float)
        self.classes_ = np.unique(y)
        ridge = RidgeCV(_ALPHAS, scoring="neg_mean_squared_error", store_cv_results=True)
        self.regression_ = make_pipeline(StandardScaler(), ridge).fit(X, y)
        # With a scoring, scikit-learn keeps the leave-one-out predictions here; without one, their squared errors.
        left_out = ridge.cv_results_[:, int(np.flatnonzero(ridge.alphas == ridge.alpha_)[0])]
        # If vectors tell nothing, each leave-one-out prediction is the mean of the other levels, which falls as the
        # prompt's own level rises. The logistic regression would learn that, so it gets the mean of all levels instead.
        left_out = left_out + (y - np.mean(y)) / (len(y) - 1)
        self.spread_ = make_pipeline(PolynomialFeatures(2, include_bias=False), LogisticRegression(C=10, max_iter=1000))
        self.spread_.fit(left_out[:, None], y)
        del ridge.cv_results_  # as large as the training data
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """(n, classes) probabilities for (n, d) vectors."""
        return np.asarray(self.spread_.predict_proba(self.regression_.predict(X)[:, None]))

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """(n,) the likeliest classes for (n, d) vectors."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])
