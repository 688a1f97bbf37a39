"""The held-out prompts of an evaluation: what was measured on them, and which levels the bundle predicts there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from difficulty import levels_of
from router.attempts.pools import SAMPLE
from router.bundle.bundle import Bundle
from router.errors import InvalidFile
from router.evaluation.averages import cascades_of
from router.evaluation.objectives import run_until, usual_objectives
from router.evaluation.report import LeftOut
from router.evaluation.tuned import Tuned
from router.policy.objectives import Objective
from router.policy.table import LEVELS
from router.solving.features import features_of
from router.training.difficulty import Training, Vectors, prompt_statistics, text_digest
from router.tuning.candidates import replay
from router.tuning.cascades import Enumerated
from router.tuning.evidence import Measured, by_reason, measure, named, resamples
from router.tuning.of_bundle import predicted, replayable
from strategies import Cascade


@dataclass(frozen=True, slots=True)
class HeldOut:
    """P held-out prompts; every array has them in the same order.

    prompts        (P,) rows by prompt_id, see ``training.difficulty.prompt_statistics``
    measured       the arms that were run or replayed, cascades among them
    enumerated     the runs that cascades are replayed from
    probabilities  (P, 5) predicted probabilities of levels 1 to 5
    reading        (P,) FLOPs of reading the features that levels are predicted from
    levels         (P,) levels by the prompts' own attempts
    objectives     objectives to measure
    draws          (R, P) weights of R bootstrap resamples
    left_out       arms and prompts that could not be measured
    """

    prompts: pd.DataFrame
    measured: Measured
    enumerated: Enumerated
    probabilities: NDArray[np.float64]
    reading: NDArray[np.float64]
    levels: NDArray[np.int64]
    objectives: tuple[Objective, ...]
    draws: NDArray[np.float64]
    left_out: tuple[LeftOut, ...]

    @property
    def known(self) -> NDArray[np.float64]:
        """(P, 5) probabilities of the levels by the prompts' own attempts: 1 and 0."""
        return np.asarray(np.eye(len(LEVELS))[self.levels - 1])


def hold_out(
    attempts: pd.DataFrame,
    bundle: Bundle,
    training: Training,
    tuned: Tuned,
    vectors: Vectors | None,
    *,
    objectives: Sequence[Objective],
    seed: int,
) -> HeldOut:
    """Measure the arms of the bundle on the held-out attempts, and predict the prompts' levels.

    vectors     gives the prompts' feature vectors, needed where the bundle's difficulty model reads some
    objectives  objectives to measure besides the usual ones

    Raises InvalidFile where a prompt was trained on, InvalidBundle.
    """
    prompts = _untrained(attempts, training, bundle)
    arms = [*bundle.policy.arms, *tuned.oracle.arms]
    measured = measure(attempts, prompts.index, tuned.budgets, bundle.setup, arms=arms, seed=seed)
    prompts = prompts.loc[measured.prompts]
    probabilities = predicted(bundle, prompts["asked"].tolist(), vectors)
    wanted = (*usual_objectives(measured), *objectives)
    enumerated = replayable(bundle, measured, probabilities)
    cascades = [arm for arm in arms if isinstance(arm, Cascade)] + cascades_of(tuned.averages)
    cascades += run_until(bundle.policy, probabilities, measured.tasks, wanted)
    replayed, not_replayed = replay(cascades, measured, enumerated)
    measured = measured.with_cascades(replayed)
    left_out = [LeftOut(entry["arm"], entry["reason"]) for entry in (*measured.left_out, *not_replayed)]
    left_out += [LeftOut(named(entry), entry["reason"]) for entry in by_reason(measured.left_out_prompts)]
    return HeldOut(
        prompts=prompts,
        measured=measured,
        enumerated=enumerated,
        probabilities=probabilities,
        reading=_reading_flops(measured, bundle.manifest.features),
        levels=levels_of(prompts["statistic"], bundle.manifest.edges),
        objectives=wanted,
        draws=resamples(len(prompts), np.random.default_rng(seed)),
        left_out=tuple(left_out),
    )


def pass_rates(attempts: pd.DataFrame, prompts: pd.Index) -> NDArray[np.float64]:
    """Return each prompt's share of right samples of the reference model, (P,)."""
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].mean()
    rates: NDArray[np.float64] = pool.loc[prompts].to_numpy(dtype=float)
    return rates


def _untrained(attempts: pd.DataFrame, training: Training, bundle: Bundle) -> pd.DataFrame:
    """Return a row for each prompt, by ``prompt_statistics``. Raises InvalidFile where one was trained on."""
    prompts = prompt_statistics(attempts, bundle.manifest.statistic)
    no_pool = sorted(set(attempts["prompt_id"]) - set(prompts.index))
    if no_pool:
        raise InvalidFile(
            f"{len(no_pool)} prompts have runs of arms but no independent attempts (arm `{SAMPLE}`), "
            f"first {no_pool[0]!r}; collect some for them, since a prompt's level comes from independent attempts"
        )
    seen = prompts["asked"].map(text_digest).isin(training.prompts["digest"])  # by text, since ids may be reused
    if seen.any():
        raise InvalidFile(
            f"{seen.sum()} of the {len(prompts)} prompts were trained on, first {prompts.index[seen.argmax()]!r}, and "
            "measurements on them prove nothing; evaluate on prompts that train and tune never saw"
        )
    return prompts


def prompt_tokens(measured: Measured) -> NDArray[np.float64]:
    """Return the (P,) prompts' lengths in tokens, as the reference model reads them."""
    column = next(k for k, arm in enumerate(measured.arms) if arm.models == {None})
    reference = list(measured.setup.models).index(measured.setup.reference)
    tokens: NDArray[np.float64] = measured.prompt[:, column, reference]
    return tokens


def _reading_flops(measured: Measured, features: str) -> NDArray[np.float64]:
    """Return the (P,) FLOPs of reading the features: the reference model's pass over the prompt, or 0."""
    if features_of(features).needs is None:
        return np.zeros(len(measured.prompts))
    return 2.0 * measured.setup.main.parameters * prompt_tokens(measured)
