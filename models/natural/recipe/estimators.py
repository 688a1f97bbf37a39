"""What each kind of feature knows of a prompt's difficulty, and what the policy gains with it.

Everything but the level probabilities stays as the bundle has it: its arms, its cascades, its confidence. So what
differs is the estimator alone. ``none`` says the same of every prompt: a policy without levels.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kinds import AFTER_ONE, CANDIDATES, KINDS, RIDGE, crossed, flops_per_token, milliseconds, reader

from difficulty.compare import measure as quality_of
from router.bundle.bundle import Bundle, load_bundle
from router.evaluation.at_flops import BESIDE_LARGER, Priced
from router.evaluation.averages import larger_alone
from router.evaluation.curves import estimate
from router.evaluation.held_out import prompt_tokens
from router.policy.objectives import PricePerFlop
from router.policy.table import Policy
from router.training.difficulty import Training, prompt_statistics, read_training, train
from router.tuning.candidates import replay
from router.tuning.evidence import Measured, measure, resamples
from router.tuning.of_bundle import predicted, replayable
from router.tuning.tables import Method, tabulate
from strategies import Cascade

SIZES = [1, 2, 4, 8, 16]
Floats = np.ndarray


def probabilities(kind: str, tune: pd.DataFrame, asked: list[Any], bundle: Bundle) -> tuple[Floats, Training]:
    """(n, 5) of the asked prompts, by a model trained on the tuning prompts; by the bundle's where that is the one."""
    model, served = bundle.setup.main.model, read_training(bundle.folder)
    if served.chosen in CANDIDATES.get(kind, ()):
        return predicted(bundle, asked, None), served
    if kind in CANDIDATES:
        fitted, training = train(tune, candidates=CANDIDATES[kind])
        return fitted.predict_proba([prompt.question for prompt in asked]), training
    read = reader(kind, model)
    fitted, training = train(tune, lambda prompts: {kind: read(prompts)}, candidates=RIDGE)
    return fitted.predict_proba(read(asked)), training


def of_its_arms(attempts: pd.DataFrame, bundle: Bundle, prompts: pd.Index) -> Measured:
    """What was measured of the bundle's arms at these prompts, without its cascades."""
    return measure(attempts, prompts, SIZES, bundle.setup, arms=bundle.policy.arms)


def with_its_cascades(measured: Measured, bundle: Bundle, known: Floats) -> Measured:
    """The same with its cascades, as its confidence model ends them at (n, 5) level probabilities."""
    cascades = [arm for arm in bundle.policy.arms if isinstance(arm, Cascade)]
    replayed, _ = replay(cascades, measured, replayable(bundle, measured, known))
    found = measured.with_cascades(replayed)
    return found.of([k for k, arm in enumerate(found.arms) if arm in bundle.policy.arms])


def compare(tune: pd.DataFrame, heldout: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """By kind: quality on the held-out prompts, and the policy's accuracy at shares of the larger model's cost.

    ``gain``: over the policy without levels, mean over the shares, with its interval; ``gain_free``: if reading the
    prompt cost nothing; ``folds``: what :func:`kinds.crossed` finds. A kind that can't be measured is its reason.
    """
    bundle = load_bundle(folder)
    model = bundle.setup.main.model
    edges = bundle.manifest.edges
    statistics = {"tune": prompt_statistics(tune, "pass_rate"), "heldout": prompt_statistics(heldout, "pass_rate")}
    asked = statistics["heldout"]["asked"].tolist()
    folds = crossed(tune, heldout, model)
    tuned = of_its_arms(tune, bundle, statistics["tune"].index)
    untouched = of_its_arms(heldout, bundle, statistics["heldout"].index)
    found: dict[str, Any] = {}
    without: list[Floats] = []
    for kind in KINDS:
        try:
            known, training = probabilities(kind, tune, asked, bundle)
        except KeyError as error:
            found[kind] = {"reason": str(error).strip("'\"")}
            continue
        by_id = pd.DataFrame(known, index=statistics["heldout"].index)
        made = with_its_cascades(tuned, bundle, training.probabilities.loc[tuned.prompts].to_numpy())
        by_prompt = by_id.loc[untouched.prompts].to_numpy()
        held = with_its_cascades(untouched, bundle, by_prompt)
        policy = policy_of(made, training, bundle)
        extra = flops_per_token(kind) * prompt_tokens(held)
        served = policy.only(frozenset(held.arms).__contains__) or policy
        priced = {"": Priced(held, served, by_prompt, extra)}
        if extra.any():  # as where the same model samples, and the prompt is read once for both
            priced["free"] = Priced(held, served, by_prompt, 0 * extra)
        row = asdict(quality_of(by_prompt, statistics["heldout"]["statistic"].loc[held.prompts], edges))
        chosen = training.comparison[training.chosen]
        row |= {"candidate": training.chosen, "out_of_fold": {k: chosen[k] for k in ("log_loss", "spearman", "kappa")}}
        row["milliseconds"] = chosen["milliseconds"] + milliseconds(kind)
        row["folds"] = folds.get(kind)
        column = larger_alone(held)
        if column is None:
            row["reason"] = "no larger model was run on these prompts: no share of its cost to compare at"
        else:
            unit = float(held.flops[:, column].mean())
            draws = resamples(len(held.prompts), np.random.default_rng(0))
            for cost, each in priced.items():
                right = [each.at(share * unit).accuracy for share in BESIDE_LARGER]
                if kind == "none":
                    without = right
                gain = estimate(np.mean(right, axis=0) - np.mean(without, axis=0), draws)
                row[f"gain_{cost}".strip("_")] = {"value": gain.value, "low": gain.low, "high": gain.high}
                if not cost:
                    shares = zip(BESIDE_LARGER, right, strict=True)
                    row["accuracy"] = {f"{share:g}": round(float(one.mean()), 4) for share, one in shares}
        found[kind] = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    for kind in AFTER_ONE:
        found[kind] = {"reason": "known only after the first sample: in folds alone", "folds": folds.get(kind)}
    return found


def policy_of(measured: Measured, training: Training, bundle: Bundle) -> Policy:
    """The bundle's tables made anew with these level probabilities."""
    method = Method("predicted", True, "distribution", tasks=tuple(bundle.policy.tasks))
    rows = training.prompts.loc[measured.prompts]
    weights = method.weights(training.probabilities.loc[measured.prompts].to_numpy(), rows["level"].to_numpy())
    return tabulate(measured, weights, method, default=PricePerFlop(0.0), tolerance=bundle.policy.tolerance)
