"""Fits the confidence model on replayed runs: the probability that an answer is right, given all that is known.

Where there are several tasks, two models are fitted: one for all prompts alike, and one with weights for each task that
are drawn towards common ones. The one that predicts better out of fold is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from router.policy.confidence import Confidence, OfOneTask, features, voting_of
from strategies import Strategy
from strategies.records import Runs, Seen

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]
FOLDS = 5
FEWEST = 40  # prompts that a fit needs; with fewer, ``strategies.belief`` is used
_WEIGHT = 4.0  # total weight of a prompt's rows, which are much alike
_OF_TASKS = 0.1  # how far a task's weights may lie from the common ones: C of the logistic regression


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
        seen = [each.seen.at((slice(None), columns)) for each in runs]
        if hidden:
            seen[-1] = replace(seen[-1], score=np.full_like(seen[-1].score, np.nan))
        return cls(tuple(arms), tuple(seen), tuple(each.correct[:, columns] for each in runs))


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold confidences: for each prompt those of the model that was fitted without it.

    models  one per fold;  whole  is fitted on all prompts
    fold  (P,) of each prompt;  probabilities (P, 5) of its levels;  tasks (P,) its task's name
    losses  mean log-loss of these confidences, by how they were fitted: "one" model for all prompts alike, or weights
            "by_task"; what has the smaller one is kept
    """

    models: tuple[Confidence, ...]
    fold: Ints
    probabilities: Floats
    tasks: Names
    whole: Confidence
    losses: Mapping[str, float]

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.records.Believes``."""
        found = [np.zeros(each.answer.shape) for each in seen]
        for i, model in enumerate(self.models):
            rows = np.flatnonzero(self.fold == i)
            mine = [each.at(rows) for each in seen]
            for into, sure in zip(found, self._by(model, rows)(arms, mine, last=last), strict=True):
                into[rows] = sure
        return found

    @property
    def report(self) -> dict[str, Any]:
        return {"by_task": bool(self.whole.tasks), "log_loss": dict(self.losses)}

    def _by(self, model: Confidence, rows: Ints) -> "Believing":
        return Believing(model, self.probabilities[rows], self.tasks[rows])

    def on(self, rows: Ints) -> "OutOfFold":
        """Return the same for some of the prompts."""
        return replace(self, fold=self.fold[rows], probabilities=self.probabilities[rows], tasks=self.tasks[rows])


@dataclass(frozen=True, slots=True)
class Believing:
    """One model's confidences for P prompts that it never saw.

    probabilities  (P, 5) of their levels;  tasks (P,) names
    """

    model: Confidence
    probabilities: Floats
    tasks: Names

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.records.Believes``."""
        if not self.model.tasks:
            return self.model.of_many(self.probabilities[:, None], arms, seen)
        found = [np.zeros(each.answer.shape) for each in seen]
        for task in dict.fromkeys(self.tasks.tolist()):
            rows = np.flatnonzero(self.tasks == task)
            mine = [each.at(rows) for each in seen]
            sure = self.model.for_task(task).of_many(self.probabilities[rows, None], arms, mine)
            for into, values in zip(found, sure, strict=True):
                into[rows] = values
        return found


def fit(
    paths: Sequence[Path], probabilities: Floats, levels: Ints, tasks: Names, *, apart: Sequence[str] = (), seed: int
) -> OutOfFold | None:
    """Fit the model in each fold and on all prompts. None with fewer than FEWEST prompts, or if all answers are alike.

    probabilities  (P, 5) out-of-fold probabilities of the prompts' levels;  levels (P,) to balance the folds by
    tasks  (P,) the prompts' tasks;  apart  those with enough prompts for weights of their own
    """
    prompts = len(probabilities)
    voting = voting_of([arm for path in paths for arm in path.arms])
    names, x, y, prompt = _rows(paths, probabilities, voting)
    if prompts < FEWEST or len(np.unique(y)) < 2:
        return None
    fold = np.empty(prompts, dtype=np.int64)
    fold[np.lexsort((np.random.default_rng(seed).random(prompts), levels))] = np.arange(prompts) % FOLDS
    weight = _WEIGHT / np.bincount(prompt, minlength=prompts)[prompt]
    own = {task: (tasks == task)[prompt] for task in apart}

    def fitted(rows: NDArray[np.bool_], *, by_task: bool) -> Confidence | None:
        if len(np.unique(y[rows])) < 2:
            return None
        # Centred, which the bias makes up for: else what is the same in all rows, such as a score that is always known,
        # would be a second bias, and the fit would not end.
        scale, centre = np.maximum(x[rows].std(axis=0), 1e-6), x[rows].mean(axis=0)
        scaled = (x[rows] - centre) / scale
        columns = [scaled]
        if by_task:
            columns += [np.column_stack([scaled, np.ones(len(scaled))]) * mask[rows, None] for mask in own.values()]
        model = LogisticRegression(C=_OF_TASKS if by_task else 1.0, max_iter=500)
        model.fit(np.hstack(columns), y[rows], sample_weight=weight[rows])
        count, bias, coefficients = x.shape[1], float(model.intercept_[0]), model.coef_[0]

        def unscaled(added: Floats, more: float) -> tuple[dict[str, float], float]:
            weights = ((coefficients[:count] + added) / scale).round(6).tolist()
            return dict(zip(names, weights, strict=True)), round(bias + more - float(np.dot(weights, centre)), 6)

        parts = coefficients[count:].reshape(-1, count + 1) if by_task else []
        of_tasks = {
            task: OfOneTask(*unscaled(part[:-1], float(part[-1]))) for task, part in zip(own, parts, strict=False)
        }
        return Confidence(*unscaled(np.zeros(count), 0.0), voting, of_tasks)

    found: dict[str, OutOfFold] = {}
    for kind in ("one", "by_task") if own else ("one",):
        models = [fitted(fold[prompt] != i, by_task=kind != "one") for i in range(FOLDS)]
        whole = fitted(np.ones(len(y), dtype=bool), by_task=kind != "one")
        if whole is None or any(model is None for model in models):
            return None
        known = tuple(model for model in models if model)
        found[kind] = OutOfFold(known, fold, probabilities, tasks, whole, {})
    losses = {kind: _loss(each, paths) for kind, each in found.items()}
    return replace(found[min(losses, key=lambda kind: losses[kind])], losses=losses)


def _loss(believe: OutOfFold, paths: Sequence[Path]) -> float:
    """Return the mean log-loss over all stages' answers, each prompt counted alike."""
    total, count = np.zeros(len(believe.fold)), np.zeros(len(believe.fold))
    for path in paths:
        for sure, each, correct in zip(believe(path.arms, path.seen, last=False), path.seen, path.correct, strict=True):
            of_right = np.clip(np.where(correct > 0.5, sure, 1 - sure), 1e-6, 1.0)  # either is right
            total += np.where(each.answer >= 0, -np.log(of_right), 0.0).sum(axis=1)
            count += (each.answer >= 0).sum(axis=1)
    return round(float((total[count > 0] / count[count > 0]).mean()), 4)


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
