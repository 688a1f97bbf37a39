"""Warnings of what the evidence is too thin for. Each is a sentence or two, and says what to do.

Nothing here is an error: the files are valid, and may be all that there is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.policy.seconds import measured as measured_seconds
from router.policy.table import LEVELS, Policy
from router.training.difficulty import CARRY_LEVELS, Training, advice_on_ties
from router.tuning.evidence import COVERAGE, Measured, common_size

FEWEST = 10  # solved prompts that a comparison of arms needs, and prompts that a level needs
ENOUGH = "200 prompts with 8 attempts each"  # a rule of thumb, from learning curves: docs/guide.md
UNEVEN = 0.5  # share of the prompts in one level above which ties are warned about


def few_solved(accuracy: NDArray[np.float64]) -> str | None:
    """Return a warning where too few prompts tell one arm from another. ``accuracy`` (P, K): K arms at P prompts."""
    prompts = len(accuracy)
    solved = int((accuracy.max(axis=1) > 0).sum())
    if solved < min(FEWEST, prompts):
        return (
            f"only {solved} of {prompts} prompts were ever solved by any arm, so which arm is best is chance. Check "
            "that answers and references are read correctly (`router rejudge`), take easier prompts or a better "
            "model, or collect more --attempts"
        )
    missed = int((accuracy.min(axis=1) < 1).sum())
    if missed < min(FEWEST, prompts):
        return (
            f"only {missed} of {prompts} prompts were ever missed by any arm, so which arm is best is chance; take "
            "harder prompts"
        )
    return None


def upside_down(accuracy: NDArray[np.float64], levels: NDArray[np.int64]) -> str | None:
    """Return a warning where accuracy rises with the level. ``accuracy`` (P,) and ``levels`` (P,) of the prompts."""
    if np.ptp(accuracy) == 0 or np.ptp(levels) == 0 or np.corrcoef(accuracy, levels)[0, 1] <= 0:
        return None
    means = {level: accuracy[levels == level].mean() for level in LEVELS if (levels == level).any()}
    easy, hard = min(means), max(means)
    return (
        f"the levels are upside down: arms are right on {means[easy]:.0%} of level {easy}, the easiest, and on "
        f"{means[hard]:.0%} of level {hard}. The scores that levels come from don't tell hard prompts from easy ones: "
        "check the verifier with `router judge`, or train again with --statistic pass_rate"
    )


def of_tuning(
    measured: Measured, levels: NDArray[np.int64], sizes: pd.Series, largest_budget: Mapping[str, Any]
) -> list[str]:
    """Return the warnings of ``router tune``.

    levels  (P,) of the measured prompts, by their attempts;  sizes  of all prompts' pools
    largest_budget  row of the largest budget in the report
    """
    found = [few_solved(measured.accuracy), upside_down(measured.accuracy.mean(axis=1), levels)]
    small = [level for level in LEVELS if (levels == level).sum() < FEWEST]
    if len(levels) < CARRY_LEVELS:
        found.append(
            f"{len(levels)} prompts can't carry five levels; that takes {CARRY_LEVELS}. With fewer, the arm that looks "
            "best at a level is lucky, so every prompt gets the best fixed arm of its budget: at budget "
            f"{largest_budget['budget']} it is {largest_budget['best_fixed_arm']}, right on "
            f"{largest_budget['best_fixed']['accuracy']:.0%}. Collect attempts at more prompts to use levels"
        )
    elif small:
        found.append(
            f"level {', '.join(map(str, small))}: fewer than {FEWEST} prompts, so arms are measured on all prompts "
            "instead. Collect attempts at more prompts"
        )
    common, largest = common_size(sizes), int(sizes.max())
    if common.bit_length() < largest.bit_length():
        short = sizes[sizes < 1 << (largest.bit_length() - 1)]
        found.append(
            f"budgets end at the {common} attempts that {COVERAGE:.0%} of the prompts have, though some have "
            f"{largest}: {len(short)} of {len(sizes)} prompts have too few, first {short.index[0]!r} with "
            f"{short.iloc[0]}. Collect the missing --attempts, or leave those prompts out of `train`"
        )
    return [text for text in found if text]


def of_lost_seconds(former: Policy | None, policy: Policy, folder: Path) -> str | None:
    """Return a warning where ``router tune`` drops what ``router time`` had measured. ``folder``: the bundle's.

    It is no part of :func:`of_tuning`, since the evidence isn't thin: attempts for tuning usually tell no seconds.
    """
    if former is None or not measured_seconds(former) or measured_seconds(policy):
        return None
    return (
        "the former policy had its arms' seconds, the new one has none, so requests with max_seconds are refused. Run "
        f"`router time ATTEMPTS --bundle {folder}` again"
    )


def of_evaluation(measured: Measured, levels: NDArray[np.int64]) -> list[str]:
    """Return the warnings of ``router evaluate``. ``levels`` (P,) of the held-out prompts, by their attempts."""
    found = [few_solved(measured.accuracy), upside_down(measured.accuracy.mean(axis=1), levels)]
    return [text for text in found if text]


def of_training(training: Training, attempts: pd.DataFrame) -> list[str]:
    """Return the warnings of ``router train``. ``attempts`` are those that the training used."""
    found = []
    counts = training.prompts["level"].value_counts()
    widest = int(counts.idxmax())
    if len(training.prompts) < CARRY_LEVELS:
        found.append(
            f"{len(training.prompts)} prompts can't carry five levels; that takes {CARRY_LEVELS}. `router tune` will "
            "measure every arm on all of them and serve the best fixed arm of each budget"
        )
    elif counts.max() > UNEVEN * len(training.prompts):
        found.append(
            f"level {widest} holds {counts.max()} of {len(training.prompts)} prompts, whose {training.statistic} is "
            f"equal or nearly so. {advice_on_ties(training.statistic)}"
        )
    elif unpredicted := _unpredicted(training):
        found.append(unpredicted)
    if training.statistic == "mean_score":
        found += _unjudged(attempts)
        rates = attempts.groupby("prompt_id")["correct"].mean().reindex(training.prompts.index)
        known = rates.notna().to_numpy()
        if known.any():
            turned = upside_down(
                rates[known].to_numpy(dtype=float), training.prompts["level"].to_numpy()[known].astype(np.int64)
            )
            found += [turned] if turned else []
    return found


def _unpredicted(training: Training) -> str | None:
    """Return a warning where the levels' log-loss is not clearly below that of saying the same of every prompt."""
    levels = training.prompts["level"].to_numpy(dtype=int) - 1
    shares = np.bincount(levels, minlength=len(LEVELS)) / len(levels)
    rows = np.arange(len(levels))
    better = np.log(training.probabilities.to_numpy()[rows, levels]) - np.log(shares[levels])
    noise = 1.96 * better.std(ddof=1) / np.sqrt(len(better))
    if better.mean() > noise:
        return None
    return (
        "out of fold the levels are predicted no better than by saying the same of every prompt: the log-loss is lower "
        f"by {better.mean():.3f}, and within ±{noise:.3f} that is chance. With {len(levels)} prompts this may be too "
        f"little evidence: {ENOUGH} are a good start, and more prompts help more than more attempts. Or the prompts' "
        "texts don't show it: try --features hidden. Until then the policy will go by confidence, hardly by levels"
    )


def _unjudged(attempts: pd.DataFrame) -> Sequence[str]:
    unknown = attempts.loc[attempts["correct"].isna(), "prompt_id"].unique()
    if not len(unknown):
        return []
    prompts = attempts["prompt_id"].nunique()
    what = (
        "`router tune` can't measure an arm on any of them"
        if len(unknown) == prompts
        else f"`router tune` will leave them out and measure on the other {prompts - len(unknown)}"
    )
    return [
        f"{len(unknown)} of {prompts} prompts have attempts whose `correct` is null, first {unknown[0]!r}. The levels "
        f"are trained; {what}. To tune on them, add references with `router rejudge ATTEMPTS --prompts FILE --out NEW`"
    ]
