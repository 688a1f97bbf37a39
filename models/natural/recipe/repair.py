"""Repair on MBPP: the model is shown the test that its solution fails; beside sampling anew at equal FLOPs."""

from typing import Any

import numpy as np
import pandas as pd
from attempts import ATTEMPTS, VERIFIERS, of_task

from router.attempts.schema import read_attempts
from router.bundle.setup import Setup
from router.evaluation.arms import fixed
from router.evaluation.curves import between, estimate
from router.tuning.evidence import measure, resamples
from strategies import BestOfN, Repair

SIZES = (2, 4)
_DRAWN = (1, 2, 4, 8, 16)
_RIGHT = 0.9  # best-of-N ends with the first solution that passes the test, as repair does


def repaired(setup: Setup) -> dict[str, Any]:
    """By arm, on tuning and held-out prompts together: accuracy, FLOPs, and the gain on best-of-N at the same FLOPs.

    Both go by the same public test, and end with a solution that passes it. What best-of-N gives between two sizes is a
    random mix of both.
    """
    frames = []
    for part in ("tune", "heldout"):
        runs = read_attempts([ATTEMPTS / f"mbpp-{part}.parquet"])
        runs = runs[runs["arm"].isin([str(Repair(n=n)) for n in SIZES])]
        samples = of_task("mbpp", part, VERIFIERS["mbpp"])
        frames += [samples[samples["prompt_id"].isin(runs["prompt_id"])], runs.assign(seconds=None)]
    frame = pd.concat(frames, ignore_index=True)
    if frame.empty:
        return {"reason": "repair was not sampled yet"}
    anew = [BestOfN(n=n, stop=_RIGHT if n > 1 else 0.0) for n in _DRAWN]
    measured = measure(frame, pd.Index(frame["prompt_id"].unique()), _DRAWN, setup, arms=anew)
    draws = resamples(len(measured.prompts), np.random.default_rng(0))
    columns = [measured.arms.index(arm) for arm in anew if arm in measured.arms]
    curve = sorted((fixed(measured, column) for column in columns), key=lambda runs: float(runs.flops.mean()))
    spent = np.array([runs.flops.mean() for runs in curve])
    found: dict[str, Any] = {"prompts": len(measured.prompts)}
    for arm in (Repair(n=n) for n in SIZES):
        if arm not in measured.arms:
            continue
        runs = fixed(measured, measured.arms.index(arm))
        again = between(curve, spent, float(runs.flops.mean()))
        gain = estimate(runs.accuracy - again.accuracy, draws)
        found[str(arm)] = {
            "accuracy": round(float(runs.accuracy.mean()), 4),
            "samples": round(float(runs.flops.mean() / spent[0]), 3),
            "anew": round(float(again.accuracy.mean()), 4),
            "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
        }
    return found
