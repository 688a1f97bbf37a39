"""The arm that was best at the most similar prompts: a plain way to choose, which knows a prompt by its words alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

NEIGHBOURS = 25
_STEPS = 30  # of the search for a price
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def similarities(texts: Sequence[str], others: Sequence[str] = ()) -> tuple[Floats, Floats]:
    """Return cosine similarities of character n-grams: (P, P) of P texts, -1 of each with itself; (Q, P) of Q others.

    How rare an n-gram is, is counted in the P texts.
    """
    weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    known = weights.fit_transform(texts)
    among = np.asarray((known @ known.T).toarray())
    np.fill_diagonal(among, -1.0)
    to = (weights.transform(others) @ known.T).toarray() if len(others) else np.zeros((0, len(texts)))
    return among, np.asarray(to)


def closest(similar: Floats) -> Ints:
    """(Q, up to 25) the most similar ones of P known prompts, from (Q, P) similarities."""
    return np.argsort(-similar, axis=1)[:, :NEIGHBOURS]


def nearest(accuracy: Floats, spent: Floats, among: Ints, to: Ints, amount: float) -> Ints:
    """(Q,) columns of the arms that gained most, less a price of what they spent, at each prompt's nearest neighbours.

    accuracy, spent  (P, K) of K arms at P known prompts
    among, to        the neighbours of the known prompts and of Q others, as :func:`closest` gives them
    amount           what the known prompts would spend on average at the price
    """

    def expected(near: Ints) -> tuple[Floats, Floats]:
        return accuracy[near].mean(axis=1), spent[near].mean(axis=1)

    (mine, cost), (theirs, their_cost) = expected(among), expected(to)
    scale = float(spent.mean()) or 1.0
    low, high = 1e-6 / scale, 100.0 / scale
    for _ in range(_STEPS):
        price = (low * high) ** 0.5
        used = spent[np.arange(len(spent)), (mine - price * cost).argmax(axis=1)].mean()
        low, high = (price, high) if used > amount else (low, price)
    return np.asarray((theirs - high * their_cost).argmax(axis=1))
