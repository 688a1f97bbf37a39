"""Fits the confidence model on replayed runs: the probability that an answer is right, given all that is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from router.policy.confidence import Confidence, features, voting_of
from strategies import Strategy
from strategies.records import Runs, Seen

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FOLDS = 5
FEWEST = 40  # prompts that a fit needs; with fewer, ``strategies.belief`` is used
_WEIGHT = 4.0  # total weight of a prompt's rows, which are much alike


@dataclass(frozen=True, slots=True)
class Path:
    """Arms that ran in turn, with ``seen`` (P, R) of each arm, and ``correct`` (P, R) whether its answer is right."""

    arms: tuple[Strategy, ...]
    seen: tuple[Seen, ...]
    correct: tuple[Floats, ...]

    @classmethod
    def of(cls, arms: Sequence[Strategy], runs: Sequence[Runs], columns: Ints, *, last: bool) -> "Path":
        """Take these columns of the runs. ``last``: no arm follows, so only its own arm scores the last answer."""
        hidden = last and not (arms[-1].needs_scores or arms[-1].revises)
        seen = [
            Seen(
                each.seen.answer[:, columns],
                np.full_like(each.seen.score[:, columns], np.nan)
                if hidden and i == len(runs) - 1
                else each.seen.score[:, columns],
                each.seen.lead[:, columns],
            )
            for i, each in enumerate(runs)
        ]
        return cls(tuple(arms), tuple(seen), tuple(each.correct[:, columns] for each in runs))


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold confidences: for each prompt those of the model that was fitted without it.

    models  one per fold;  whole  is fitted on all prompts
    fold  (P,) of each prompt;  probabilities (P, 5) of its levels
    """

    models: tuple[Confidence, ...]
    fold: Ints
    probabilities: Floats
    whole: Confidence

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.records.Believes``."""
        found = [np.zeros(each.answer.shape) for each in seen]
        for i, model in enumerate(self.models):
            rows = self.fold == i
            mine = [Seen(each.answer[rows], each.score[rows], each.lead[rows]) for each in seen]
            for into, sure in zip(found, model.of_many(self.probabilities[rows, None], arms, mine), strict=True):
                into[rows] = sure
        return found

    def on(self, rows: NDArray[np.int64]) -> "OutOfFold":
        """Return the same for some of the prompts."""
        return OutOfFold(self.models, self.fold[rows], self.probabilities[rows], self.whole)


@dataclass(frozen=True, slots=True)
class Believing:
    """One model's confidences for prompts that it never saw, given (P, 5) probabilities of their levels."""

    model: Confidence
    probabilities: Floats

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.records.Believes``."""
        return self.model.of_many(self.probabilities[:, None], arms, seen)


def fit(paths: Sequence[Path], probabilities: Floats, levels: Ints, *, seed: int) -> OutOfFold | None:
    """Fit the model in each fold and on all prompts. None with fewer than FEWEST prompts, or if all answers are alike.

    probabilities  (P, 5) out-of-fold probabilities of the prompts' levels;  levels (P,) to balance the folds by
    """
    prompts = len(probabilities)
    names, x, y, prompt = _rows(paths, probabilities, voting_of([arm for path in paths for arm in path.arms]))
    if prompts < FEWEST or len(np.unique(y)) < 2:
        return None
    fold = np.empty(prompts, dtype=np.int64)
    fold[np.lexsort((np.random.default_rng(seed).random(prompts), levels))] = np.arange(prompts) % FOLDS
    voting = voting_of([arm for path in paths for arm in path.arms])

    def fitted(rows: NDArray[np.bool_]) -> Confidence | None:
        if len(np.unique(y[rows])) < 2:
            return None
        # Centred, which the bias makes up for: else what is the same in all rows, such as a score that is always known,
        # would be a second bias, and the fit would not end.
        scale, centre = np.maximum(x[rows].std(axis=0), 1e-6), x[rows].mean(axis=0)
        counts = np.bincount(prompt[rows], minlength=prompts)
        model = LogisticRegression(C=1.0, max_iter=500)
        model.fit((x[rows] - centre) / scale, y[rows], sample_weight=_WEIGHT / counts[prompt[rows]])
        weights = (model.coef_[0] / scale).round(6).tolist()
        bias = float(model.intercept_[0]) - float(np.dot(weights, centre))
        return Confidence(dict(zip(names, weights, strict=True)), round(bias, 6), voting)

    models = [fitted(fold[prompt] != i) for i in range(FOLDS)]
    whole = fitted(np.ones(len(y), dtype=bool))
    if whole is None or any(model is None for model in models):
        return None
    return OutOfFold(tuple(model for model in models if model), fold, probabilities, whole)


def _rows(paths: Sequence[Path], probabilities: Floats, voting: Sequence[str]) -> tuple[list[str], Floats, Ints, Ints]:
    """Return feature names, (N, F) features, (N,) whether right, (N,) prompt index; one row per stage's answer."""
    tables, rights, whose = [], [], []
    for path in paths:
        shape = path.seen[0].answer.shape
        for i in range(len(path.arms)):
            found = features(probabilities[:, None], path.arms, path.seen, i, voting)
            kept = path.seen[i].answer >= 0
            tables.append({name: np.broadcast_to(values, shape)[kept] for name, values in found.items()})
            rights.append((path.correct[i] > 0.5)[kept])
            whose.append(np.broadcast_to(np.arange(shape[0])[:, None], shape)[kept])
    names = list(dict.fromkeys(name for table in tables for name in table))
    x = np.concatenate(
        [
            np.column_stack([table.get(name, np.zeros(len(right))) for name in names])
            for table, right in zip(tables, rights, strict=True)
        ]
    )
    return names, x, np.concatenate(rights).astype(np.int64), np.concatenate(whose)
