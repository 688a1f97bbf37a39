"""Adds cascades to the measured arms: fits the confidence model, replays cascades with it, keeps the useful ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.policy.confidence import Confidence
from router.tuning.cascades import Enumerated, Replayed, atoms, candidates, groups, paths, prune, sequences
from router.tuning.confidence import OutOfFold, fit
from router.tuning.evidence import Measured
from strategies import Cascade, Strategy
from strategies.replaying.cascades import by_score_or_lead_of_runs
from strategies.replaying.records import ConfidenceOfRuns, Floats


@dataclass(frozen=True, slots=True)
class Candidates:
    """The arms that a policy may choose from, P prompts.

    measured  the measured arms, with the useful cascades and those asked for
    everything  the same with all cascades that were tried
    probabilities  (P, 5) of the prompts' levels, out of fold;  levels (P,) by their attempts
    fitted    the confidence models, out of fold and on all prompts; None: too few prompts to fit one
    atoms     the arms that cascades are made of
    asked     cascades that were asked for and could be replayed
    left_out  cascades that can't be replayed, and why
    """

    measured: Measured
    everything: Measured
    probabilities: Floats
    levels: NDArray[np.int64]
    fitted: OutOfFold | None
    atoms: tuple[Strategy, ...] = ()
    asked: frozenset[Strategy] = frozenset()
    left_out: tuple[dict[str, str], ...] = ()

    @property
    def confidence(self) -> Confidence | None:
        return self.fitted.whole if self.fitted else None

    def without_luck(self, rows: NDArray[np.int64], budgets: Sequence[int], tolerance: float) -> list[int]:
        """Return columns of ``everything`` chosen by these prompts only: all plain arms, and the useful cascades."""
        options: dict[str, Any] = {"budgets": budgets, "tolerance": tolerance, "asked": self.asked}
        return _matter(self.everything.on(rows), self.probabilities[rows], self.everything.apart, **options)

    @property
    def report(self) -> dict[str, Any]:
        """How many cascades were tried, how many are kept, and the arms that they are made of."""

        def count(of: Measured) -> int:
            return sum(isinstance(arm, Cascade) for arm in of.arms)

        return {
            "tried": count(self.everything),
            "kept": count(self.measured),
            "made_of": [str(arm) for arm in self.atoms],
        }


def with_cascades(
    measured: Measured,
    probabilities: Floats,
    levels: NDArray[np.int64],
    asked: Sequence[Cascade],
    *,
    enumerate_more: bool = True,
    budgets: Sequence[int],
    tolerance: float,
    seed: int,
) -> Candidates:
    """Add the useful cascades, and all in ``asked``, to the measured arms.

    Where there are several tasks, cascades are made of what is best for each task, too.

    probabilities  (P, 5) of the prompts' levels, out of fold;  levels (P,) by their attempts
    enumerate_more  whether to try cascades other than those in ``asked``
    """
    replays = measured.replays
    parts = [measured, *(measured.on(np.flatnonzero(measured.tasks == task)) for task in measured.apart)]
    made_of = [atoms(part.arms, part.accuracy, part.generations, replays) for part in parts]
    chosen = list(dict.fromkeys(found for arms in made_of for found in sequences(arms, replays)))
    shown = paths(measured.arms, chosen, replays, seed=seed)
    fitted = fit(shown, probabilities, levels, measured.tasks, apart=measured.apart, seed=seed)
    confidence_of: ConfidenceOfRuns = fitted or by_score_or_lead_of_runs
    more = candidates(chosen) if enumerate_more else []
    tried, left_out = replay([*more, *asked], measured, Enumerated(replays, confidence_of))
    everything = measured.with_cascades(tried)
    kept = frozenset(asked)
    columns = _matter(everything, probabilities, measured.apart, budgets=budgets, tolerance=tolerance, asked=kept)
    used = tuple(dict.fromkeys(arm for arms in made_of for arm in arms))
    return Candidates(everything.of(columns), everything, probabilities, levels, fitted, used, kept, tuple(left_out))


def replay(
    cascades: Sequence[Cascade], measured: Measured, enumerated: Enumerated
) -> tuple[list[Replayed], list[dict[str, str]]]:
    """Replay each different cascade; return the replays, and the cascades that can't be replayed, with the reason."""
    found, left_out = [], []
    for arm in dict.fromkeys(cascades):
        if arm in measured.arms:  # it was run itself
            continue
        runs = enumerated.runs(arm)
        if runs is None:
            why = "a stage was not run on every prompt, was not scored, or the pools are too small for all its stages"
            left_out.append({"arm": str(arm), "reason": why})
        else:
            found.append(Replayed.of(arm, runs, len(measured.prompts)))
    return found, left_out


def _matter(
    everything: Measured,
    probabilities: Floats,
    tasks: Sequence[str],
    *,
    budgets: Sequence[int],
    tolerance: float,
    asked: frozenset[Strategy],
) -> list[int]:
    cascades = [k for k, arm in enumerate(everything.arms) if isinstance(arm, Cascade)]
    plain = [k for k in range(len(everything.arms)) if k not in set(cascades)]
    if not cascades:
        return plain
    kept = prune(
        everything.accuracy[:, cascades],
        everything.generations[:, cascades],
        groups(probabilities, np.array([everything.tasks == task for task in tasks])),
        budgets=everything.budgets[cascades],
        wanted=budgets,
        tolerance=tolerance,
        wide=1 + len(tasks),
    )
    wanted = {cascades[i] for i in kept} | {k for k in cascades if everything.arms[k] in asked}
    return sorted([*plain, *wanted])


def trust(enumerated: Enumerated, arms: Sequence[Strategy]) -> tuple[Floats, Floats]:
    """Return (P,) the confidence of one run of each prompt's arm, and (P,) whether it is right; NaN where unknown."""
    sure, right = np.full(len(arms), np.nan), np.full(len(arms), np.nan)
    for arm in dict.fromkeys(arms):
        rows = np.array([each == arm for each in arms])
        runs = enumerated.alone(arm)
        if runs is not None and runs.confidence is not None:
            sure[rows], right[rows] = runs.confidence[rows, 0], runs.correct[rows, 0]
    return sure, right
