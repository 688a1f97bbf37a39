"""What mixing is worth: one policy for a stream of three tasks, beside a policy of its own for each, at equal FLOPs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from attempts import TASKS, bundle_attempts, served
from estimators import of_its_arms, with_its_cascades
from kinds import flops_per_token, reader

from router.bundle.bundle import Bundle, load_bundle
from router.evaluation.at_flops import BESIDE_LARGER, Priced
from router.evaluation.averages import larger_alone
from router.evaluation.curves import PerPrompt, between, estimate
from router.evaluation.held_out import prompt_tokens
from router.policy.objectives import PricePerFlop
from router.training.difficulty import prompt_statistics
from router.tuning.evidence import Measured, resamples
from router.tuning.of_bundle import predicted

_NUMBERS = ("accuracy", "generations", "flops")


def mixing(folder: Path) -> dict[str, Any]:
    """At shares of the larger model's cost over the whole held-out stream, accuracy of

    mixed     the mixed bundle's policy
    together  a policy of its own for each task, all at one price of a FLOP: a task where FLOPs buy more gets more
    apart     the same policies, each held to the share within its own task

    gain_of_sharing  together less apart;  loss_of_one_model  together less mixed
    """
    stream = bundle_attempts("mixed", "heldout")
    whole_bundle = load_bundle(folder / "mixed")
    _, measured, curve = measured_and_priced(whole_bundle, stream)
    prompts = list(measured.prompts)
    parts = []
    for task, name in TASKS.items():
        ids = stream.loc[stream["task"] == name, "prompt_id"].unique()
        attempts = served(task, "heldout")
        parts.append(measured_and_priced(load_bundle(folder / task), attempts[attempts["prompt_id"].isin(ids)])[1:])
    kept = [prompt for part, _ in parts for prompt in part.prompts if prompt in set(prompts)]
    column = larger_alone(measured)
    if column is None or len(kept) < len(prompts):
        return {"reason": "the larger model was not run, or the bundles leave out different prompts"}
    order = pd.Index([prompt for part, _ in parts for prompt in part.prompts]).get_indexer(pd.Index(prompts))
    draws = resamples(len(prompts), np.random.default_rng(0))
    unit = float(measured.flops[:, column].mean())
    common = _together([priced for _, priced in parts])
    rows = {}
    for share in BESIDE_LARGER:
        at = share * unit
        own = [priced.at(share * float(part.flops[:, larger_alone(part)].mean())) for part, priced in parts]
        apart = PerPrompt(*(np.concatenate([getattr(each, name) for each in own])[order] for name in _NUMBERS))
        together = common(float(apart.flops.mean()), order)
        mixed = curve.at(float(apart.flops.mean()))
        rows[f"{share:g}"] = {
            "flops": at,
            "mixed": round(float(mixed.accuracy.mean()), 4),
            "together": round(float(together.accuracy.mean()), 4),
            "apart": round(float(apart.accuracy.mean()), 4),
            "gain_of_sharing": _gain(together, apart, draws),
            "loss_of_one_model": _gain(together, mixed, draws),
        }
    return rows


def _gain(first: PerPrompt, second: PerPrompt, draws: Any) -> dict[str, float]:
    found = estimate(first.accuracy - second.accuracy, draws)
    return {"value": found.value, "low": found.low, "high": found.high}


def measured_and_priced(bundle: Bundle, attempts: pd.DataFrame) -> tuple[Measured, Measured, Priced]:
    """What was measured of all arms but cascades, of the bundle's arms, and its policy by prices of a FLOP."""
    prompts = prompt_statistics(attempts, "pass_rate")
    asked = prompts["asked"].tolist()
    found = predicted(bundle, asked, reader("hidden", bundle.setup.main.model))
    whole = of_its_arms(attempts, bundle, prompts.index)
    found = found[prompts.index.get_indexer(whole.prompts)]
    measured = with_its_cascades(whole, bundle, found)
    policy = bundle.policy.with_default(PricePerFlop(0.0)).only(lambda arm: arm in measured.arms)
    assert policy is not None
    extra = np.zeros(len(measured.prompts))
    if bundle.manifest.features != "text":
        extra = flops_per_token("hidden") * prompt_tokens(measured)
    return whole, measured, Priced(measured, policy, found, extra)


def _together(parts: list[Priced]) -> Any:
    """(FLOPs, order of prompts) → all tasks at the common price at which they spend so much on average."""
    prices = np.geomspace(1e-16, 1e-9, 200)

    def at_price(price: float) -> PerPrompt:
        runs = [part.at_price(price) for part in parts]
        return PerPrompt(*(np.concatenate([getattr(each, name) for each in runs]) for name in _NUMBERS))

    curve = sorted((at_price(float(price)) for price in prices), key=lambda runs: float(runs.flops.mean()))
    spent = np.array([runs.flops.mean() for runs in curve])

    def at(flops: float, order: Any) -> PerPrompt:
        return between(curve, spent, flops).on(order)

    return at
