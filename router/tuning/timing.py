"""Puts into a finished bundle's policy how long its arms take on one machine.

Accuracy and tokens are the same wherever the same models run. Seconds hold for one machine and its load. So a bundle
is tuned once, and timed again where it is served: on a few dozen prompts, whose right answers need not be known.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.pools import is_pool
from router.attempts.schema import prompt_of
from router.bundle.bundle import Bundle
from router.bundle.manifest import digests, write_manifest
from router.errors import InvalidFile
from router.policy.table import LEVELS, Policy
from router.training.difficulty import Vectors
from router.tuning.candidates import replay
from router.tuning.evidence import Measured, measure
from router.tuning.of_bundle import predicted, replayable
from router.whole_files import written_whole
from strategies import Cascade, Strategy

Seconds = Mapping[tuple[int, Strategy], float]  # by level and arm


def timed(
    bundle: Bundle, attempts: pd.DataFrame, vectors: Vectors | None = None, *, seed: int = 0
) -> tuple[Policy, Measured]:
    """Return the bundle's policy with the seconds of these attempts, and what was measured there.

    attempts  as on the machine that serves; ``correct`` may be null
    vectors   gives the prompts' feature vectors, needed where the bundle's difficulty model reads some

    A cell's seconds are the mean over the prompts where its arm was timed, each weighted with the probability of the
    cell's level. Where an arm really ran at these prompts, its runs count; else its replay. Arms that can't be replayed
    from the attempts have no seconds afterwards, and neither has the table of a task without prompts. Raises
    InvalidFile where no arm has any, InvalidBundle.
    """
    first = attempts.drop_duplicates("prompt_id").set_index("prompt_id", drop=False)
    attempts = attempts.assign(correct=attempts["correct"].astype("boolean").fillna(False))
    arms = bundle.policy.arms
    measured = measure(attempts, first.index, (), bundle.setup, arms=arms, seed=seed)
    measured = replace(measured, seconds=_of_runs(attempts, measured))
    asked = [prompt_of(row) for row in first.loc[measured.prompts].to_dict("records")]
    probabilities = predicted(bundle, asked, vectors)
    cascades = [arm for arm in arms if isinstance(arm, Cascade)]
    replayed, missing = replay(cascades, measured, replayable(bundle, measured, probabilities))
    measured = measured.with_cascades(replayed)
    measured = replace(measured, left_out=(*measured.left_out, *missing))
    tables = {"": _means(measured, probabilities)}
    for task in bundle.policy.tasks:
        here = np.flatnonzero(measured.tasks == task)
        tables[task] = _means(measured.on(here), probabilities[here]) if len(here) else {}
    if not any(arm in arms for table in tables.values() for _, arm in table):
        raise InvalidFile("no arm of the policy was timed: the attempts' `seconds` are null, or they are of other arms")
    return bundle.policy.with_seconds(lambda task, cell: tables[task].get((cell.level, cell.arm))), measured


def _of_runs(attempts: pd.DataFrame, measured: Measured) -> NDArray[np.float64]:
    """(P, K) seconds, those of complete runs for arms that ran at every prompt."""
    if "seconds" not in attempts:
        return measured.seconds
    runs = attempts[~attempts["arm"].map(is_pool)].groupby(["prompt_id", "arm"])["seconds"].mean().unstack("arm")
    seconds = measured.seconds.copy()
    for k, arm in enumerate(map(str, measured.arms)):
        if arm in runs and (ran := runs[arm].reindex(measured.prompts)).notna().all():
            seconds[:, k] = ran
    return seconds


def _means(measured: Measured, probabilities: NDArray[np.float64]) -> Seconds:
    """Return the mean seconds of each arm at each level, where they are known. ``probabilities`` (P, 5)."""
    known = ~np.isnan(measured.seconds)
    weights = probabilities.T @ known
    means = probabilities.T @ np.where(known, measured.seconds, 0.0) / np.where(weights > 0, weights, 1.0)
    return {
        (level, arm): round(float(means[i, k]), 4)
        for i, level in enumerate(LEVELS)
        for k, arm in enumerate(measured.arms)
        if known[:, k].any()
    }


def save_timed(policy: Policy, bundle: Bundle, prompts: int) -> None:
    """Write the policy into the bundle's folder, and the manifest anew. ``prompts``: how many were timed."""
    folder, manifest = bundle.folder, bundle.manifest
    with written_whole(folder / "policy.json") as partial:
        partial.write_text(policy.dumps())
    when = {"date": datetime.now(UTC).date().isoformat(), "prompts": prompts}
    files = digests(folder, manifest.setup.adapters)
    write_manifest(folder, replace(manifest, files=files, provenance={**manifest.provenance, "timed": when}))
