"""Finds where accuracy is lost: which of generator, verifier, estimator and policy limits the bundle."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import comb

from router.attempts.pools import SAMPLE
from router.evaluation.curves import Curve, PerPrompt, estimate
from router.evaluation.parts import Estimate
from router.evaluation.report import Diagnosis


def diagnose(
    *,
    budget: int,
    perfect_selector: PerPrompt,
    fixed: Mapping[str, Curve],
    policies: Mapping[str, Curve],
    hindsight: Curve,
    draws: NDArray[np.float64],
) -> Diagnosis:
    """Return the losses at the largest ``budget``; :class:`Diagnosis` explains each.

    perfect_selector  results of a perfect selector among ``budget`` samples for each prompt
    fixed, policies   curves by name
    hindsight         curve of the best arm for each measured level
    """
    by_scores = [runs for name in ("weighted_best_of_n", "best_of_n") if (runs := _last(fixed.get(name, {})))]
    selected = max(by_scores, key=lambda runs: float(runs.accuracy.mean()), default=None)
    predicted, oracle, best_fixed = (policies[name].get(budget) for name in ("predicted", "oracle", "best_fixed"))
    lost = {"generator": 1 - perfect_selector.accuracy}
    lost |= _differences(
        {
            "verifier": (perfect_selector, selected),
            "estimator": (oracle, predicted),
            "policy": (hindsight.get(budget), oracle),
        }
    )
    ranked = sorted(lost, key=lambda name: -float(lost[name].mean()))
    limit, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
    gained = _differences({"levels": (oracle, best_fixed)})
    found: dict[str, Estimate] = {name: estimate(values, draws) for name, values in (lost | gained).items()}
    return Diagnosis(
        budget=budget,
        perfect_selector=round(float(perfect_selector.accuracy.mean()), 4),
        selected=round(float(selected.accuracy.mean()), 4) if selected else None,
        generator=found["generator"],
        verifier=found.get("verifier"),
        estimator=found.get("estimator"),
        policy=found.get("policy"),
        levels=found.get("levels"),
        never_sampled=round(float((perfect_selector.accuracy == 0).mean()), 4),
        verifier_closes=_closes(perfect_selector, selected, _last(fixed.get("majority", {}))),
        limit=limit,
        runner_up=runner_up,
        margin=estimate(lost[limit] - lost[runner_up], draws) if runner_up else None,
    )


def perfectly_selected(attempts: pd.DataFrame, prompts: pd.Index, n: int) -> PerPrompt:
    """Return the results of a perfect selector among n samples of the reference model: pass@n.

    Accuracy is the unbiased estimate over a prompt's pool (Chen et al. 2021). Where the pool is smaller, n is its size.
    FLOPs are not counted.
    """
    pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["correct"].agg(["sum", "size"])
    pool = pool.loc[prompts].astype(float)
    size, right = pool["size"].to_numpy(), pool["sum"].to_numpy()
    drawn = np.minimum(n, size)
    found = 1 - comb(size - right, drawn) / comb(size, drawn)
    return PerPrompt(found, drawn, np.zeros_like(found))


def _differences(
    pairs: Mapping[str, tuple[PerPrompt | None, PerPrompt | None]],
) -> dict[str, NDArray[np.float64]]:
    """Return by name the (P,) differences in accuracy of each pair, where both were measured."""
    return {name: a.accuracy - b.accuracy for name, (a, b) in pairs.items() if a and b}


def _closes(perfect: PerPrompt, selected: PerPrompt | None, majority: PerPrompt | None) -> float | None:
    if not selected or not majority:
        return None
    room = float((perfect.accuracy - majority.accuracy).mean())
    gain = float((selected.accuracy - majority.accuracy).mean())
    return round(gain / room, 4) if room > 0 else None


def _last(points: Curve) -> PerPrompt | None:
    """Return the curve's point at its largest budget."""
    return points[max(points)] if points else None
