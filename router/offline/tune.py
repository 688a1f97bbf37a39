"""Tune the policy: for every level and budget, the arm that was measured to be best (Snell et al., section 3.2)."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    digests,
    library_versions,
    write_manifest,
)
from router.engines import Engine
from router.errors import InvalidFile
from router.offline.evidence import TOKENS, budgets_of, cost, evidence, flops, interval, matrix
from router.offline.train import Training, dumps, read_training
from router.policy import LEVELS, Cell, Cost, Policy
from strategies import Arm

TUNING, ORACLE_POLICY = "tuning.json", "oracle_policy.json"
COVERAGE = 0.95  # share of a level's prompts that an arm must be measured on to be a candidate there
FEWEST = 10  # prompts a level needs for a choice of its own
SPLITS = 50


@dataclass(frozen=True, slots=True)
class Tuning:
    """``policy`` is served, ``oracle`` (tuned on the levels of the statistic itself) is only reported.

    report["arms"]      each arm at each level, and over "all": accuracy with interval, cost, prompts
    report["budgets"]   over all prompts: accuracy of the policy, of the oracle policy and of the best fixed arm
    report["left_out"]  arms that were measured on too few of a level's prompts to be a candidate there
    report["merged"]    predicted levels with too few prompts, whose cells were chosen on all prompts instead
    """

    policy: Policy
    oracle: Policy
    report: Mapping[str, Any]


class _Measured:
    """Evidence as (prompts, arms) matrices, NaN where an arm was not measured on a prompt.

    parameters  of generator and verifier
    """

    def __init__(self, table: pd.DataFrame, prompts: Sequence[str], *parameters: int):
        self.table = table
        self.parameters = parameters
        self.accuracy = matrix(table, "accuracy", prompts)
        self.flops = matrix(table.assign(flops=flops(table, *self.parameters)), "flops", prompts)
        self.budgets = budgets_of(list(self.accuracy.columns))

    def candidates(self, prompts: pd.Index, budget: int) -> tuple[list[str], pd.Index]:
        """Arms within the budget that were measured on nearly all of the prompts; the prompts they share."""
        accuracy = self.accuracy.loc[prompts]
        coverage = accuracy.notna().mean()
        arms = [arm for arm in accuracy if self.budgets[arm] <= budget and coverage[arm] >= COVERAGE]
        return arms, prompts[accuracy[arms].notna().all(axis=1)]

    def summary(self, arm: str, prompts: pd.Index, rng: np.random.Generator) -> dict[str, Any]:
        values = self.accuracy.loc[prompts, arm].dropna()
        cost = asdict(self.cost(arm, values.index))
        return {**interval(values.to_numpy(), rng), "prompts": len(values), "cost": cost}

    def cost(self, arm: str, prompts: pd.Index) -> Cost:
        rows = self.table[(self.table["arm"] == arm) & self.table["prompt_id"].isin(prompts)]
        return cost(rows[TOKENS], *self.parameters)


def tune(
    attempts: pd.DataFrame,
    training: Training,
    budgets: Sequence[int],
    *,
    generator_parameters: int,
    verifier_parameters: int,
    default_budget: int | None = None,
    tolerance: float = 0.005,
    seed: int = 0,
) -> Tuning:
    """Choose an arm for each level and budget, on out-of-fold predicted levels, and measure each choice honestly.

    attempts        of the prompts that the difficulty model was trained on
    default_budget  what a request without a budget gets; None: the largest
    tolerance       accuracies this close are a tie, and ties go to the arm that costs the fewest FLOPs: with a hundred
                    prompts a level the standard error is several points, so half a point is no reason to pay more

    A cell's accuracy is by two-fold cross-validation within the level: chosen on one half, measured on the other,
    averaged over many random halvings. The arm that is served is chosen on all of the level's prompts.

    Raises InvalidFile where prompts and training don't match or a cell has no candidate.
    """
    budgets = sorted(set(budgets))
    if not budgets or budgets[0] < 1:
        raise InvalidFile(f"budgets must be whole numbers from 1, got {list(budgets)}")
    prompts = training.prompts.index
    missing = sorted(set(prompts) - set(attempts["prompt_id"]))
    if missing:
        raise InvalidFile(
            f"the attempts lack {len(missing)} prompts that the difficulty model was trained on, first {missing[0]!r}; "
            "give tune the same attempts files as train, and more for arms that were run"
        )
    attempts = attempts[attempts["prompt_id"].isin(prompts)]
    measured = _Measured(evidence(attempts, budgets, seed=seed), prompts, generator_parameters, verifier_parameters)
    default = budgets[-1] if default_budget is None else default_budget
    predicted, oracle = training.predicted, training.prompts["level"]
    fixed: dict[str, Any] = {"budgets": budgets, "default": default, "tolerance": tolerance, "seed": seed}
    policy, policy_accuracy, merged = _policy(measured, predicted, **fixed)
    oracle_policy, oracle_accuracy, _ = _policy(measured, oracle, **fixed)
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        arm, values, _ = _choose(measured, prompts, budget, tolerance, rng)
        row: dict[str, Any] = {"budget": budget, "best_fixed_arm": arm}
        row["best_fixed"] = interval(values, rng)
        row["policy"] = interval(policy_accuracy[budget], rng)
        row["oracle"] = interval(oracle_accuracy[budget], rng)
        rows.append(row)
    groups: dict[Any, pd.Index] = {"all": prompts, **{level: prompts[predicted == level] for level in LEVELS}}
    arms = [
        {"arm": arm, "level": level, **measured.summary(arm, group, rng)}
        for arm in sorted(measured.budgets, key=lambda arm: (arm.partition("(")[0], measured.budgets[arm]))
        for level, group in groups.items()
        if measured.accuracy.loc[group, arm].notna().any()
    ]
    report = {
        "levels": {"predicted": _counts(predicted), "oracle": _counts(oracle)},
        "merged": merged,
        "left_out": _left_out(measured, groups, budgets[-1]),
        "tolerance": tolerance,
        "seed": seed,
        "budgets": rows,
        "arms": arms,
    }
    return Tuning(policy, oracle_policy, report)


def _policy(
    measured: _Measured, levels: pd.Series, *, budgets: Sequence[int], default: int, tolerance: float, seed: int
) -> tuple[Policy, dict[int, NDArray[np.float64]], list[int]]:
    """The policy on these levels, its honest per-prompt accuracies by budget, and the levels too small for a choice."""
    rng = np.random.default_rng(seed)
    merged = [level for level in LEVELS if (levels == level).sum() < FEWEST]
    cells, accuracies = [], {}
    for budget in budgets:
        parts = []
        for level in LEVELS:
            prompts = levels.index[levels == level]
            arm, values, shared = _choose(
                measured, levels.index if level in merged else prompts, budget, tolerance, rng
            )
            measures = interval(values, rng)
            cells.append(
                Cell(level, budget, Arm.parse(arm), **measures, prompts=len(values), cost=measured.cost(arm, shared))
            )
            parts.append(values[shared.isin(prompts)])
        accuracies[budget] = np.concatenate(parts)
    return Policy(cells, default), accuracies, merged


def _choose(
    measured: _Measured, prompts: pd.Index, budget: int, tolerance: float, rng: np.random.Generator
) -> tuple[str, NDArray[np.float64], pd.Index]:
    """The arm to serve, the honest accuracy of choosing like this on each prompt, and those prompts."""
    arms, shared = measured.candidates(prompts, budget)
    if not arms or len(shared) < 2:
        raise InvalidFile(
            f"no arm within budget {budget} was measured on {COVERAGE:.0%} of some level's prompts; collect at least "
            f"{budget} attempts for every prompt, or tune for budgets that the attempts cover"
        )
    accuracy, spent = measured.accuracy.loc[shared, arms].to_numpy(), measured.flops.loc[shared, arms].to_numpy()
    honest = np.zeros(len(shared))
    for _ in range(SPLITS):
        halves = np.array_split(rng.permutation(len(shared)), 2)
        for chosen_on, measured_on in (halves, halves[::-1]):
            honest[measured_on] += accuracy[measured_on, best(accuracy[chosen_on], spent[chosen_on], tolerance)]
    return arms[best(accuracy, spent, tolerance)], honest / SPLITS, shared


def best(accuracy: NDArray[np.float64], spent: NDArray[np.float64], tolerance: float) -> int:
    """Column of the best arm: most accurate, the cheapest of those within ``tolerance`` of it.

    accuracy, spent  (prompts, arms) expected accuracy and FLOPs
    """
    mean, cheap = accuracy.mean(axis=0), spent.mean(axis=0)
    tied = mean >= mean.max() - tolerance - 1e-12
    return int(np.lexsort((-mean, np.where(tied, cheap, np.inf)))[0])


def _left_out(measured: _Measured, groups: Mapping[Any, pd.Index], largest: int) -> list[dict[str, Any]]:
    rows = []
    for arm, budget in measured.budgets.items():
        for level, group in groups.items():
            count = int(measured.accuracy.loc[group, arm].notna().sum())
            if len(group) and (count < COVERAGE * len(group) or budget > largest):
                reason = "over the largest budget" if budget > largest else "measured on too few prompts"
                rows.append({"arm": arm, "level": level, "measured": count, "prompts": len(group), "reason": reason})
    return rows


def _counts(levels: pd.Series) -> list[int]:
    return [int((levels == level).sum()) for level in LEVELS]


def save_tuning(tuning: Tuning, folder: Path) -> None:
    """Write the policies and the report; the folder is no bundle again until :func:`finish_bundle`."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "policy.json").write_text(tuning.policy.dumps())
    (folder / ORACLE_POLICY).write_text(tuning.oracle.dumps())
    (folder / TUNING).write_text(dumps(tuning.report))


def finish_bundle(folder: Path, engine: Engine, provenance: Mapping[str, Any] | None = None) -> Manifest:
    """Write the manifest of a trained and tuned folder: from now on it is a bundle.

    provenance  what else people should know, added to git revision, seed and date
    """
    training = read_training(folder)
    for part in ("difficulty.joblib", "policy.json"):
        if not (folder / part).is_file():
            raise InvalidFile(f"{folder} has no {part}; run `router train`, then `router tune` on it")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=engine.name,
        generator=engine.generator,
        verifier=engine.verifier,
        statistic=training.statistic,
        edges=training.edges,
        files=digests(folder, engine.generator.adapter, engine.verifier.adapter),
        libraries=library_versions(),
        provenance={
            "git_revision": _git_revision(folder),
            "date": datetime.now(UTC).date().isoformat(),
            "seed": training.seed,
            "prompts": len(training.prompts),
            "difficulty_model": training.chosen,
            **(provenance or {}),
        },
    )
    write_manifest(folder, manifest)
    return manifest


def _git_revision(folder: Path) -> str:
    """Of the checkout that the folder lies in; "unknown" outside one."""
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return run.stdout.strip() if run.returncode == 0 else "unknown"
