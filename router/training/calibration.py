"""Calibrates a verifier's scores as probabilities: fits ``slope`` and ``intercept`` of ``VerifierSpec``."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from router.attempts.pools import SAMPLE
from router.attempts.schema import last_score
from router.backends.calibrated import log_odds
from router.errors import InvalidFile


def last_scores(attempts: pd.DataFrame) -> pd.DataFrame:
    """Return the pooled attempts that are scored and known to be right or wrong.

    They have the columns ``score``, the last step's, and ``right``.
    """
    pool = attempts[attempts["arm"] == SAMPLE]
    pool = pool.assign(score=pool["scores"].map(last_score), right=pool["correct"].astype("boolean"))
    return pool.dropna(subset=["score", "right"]).astype({"right": bool, "score": float})


def fit(attempts: pd.DataFrame) -> tuple[float, float]:
    """Return slope and intercept that turn raw scores into probabilities of being right.

    They are those of a logistic regression of correctness on the log-odds of the last step's score (Platt, 1999).
    Raises InvalidFile unless there are right and wrong scored attempts, and higher scores are more often right.
    """
    scored = last_scores(attempts)
    if scored["right"].nunique() < 2:
        raise InvalidFile("calibrating needs scored attempts of both kinds, right and wrong; score more attempts")
    model = LogisticRegression(C=np.inf).fit(scored["score"].map(log_odds).to_numpy()[:, None], scored["right"])
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        raise InvalidFile("higher scores are not more often right on these attempts; this verifier can't be used")
    return slope, intercept
