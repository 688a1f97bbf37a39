"""Evaluate a bundle on held-out attempts: accuracy against generation budget and against FLOPs."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from difficulty import levels_of
from difficulty.compare import measure
from router.bundle import Bundle, load_bundle
from router.errors import InvalidBundle, InvalidFile
from router.offline.attempts import SAMPLE
from router.offline.evidence import budgets_of, evidence, flops, interval, matrix
from router.offline.train import Hidden, prompt_statistics, read_training, text_digest
from router.offline.tune import COVERAGE, ORACLE_POLICY, TUNING
from router.policy import LEVELS, Policy
from strategies import SELECTIONS, Arm

RESAMPLES = 1000
ROUTED = ("best_fixed", "predicted", "oracle")


@dataclass(frozen=True, slots=True)
class _Runs:
    """One choice of arms at one budget, on each prompt: (P,) arrays, NaN where it was not measured.

    generations  solutions' worth of sampling that the arm spends;  flops  the estimator's included
    """

    accuracy: NDArray[np.float64]
    generations: NDArray[np.float64]
    flops: NDArray[np.float64]

    def point(self, rng: np.random.Generator) -> dict[str, Any]:
        known = ~np.isnan(self.accuracy)
        return {
            **interval(self.accuracy[known], rng),
            "generations": round(float(self.generations[known].mean()), 3),
            "flops": round(float(self.flops[known].mean())),
            "prompts": int(known.sum()),
        }


def evaluate(attempts: pd.DataFrame, folder: Path, hidden: Hidden | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Everything that was measured, ready for JSON.

    hidden  the generator's hidden states, needed where the bundle's difficulty model reads them

    headline    a row a budget: accuracy with 95% interval of majority, best_of_n, weighted_best_of_n, of the best fixed
                arm (chosen on the training prompts), of the policy on predicted and on oracle levels; the paired
                difference of predicted and best fixed; the best fixed arm in hindsight, which no one could have known
    savings_fixed_budget  how many times fewer generations and FLOPs reach the accuracy of weighted best-of-N at its
                largest budget; null with a reason where it is never reached
    series      the points of every curve; each fixed strategy, best_fixed, predicted, oracle
    per_level   accuracy of each arm at each level, levels "by" the held-out statistic (oracle) or predicted
    left_out    what could not be measured here, and why

    Oracle levels come from the same attempts that the sampling arms are replayed on, which flatters those arms a
    little: the curve is an upper bound, not something to compare with another paper's.

    Raises InvalidFile where a held-out prompt was trained on, InvalidBundle.
    """
    bundle = load_bundle(folder)
    oracle_policy, best_fixed = _tuned(folder)
    prompts = _held_out(attempts, folder, bundle)
    probabilities = _probabilities(bundle, prompts["prompt"].tolist(), hidden)
    oracle = levels_of(prompts["statistic"], bundle.manifest.edges)
    predicted = 1 + probabilities.argmax(axis=1)
    measured = _Measured(attempts, prompts.index, bundle)
    rng = np.random.default_rng(seed)

    runs: dict[str, dict[int, _Runs]] = {}
    left_out = measured.left_out()
    for arm in measured.arms:
        runs.setdefault(_family(arm), {})[measured.budgets[arm]] = measured.runs([arm] * len(prompts))
    for name in SELECTIONS:  # with one sample there is nothing to select: every curve starts at plain sampling
        if name in runs and "majority(n=1)" in measured.arms:
            runs[name].setdefault(1, runs["majority"][1])
    for budget in bundle.policy.budgets:
        choices = {
            "best_fixed": [best_fixed.get(budget, "")] * len(prompts),
            "predicted": [str(bundle.policy.choose(int(level), budget).arm) for level in predicted],
            "oracle": [str(oracle_policy.choose(int(level), budget).arm) for level in oracle],
        }
        for name, arms in choices.items():
            found = measured.runs(arms, estimator=name == "predicted" and bundle.difficulty.input == "hidden")
            missing = np.isnan(found.accuracy)
            if missing.mean() <= 1 - COVERAGE:
                runs.setdefault(name, {})[budget] = found
            else:
                lacking = sorted({arm for arm, gone in zip(arms, missing, strict=True) if gone})
                reason = f"no held-out runs of {', '.join(lacking)}: collect them"
                left_out.append({"series": name, "budget": budget, "reason": reason})
    by_level = measured.by_level("oracle", oracle, rng) + measured.by_level("predicted", predicted, rng)
    series = {
        name: [{"budget": budget, **points[budget].point(rng)} for budget in sorted(points)]
        for name, points in sorted(runs.items())
    }
    return {
        "bundle": bundle.id,
        "statistic": bundle.manifest.statistic,
        "prompts": len(prompts),
        "attempts_per_prompt": int(prompts["attempts"].min()),
        "difficulty": asdict(measure(probabilities, prompts["statistic"], bundle.manifest.edges)),
        "levels": {
            "oracle": [int((oracle == level).sum()) for level in LEVELS],
            "predicted": [int((predicted == level).sum()) for level in LEVELS],
        },
        "headline": [_headline(budget, runs, best_fixed, measured, rng) for budget in bundle.policy.budgets],
        "savings_fixed_budget": _savings(runs, rng),
        "series": series,
        "per_level": by_level,
        "left_out": left_out,
    }


class _Measured:
    """Held-out evidence; ``arms`` are those measured on nearly all prompts."""

    def __init__(self, attempts: pd.DataFrame, prompts: pd.Index, bundle: Bundle):
        generator, verifier = bundle.manifest.generator.parameters, bundle.manifest.verifier.parameters
        table = evidence(attempts, bundle.policy.budgets)
        self.accuracy = matrix(table, "accuracy", prompts)
        self.flops = matrix(table.assign(flops=flops(table, generator, verifier)), "flops", prompts)
        self.budgets = budgets_of(list(self.accuracy.columns))
        self.coverage = self.accuracy.notna().mean()
        self.arms = [arm for arm in self.accuracy if self.coverage[arm] >= COVERAGE]
        self.arms.sort(key=lambda arm: (_family(arm), self.budgets[arm]))
        pool = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["prompt_tokens"].mean()
        self.estimator = 2.0 * generator * pool.reindex(prompts).to_numpy()

    def runs(self, arms: Sequence[str], *, estimator: bool = False) -> _Runs:
        """``arms[i]`` on the i-th prompt; ``estimator`` adds a prefill of the prompt to the bill."""
        columns = self.accuracy.columns.get_indexer(arms)
        rows = np.arange(len(columns))
        known = columns >= 0
        values = [np.where(known, frame.to_numpy()[rows, columns], np.nan) for frame in (self.accuracy, self.flops)]
        generations = np.array([float(self.budgets.get(arm, np.nan)) for arm in arms])
        return _Runs(values[0], generations, values[1] + estimator * self.estimator)

    def left_out(self) -> list[dict[str, Any]]:
        return [
            {"arm": arm, "reason": f"measured on {share:.0%} of the held-out prompts, {COVERAGE:.0%} are needed"}
            for arm, share in self.coverage.items()
            if share < COVERAGE
        ]

    def by_level(self, by: str, levels: NDArray[np.int64], rng: np.random.Generator) -> list[dict[str, Any]]:
        rows = []
        for arm in self.arms:
            for level in LEVELS:
                values = self.accuracy[arm].to_numpy()[levels == level]
                values = values[~np.isnan(values)]
                if len(values):
                    rows.append({"by": by, "level": level, "arm": arm, **interval(values, rng), "prompts": len(values)})
        return rows


def _tuned(folder: Path) -> tuple[Policy, dict[int, str]]:
    """The oracle policy, and the best fixed arm at each budget as chosen on the training prompts."""
    try:
        tuning = json.loads((folder / TUNING).read_text())
        return (
            Policy.loads((folder / ORACLE_POLICY).read_text()),
            {row["budget"]: row["best_fixed_arm"] for row in tuning["budgets"]},
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise InvalidBundle(
            f"{folder}: can't read {TUNING} and {ORACLE_POLICY} ({error}); run `router tune`"
        ) from error


def _held_out(attempts: pd.DataFrame, folder: Path, bundle: Bundle) -> pd.DataFrame:
    prompts = prompt_statistics(attempts, bundle.manifest.statistic)
    no_pool = sorted(set(attempts["prompt_id"]) - set(prompts.index))
    if no_pool:
        raise InvalidFile(
            f"{len(no_pool)} prompts have runs of arms but no independent attempts (arm `{SAMPLE}`), "
            f"first {no_pool[0]!r}; collect some for them: their level comes from those"
        )
    trained = read_training(folder).prompts
    seen = prompts.index.isin(trained.index) | prompts["prompt"].map(text_digest).isin(trained["digest"])
    if seen.any():
        raise InvalidFile(
            f"{seen.sum()} of the {len(prompts)} prompts were trained on, first {prompts.index[seen.argmax()]!r}: what "
            "is measured on them proves nothing; evaluate on prompts that train and tune never saw"
        )
    return prompts


def _probabilities(bundle: Bundle, prompts: list[str], hidden: Hidden | None) -> NDArray[np.float64]:
    if bundle.difficulty.input == "text":
        return bundle.difficulty.predict_proba(prompts)
    if hidden is None:
        raise InvalidBundle(
            f"bundle {bundle.manifest.name} predicts levels from the generator's hidden states, and no generator is at "
            "hand; install it, or train with text features"
        )
    return bundle.difficulty.predict_proba(hidden(prompts))


def _family(arm: str) -> str:
    """The arm without its n: one curve."""
    return re.sub(r"n=\d+(, )?|\(n=\d+\)", "", arm).replace("()", "")


def _headline(
    budget: int,
    runs: Mapping[str, Mapping[int, _Runs]],
    best_fixed: Mapping[int, str],
    measured: _Measured,
    rng: np.random.Generator,
) -> dict[str, Any]:
    row: dict[str, Any] = {"budget": budget}
    for name in (*SELECTIONS, *ROUTED):
        found = runs.get(name, {}).get(budget)
        row[name] = found.point(rng) if found else None
    row["best_fixed_arm"] = best_fixed.get(budget)
    row["predicted_minus_best_fixed"] = None
    if row["best_fixed"] and row["predicted"]:
        difference = runs["predicted"][budget].accuracy - runs["best_fixed"][budget].accuracy
        row["predicted_minus_best_fixed"] = interval(difference[~np.isnan(difference)], rng)
    within = [arm for arm in measured.arms if measured.budgets[arm] <= budget]
    row["best_fixed_in_hindsight"] = None
    if within:
        arm = measured.accuracy[within].mean().idxmax()
        row["best_fixed_in_hindsight"] = {"arm": arm, **measured.runs([arm] * len(measured.accuracy)).point(rng)}
    return row


def _savings(runs: Mapping[str, Mapping[int, _Runs]], rng: np.random.Generator) -> dict[str, Any]:
    """See ``evaluate``; intervals by bootstrap over prompts, over the resamples in which the accuracy is reached."""
    name = "weighted_best_of_n"
    if name not in runs:
        return {"target": None, "reason": "no scored attempts, so no weighted best-of-N to compare with"}
    largest = max(runs[name])
    target = runs[name][largest]
    result: dict[str, Any] = {"target": {"arm": str(Arm(name, largest)), **target.point(rng)}}
    samples = rng.integers(len(target.accuracy), size=(RESAMPLES, len(target.accuracy)))
    for series in ROUTED:
        points = [runs[series][budget] for budget in sorted(runs.get(series, {}))]
        if not points:
            result[series] = {"reason": "not measured on these attempts"}
            continue
        everyone = np.arange(len(target.accuracy))[None, :]
        entry: dict[str, Any] = {}
        for unit in ("generations", "flops"):
            exact = _times_fewer(points, target, unit, everyone)[0]
            spread = [x for x in _times_fewer(points, target, unit, samples) if x is not None]
            bounds = np.quantile(spread, [0.025, 0.975]).round(3).tolist() if spread else None
            entry[f"times_fewer_{unit}"] = None if exact is None else round(exact, 3)
            entry[f"{unit}_interval"] = bounds
            entry["reached_in_resamples"] = round(len(spread) / RESAMPLES, 3)
        if entry["times_fewer_generations"] is None:
            top = max(float(np.nanmean(point.accuracy)) for point in points)
            entry["reason"] = f"its highest accuracy {top:.4f} stays below {np.nanmean(target.accuracy):.4f}"
        result[series] = entry
    return result


def _times_fewer(points: Sequence[_Runs], target: _Runs, unit: str, samples: NDArray[np.int64]) -> list[float | None]:
    """Target's spend over the spend that reaches its accuracy, on each row of resampled prompts."""
    accuracy = np.stack([np.nanmean(point.accuracy[samples], axis=1) for point in points], axis=1)
    spend = np.stack([np.nanmean(getattr(point, unit)[samples], axis=1) for point in points], axis=1)
    goals = np.nanmean(target.accuracy[samples], axis=1)
    spends = np.nanmean(getattr(target, unit)[samples], axis=1)
    matched = [spend_to_match(x, y, goal) for x, y, goal in zip(spend, accuracy, goals, strict=True)]
    return [None if x is None else float(total / x) for x, total in zip(matched, spends, strict=True)]


def spend_to_match(spend: Sequence[float], accuracy: Sequence[float], goal: float) -> float | None:
    """Where a curve first reaches an accuracy, interpolated on a log scale between its points; None: never."""
    for i, reached in enumerate(accuracy):
        if reached >= goal - 1e-12:
            if i == 0 or reached == accuracy[i - 1]:
                return float(spend[i])
            share = (goal - accuracy[i - 1]) / (reached - accuracy[i - 1])
            return float(spend[i - 1] * (spend[i] / spend[i - 1]) ** share)
    return None


def save_evaluation(report: Mapping[str, Any], out: Path) -> list[Path]:
    """Write ``evaluation.json``, ``figures.json`` (the numbers behind each plot) and the plots; returns their paths."""
    from router.offline.plots import draw

    out.mkdir(parents=True, exist_ok=True)
    figures = {name: report[name] for name in ("bundle", "prompts", "series", "per_level")}
    for name, document in (("evaluation.json", report), ("figures.json", figures)):
        (out / name).write_text(json.dumps(document, indent=1) + "\n")
    return [out / "evaluation.json", out / "figures.json", *draw(figures, out)]
