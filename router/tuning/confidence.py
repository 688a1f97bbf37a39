"""Fits the confidence model on replayed runs: the probability that an answer is right, given all that is known.

Three models are fitted: a plain one, one that also knows the solution's length and how probable its tokens were, and,
where there are several tasks, one that has weights for each task besides, drawn towards common ones. A richer one is
kept where it predicts better out of fold, beyond the noise: on prompts that are longer than those of training, what
was learned of lengths misleads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from router.policy.confidence import Confidence, Weights, features, has_length_and_log_prob, voting_of
from strategies import Strategy
from strategies.replaying.records import Runs, Seen

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Names = NDArray[np.str_]
FOLDS = 5
FEWEST = 40  # prompts that a fit needs; with fewer, ``strategies.confidence`` is used
KINDS = ("plain", "solution", "by_task")  # from the poorest
_OF_SOLUTION = ("length", "log-probability")  # what the plain model's features don't begin with
_WEIGHT = 4.0  # total weight of a prompt's rows, which are much alike
_COMMON = 1.0  # C of the logistic regression
_OF_TASKS = 0.1  # the same for how far a task's weights may lie from the common ones


@dataclass(frozen=True, slots=True)
class Path:
    """Arms that ran in turn, with ``seen`` (P, R) of each arm, and ``correct`` (P, R) whether its answer is right."""

    arms: tuple[Strategy, ...]
    seen: tuple[Seen, ...]
    correct: tuple[Floats, ...]

    @classmethod
    def of(cls, arms: Sequence[Strategy], runs: Sequence[Runs], columns: Ints, *, last: bool) -> "Path":
        """Take these columns of the runs. ``last``: no arm follows, so only its own arm scores the last answer."""
        hidden = last and not arms[-1].scores_answers
        seen = [each.seen.at((slice(None), columns)) for each in runs]
        if hidden:
            seen[-1] = replace(seen[-1], score=np.full_like(seen[-1].score, np.nan))
        return cls(tuple(arms), tuple(seen), tuple(each.correct[:, columns] for each in runs))


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold confidences: for each prompt those of the model that was fitted without it.

    models  one per fold;  whole  is fitted on all prompts
    fold  (P,) of each prompt;  probabilities (P, 5) of its levels;  tasks (P,) its task's name
    kept    name of the model that is kept, see KINDS
    losses  mean log-loss of each model by its name
    """

    models: tuple[Confidence, ...]
    fold: Ints
    probabilities: Floats
    tasks: Names
    whole: Confidence
    kept: str = ""
    losses: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.replaying.records.ConfidenceOfRuns``."""
        found = [np.zeros(each.answer.shape) for each in seen]
        for i, model in enumerate(self.models):
            rows = np.flatnonzero(self.fold == i)
            mine = [each.at(rows) for each in seen]
            for into, sure in zip(found, self._by(model, rows)(arms, mine, last=last), strict=True):
                into[rows] = sure
        return found

    @property
    def all_models(self) -> tuple[Confidence, ...]:
        return *self.models, self.whole

    @property
    def report(self) -> dict[str, Any]:
        return {"kept": self.kept, "log_loss": dict(self.losses)}

    def _by(self, model: Confidence, rows: Ints) -> "ModelConfidence":
        return ModelConfidence(model, self.probabilities[rows], self.tasks[rows])


@dataclass(frozen=True, slots=True)
class ModelConfidence:
    """One model's confidences for P prompts that it never saw.

    probabilities  (P, 5) of their levels;  tasks (P,) names
    """

    model: Confidence
    probabilities: Floats
    tasks: Names

    def __call__(self, arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
        """Return confidences of (P, R) runs, see ``strategies.replaying.records.ConfidenceOfRuns``."""
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
    """Fit the models of :data:`KINDS`, each without every fold and on all prompts; return the one that is kept.

    None without paths, with fewer than FEWEST prompts, or if all answers are alike. A richer kind is tried where half
    as many prompts have solutions of known length and log-probability.

    probabilities  (P, 5) out-of-fold probabilities of the prompts' levels;  levels (P,) to balance the folds by
    tasks  (P,) the prompts' tasks;  apart  those with enough prompts for weights of their own
    """
    if not paths or len(probabilities) < FEWEST:
        return None
    rows = _Rows.of(paths, probabilities)
    if len(np.unique(rows.right)) < 2:
        return None
    fold = _folds(levels, seed)
    own = {task: (tasks == task)[rows.prompt] for task in apart}
    found: dict[str, OutOfFold] = {}
    for kind in KINDS if own else KINDS[:-1]:
        models = [_fitted(rows, fold[rows.prompt] != i, kind, own) for i in range(FOLDS)]
        models.append(_fitted(rows, np.ones(len(rows.right), dtype=bool), kind, own))
        made = [model for model in models if model]
        if len(made) < len(models):
            break
        if kind != KINDS[0]:
            made = [_over(model, plain) for model, plain in zip(made, found[KINDS[0]].all_models, strict=True)]
        found[kind] = OutOfFold(tuple(made[:-1]), fold, probabilities, tasks, made[-1])
    return _kept(found, paths) if found else None


@dataclass(frozen=True, slots=True)
class _Rows:
    """N answers of stages, on which models are fitted.

    names   (F,) of the features;  values (N, F)
    right   (N,) 1 where the answer is right, else 0
    prompt  (N,) index of the answer's prompt;  weight (N,) by which prompts count alike
    shown   (N,) whether the solution's length and log-probability are known
    voting  strategies whose votes are among the features
    """

    names: list[str]
    values: Floats
    right: Ints
    prompt: Ints
    weight: Floats
    shown: NDArray[np.bool_]
    voting: tuple[str, ...]

    @classmethod
    def of(cls, paths: Sequence[Path], probabilities: Floats) -> "_Rows":
        """Take a row for each answer of each stage. ``probabilities``: (P, 5) of the prompts' levels."""
        voting = voting_of([arm for path in paths for arm in path.arms])
        tables, rights, whose, shown = [], [], [], []
        for path in paths:
            shape = path.seen[0].answer.shape
            for i in range(len(path.arms)):
                found = features(probabilities[:, None], path.arms, path.seen, i, voting)
                answered = path.seen[i].answer >= 0
                tables.append({name: np.broadcast_to(values, shape)[answered] for name, values in found.items()})
                rights.append((path.correct[i] > 0.5)[answered])
                whose.append(np.broadcast_to(np.arange(shape[0])[:, None], shape)[answered])
                shown.append(has_length_and_log_prob(path.seen[i])[answered])
        names = list(dict.fromkeys(name for table in tables for name in table))
        values = np.concatenate(
            [
                np.column_stack([table.get(name, np.zeros(len(right))) for name in names])
                for table, right in zip(tables, rights, strict=True)
            ]
        )
        right, prompt = np.concatenate(rights).astype(np.int64), np.concatenate(whose)
        weight = _WEIGHT / np.bincount(prompt, minlength=len(probabilities))[prompt]
        return cls(names, values, right, prompt, weight, np.concatenate(shown), voting)


def _folds(levels: Ints, seed: int) -> Ints:
    """(P,) the fold of each prompt, 0 to FOLDS - 1, at random and balanced by level."""
    fold = np.empty(len(levels), dtype=np.int64)
    fold[np.lexsort((np.random.default_rng(seed).random(len(levels)), levels))] = np.arange(len(levels)) % FOLDS
    return fold


def _fitted(
    rows: _Rows, inside: NDArray[np.bool_], kind: str, own: Mapping[str, NDArray[np.bool_]]
) -> Confidence | None:
    """Fit one model on the rows ``inside``; None where these are too few or all alike.

    kind  see :data:`KINDS`;  own (N,) by task, which rows are of a task with weights of its own
    """
    if kind != "plain":
        inside = inside & rows.shown
    if len(np.unique(rows.right[inside])) < 2 or len(np.unique(rows.prompt[inside])) < FEWEST // 2:
        return None
    some = [k for k, name in enumerate(rows.names) if kind != "plain" or not name.startswith(_OF_SOLUTION)]
    values = rows.values[inside][:, some]
    # Centred, which the bias makes up for: else what is the same in all rows, such as a score that is always known,
    # would be a second bias, and the fit would not end.
    scale, centre = np.maximum(values.std(axis=0), 1e-6), values.mean(axis=0)
    scaled = (values - centre) / scale
    columns = [scaled]
    if kind == "by_task":
        each = _OF_TASKS**0.5 * np.column_stack([scaled, np.ones(len(scaled))])
        columns += [each * mask[inside, None] for mask in own.values()]
    model = LogisticRegression(C=_COMMON, max_iter=500)
    model.fit(np.hstack(columns), rows.right[inside], sample_weight=rows.weight[inside])
    bias, common, more = float(model.intercept_[0]), *np.split(model.coef_[0], [len(some)])

    def unscaled(weights: Floats, bias: float) -> Weights:
        weights = (weights / scale).round(6)
        named = dict(zip([rows.names[k] for k in some], weights.tolist(), strict=True))
        return Weights(named, round(bias - float(np.dot(weights, centre)), 6))

    parts = zip(own, _OF_TASKS**0.5 * more.reshape(len(own), -1), strict=True) if len(more) else ()
    of_tasks = {task: unscaled(common + part[:-1], bias + float(part[-1])) for task, part in parts}
    whole = unscaled(common, bias)
    return Confidence(whole.weights, whole.bias, rows.voting, of_tasks)


def _kept(found: Mapping[str, OutOfFold], paths: Sequence[Path]) -> OutOfFold:
    """Return the richest models whose log-loss is lower than that of poorer ones by more than its standard error.

    found  by kind, the poorest first
    """
    losses = {kind: _losses(each, paths) for kind, each in found.items()}
    kept = KINDS[0]
    for kind in list(found)[1:]:
        gain = losses[kept] - losses[kind]
        if gain.mean() > gain.std() / len(gain) ** 0.5:
            kept = kind
    return replace(found[kept], kept=kept, losses={kind: round(float(each.mean()), 4) for kind, each in losses.items()})


def _over(model: Confidence, plain: Confidence) -> Confidence:
    """Return the model, with the plain one for solutions of which it does not know enough."""
    return replace(model, plain=Weights(plain.weights, plain.bias))


def _losses(confidence_of: OutOfFold, paths: Sequence[Path]) -> Floats:
    """Return the mean log-loss over all stages' answers at each prompt that has some."""
    total, count = np.zeros(len(confidence_of.fold)), np.zeros(len(confidence_of.fold))
    for path in paths:
        for sure, each, correct in zip(
            confidence_of(path.arms, path.seen, last=False), path.seen, path.correct, strict=True
        ):
            of_right = np.clip(np.where(correct > 0.5, sure, 1 - sure), 1e-6, 1.0)
            total += np.where(each.answer >= 0, -np.log(of_right), 0.0).sum(axis=1)
            count += (each.answer >= 0).sum(axis=1)
    losses: Floats = total[count > 0] / count[count > 0]
    return losses
