"""Cascades as candidates: enumerated from measured arms, replayed on all prompts at once, and pruned.

A cascade's stages are arms of rising cost. All its thresholds are equal, since a confidence means the same after every
stage. Eight arms and eight thresholds give more than a thousand cascades. A cascade is kept if, at some price, it is
worth more to some level or task than all others, by more than luck. A short table is easier to read, and the best of
few cascades looks less good by chance than the best of many.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.tuning.confidence import Path
from strategies import Cascade, Sampling, Strategy
from strategies.replaying.cascades import after, ended, replayed, stack
from strategies.replaying.records import ConfidenceOfRuns, Floats, Recorded, Runs

RUNS = 24  # replayed runs of a cascade at each prompt
ATOMS = 8  # the most arms that cascades are made of
STAGES = 4  # the most stages of a cascade
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PRICES = np.geomspace(0.05, 0.0005, 9)  # prices of a generation, in right answers
_PATHS = 24
_SIZES = (1, 4, 16)  # sizes of the sampling arms that the confidence model learns from


class Replays:
    """Runs of arms as stages, at P prompts; each is replayed once and kept.

    recorded  what was recorded at each prompt, in order
    """

    def __init__(self, recorded: Sequence[Recorded]):
        self._recorded = recorded
        self._known: list[dict[Any, Runs | None]] = [{} for _ in recorded]
        self._found: dict[tuple[Strategy, ...], Runs | None] = {}
        models = {model for each in recorded for model in each.prefilled}
        self.prefilled: Mapping[str | None, Floats] = {
            model: np.array([each.prefilled.get(model, 0.0) for each in recorded])[:, None] for model in models
        }
        self._verified = np.array([each.verified for each in recorded])[:, None]

    def stages(self, arms: Sequence[Strategy]) -> list[Runs] | None:
        """Return (P, R) runs of each stage; None if one is missing at a prompt, or an earlier stage lacks scores."""
        found = [self._last(tuple(arms[: i + 1])) for i in range(len(arms))]
        known = [runs for runs in found if runs is not None]
        if len(known) < len(found):
            return None
        return known if all(map(self.gives_confidence, arms[:-1])) else None

    def gives_confidence(self, arm: Strategy) -> bool:
        """Whether other stages can follow the arm: its answers have the scores that a confidence needs."""
        runs = self._last((arm,))
        return runs is not None and not (self._verified & runs.unscored).any()

    def _last(self, arms: tuple[Strategy, ...]) -> Runs | None:
        """Return (P, R) runs of the last arm after the others drew their attempts; None if it can't be replayed."""
        # An earlier arm matters only if it draws from the same pool or is the same arm.
        key = (*(arm for arm in arms[:-1] if arm.models & arms[-1].models and _draws(arm, arms[-1])), arms[-1])
        if key not in self._found:
            rows = [replayed(key, each, known) for each, known in zip(self._recorded, self._known, strict=True)]
            known = [row[-1] for row in rows if row]
            self._found[key] = stack(known, RUNS) if len(known) == len(rows) else None
        return self._found[key]


def _draws(earlier: Strategy, arm: Strategy) -> bool:
    """Whether the earlier arm's attempts are missing to the other: both sample, or they are the same arm."""
    return earlier == arm or (not earlier.needs_steps and not earlier.revises and not arm.needs_steps)


@dataclass(frozen=True, slots=True)
class Replayed:
    """Means over a cascade's runs, at each of P prompts. Tokens are by model; seconds are NaN where not measured."""

    arm: Cascade
    accuracy: Floats
    prompt_tokens: Mapping[str | None, Floats]
    generated_tokens: Mapping[str | None, Floats]
    scored_tokens: Floats
    seconds: Floats

    @classmethod
    def of(cls, arm: Cascade, runs: Runs, prompts: int) -> "Replayed":
        def mean(values: Floats) -> Floats:
            found: Floats = np.broadcast_to(values, (prompts, runs.correct.shape[1])).mean(axis=1)
            return found

        return cls(
            arm,
            mean(runs.correct),
            {model: mean(tokens) for model, tokens in runs.prompt_tokens.items()},
            {model: mean(tokens) for model, tokens in runs.generated_tokens.items()},
            mean(runs.scored_tokens),
            mean(np.array(np.nan) if runs.seconds is None else runs.seconds),
        )


class Enumerated:
    """Replays cascades that share prefixes; the state after each prefix is computed once."""

    def __init__(self, replays: Replays, confidence_of: ConfidenceOfRuns):
        self._replays, self._confidence_of = replays, confidence_of
        self._after: dict[tuple[tuple[Strategy, ...], bool], Runs] = {}

    def runs(self, arm: Cascade) -> Runs | None:
        """Return (P, R) runs of the cascade; None where a stage is missing."""
        stages = self._replays.stages(arm.stages)
        if stages is None:
            return None

        def state(count: int) -> Runs:
            return self._at(arm.stages[:count], stages[:count], last=count == len(stages))

        return ended(arm.thresholds, state)

    def alone(self, arm: Strategy) -> Runs | None:
        """Return (P, R) runs of any arm, with the confidence in its answer; None where they are missing."""
        if isinstance(arm, Cascade):
            return self.runs(arm)
        stages = self._replays.stages([arm])
        return None if stages is None else self._at((arm,), stages, last=True)

    def _at(self, arms: tuple[Strategy, ...], stages: Sequence[Runs], *, last: bool) -> Runs:
        key = arms, last
        if key not in self._after:
            self._after[key] = after(arms, stages, self._replays.prefilled, self._confidence_of, last=last)
        return self._after[key]


def atoms(arms: Sequence[Strategy], accuracy: Floats, generations: Floats, replays: Replays) -> list[Strategy]:
    """Return the arms that cascades are made of, by rising cost: layer by layer the upper hull of accuracy over cost.

    accuracy, generations  (P, K) of the arms

    Where there is a verifier, an arm whose answers have no score can only be a last stage. One such arm takes part: the
    most accurate, if no cheaper arm with scores is as accurate.
    """
    acc, spent = accuracy.mean(axis=0), generations.mean(axis=0)
    plain = [k for k, arm in enumerate(arms) if not isinstance(arm, Cascade)]

    def scored(k: int) -> bool:  # slow, since it replays: so only for arms that may matter
        return replays.gives_confidence(arms[k])

    layers: list[int] = []
    usable = plain
    while usable and len(layers) < ATOMS:
        layer = _hull(usable, acc, spent)
        doubted = [k for k in layer if not scored(k)]
        layers += [] if doubted else layer
        usable = [k for k in usable if k not in (doubted or layer)]
    ordered = [*layers, *(k for k in plain if k not in layers)]  # what beats an arm is mostly among the first
    last = None
    for k in sorted(plain, key=lambda k: (-acc[k], spent[k])):
        cheaper = [j for j in ordered if spent[j] < spent[k]]
        beaten = any(acc[j] >= acc[k] and scored(j) for j in cheaper)
        if not beaten and not scored(k) and any(map(scored, cheaper)):
            last = k
            break
    found = layers[:ATOMS] if last is None else [last, *layers[: ATOMS - 1]]
    return [arms[k] for k in sorted(found, key=lambda k: spent[k])]


def _hull(rows: Sequence[int], acc: Floats, spent: Floats) -> list[int]:
    """Return the arms that no mix of two others beats at equal cost, the most accurate first."""
    hull: list[int] = []
    for k in sorted(rows, key=lambda k: (spent[k], -acc[k])):
        if hull and acc[k] <= acc[hull[-1]]:
            continue
        while len(hull) > 1:
            (a, b), c = hull[-2:], k
            if (acc[b] - acc[a]) * (spent[c] - spent[a]) > (acc[c] - acc[a]) * (spent[b] - spent[a]):
                break
            hull.pop()
        hull.append(k)
    return hull[::-1]


def sequences(arms: Sequence[Strategy], replays: Replays) -> Iterator[tuple[Strategy, ...]]:
    """Yield all sequences of two to :data:`STAGES` arms, of rising cost, that can be replayed."""
    for length in range(2, min(STAGES, len(arms)) + 1):
        for chosen in combinations(arms, length):
            if replays.stages(chosen) is not None:
                yield chosen


def candidates(chosen: Sequence[tuple[Strategy, ...]]) -> list[Cascade]:
    """Return a cascade for each sequence of arms and each of :data:`THRESHOLDS`."""
    return [Cascade(stages=arms, thresholds=(at,) * (len(arms) - 1)) for arms in chosen for at in THRESHOLDS]


def paths(
    arms: Sequence[Strategy], chosen: Sequence[tuple[Strategy, ...]], replays: Replays, *, seed: int
) -> list[Path]:
    """Return what the confidence model learns from: every arm, as an earlier and as the last stage, and cascades."""
    rng = np.random.default_rng(seed)
    found = []

    def add(stages: Sequence[Strategy], *, last: bool) -> None:
        runs = replays.stages(stages)
        if runs is not None:
            columns = rng.choice(RUNS, 1, replace=False)
            found.append(Path.of(stages, runs, columns, last=last))

    few = [arm for arm in arms if not isinstance(arm, Sampling) or (arm.n in _SIZES and not arm.stop)]
    for arm in dict.fromkeys([*few, *(arm for each in chosen for arm in each)]):
        add([arm], last=True)
        if not arm.needs_scores:
            add([arm], last=False)
    longest = [each for each in chosen if len(each) == max(map(len, chosen))]
    for i in rng.permutation(len(longest))[:_PATHS]:
        stages = longest[i]
        for count in range(2, len(stages) + 1):
            add(stages[:count], last=count == len(stages))
        add(stages[1:], last=True)
    return found


def prune(
    accuracy: Floats,
    generations: Floats,
    weights: Floats,
    *,
    budgets: Floats,
    wanted: Sequence[float],
    tolerance: float,
    wide: int = 1,
) -> list[int]:
    """Return which of C cascades to keep.

    accuracy, generations  (P, C);  weights (P, L) each prompt's share of L groups, see :func:`groups`
    budgets  (C,) the most that each cascade spends;  wanted  fixed budgets
    wide     how many groups, the first, are of all levels

    At each price of a generation and for each group, the best cascade is kept; within each fixed budget, the best for
    each wide group. One that is better by no more than ``tolerance`` than a cascade already kept is left out.
    """
    means, costs = weights.T @ accuracy, weights.T @ generations
    kept: list[int] = []

    def keep(worth: Floats) -> None:
        best = int(worth.argmax())
        if np.isfinite(worth[best]) and (not kept or worth[kept].max() < worth[best] - tolerance):
            kept.append(best)

    for price in PRICES:
        for group in range(weights.shape[1]):
            keep(means[group] - price * costs[group])
    for budget in wanted:
        for group in range(wide):
            keep(np.where(budgets <= budget, means[group], -np.inf))
    return kept


def groups(probabilities: NDArray[np.float64], tasks: NDArray[np.bool_]) -> Floats:
    """(P, 1 + T + 5) weights for :func:`prune`: all prompts, those of each task, and each level's share of the prompts.

    tasks  (T, P) whether a prompt is of the task
    """
    everyone = np.ones((len(probabilities), 1))
    weights = np.hstack([everyone, *(each[:, None].astype(float) for each in tasks), probabilities])
    return np.asarray(weights / np.maximum(weights.sum(axis=0), 1e-9))
