"""Compares two policies or bundles, for the person who decides whether to activate the new one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from router.backends.specs import VERIFIER, ModelSpec, VerifierSpec
from router.bundle.bundle import read_policy
from router.bundle.manifest import CONFIDENCE, FAMILIARITY, Manifest
from router.errors import InvalidBundle, InvalidFile, InvalidRequest
from router.evaluation.explain import explain
from router.policy.objectives import AverageBudget, Budget, Objective, mostly
from router.policy.table import LEVELS, Cell, Policy
from strategies import parse

_OWN = ("difficulty.joblib", FAMILIARITY, "policy.json", CONFIDENCE)  # a bundle's files that don't belong to models


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison. ``manifest``: None for a policy file, which doesn't say whose levels it is about."""

    name: str
    policy: Policy
    manifest: Manifest | None


def read_side(path: Path) -> Side:
    """Read a bundle's folder or a policy file, without running code from either. Raises InvalidBundle, InvalidFile."""
    if path.is_dir():
        manifest, digest, policy = read_policy(path)
        return Side(f"{manifest.name}@{digest[:12]}", policy, manifest)
    try:
        return Side(str(path), Policy.loads(path.read_text(encoding="utf-8")), None)
    except (OSError, UnicodeDecodeError, InvalidBundle) as error:
        raise InvalidFile(f"{path} is not a policy ({error}); name a bundle's folder or a policy.json") from error


def diff(old: Side, new: Side, objectives: Sequence[Objective] = ()) -> dict[str, Any]:
    """Return all differences in choices and measurements, ready for JSON.

    objectives  objectives to compare besides every budget, a few average budgets and both defaults


    same        whether nothing differs
    comparable  whether levels mean the same on both sides and the same models were measured; null where a side is a
                policy file, which says neither
    models, settings  a row for each that differs: name, old, new
    arms_added, arms_removed
    choices     choices for prompts whose level is certain. compared: how many; changed: a row for each that differs,
                with task, level, objective, and on both sides the chosen cell, or null where the objective is refused.
                ``explained`` says what differs between two cascades. Neighbouring budgets with the same result are one
                row, with ``upto`` the last of them
    cells       cells (level, arm) that are on both sides. same: how many have equal numbers; changed: a row for each of
                the others, with task, level, arm, old, new, apart: whether the new accuracy lies outside the old
                interval or the old one outside the new, and seconds_only: whether nothing else differs

    Where a side has tables of tasks, rows with an empty task are about the table of all tasks.
    """
    models = None if old.manifest is None or new.manifest is None else _models(old.manifest, new.manifest)
    settings = _differing(_settings(old), _settings(new))
    added = [str(arm) for arm in new.policy.arms if arm not in old.policy.arms]
    removed = [str(arm) for arm in old.policy.arms if arm not in new.policy.arms]
    tables = _tables(old.policy, new.policy)
    choices = [row for task, pair in tables.items() for row in _choices(task, *pair, objectives)]
    changed = [row for row in choices if (row["old"] or {}).get("arm") != (row["new"] or {}).get("arm")]
    pairs = [(task, one, other) for task, pair in tables.items() for one, other in _in_both(*pair)]
    remeasured = [
        {
            "task": task,
            "level": one.level,
            "arm": str(one.arm),
            "apart": not (one.low <= other.accuracy <= one.high and other.low <= one.accuracy <= other.high),
            "seconds_only": replace(one, cost=replace(one.cost, seconds=other.cost.seconds)) == other,
            "old": _measured(one),
            "new": _measured(other),
        }
        for task, one, other in pairs
        if one != other
    ]
    return {
        "old": old.name,
        "new": new.name,
        "same": not (models or settings or added or removed or remeasured),
        "comparable": None if models is None else not models,
        "models": models or [],
        "settings": settings,
        "arms_added": added,
        "arms_removed": removed,
        "choices": {"compared": len(choices), "changed": changed},
        "cells": {"same": len(pairs) - len(remeasured), "changed": remeasured},
    }


def _tables(old: Policy, new: Policy) -> dict[str, tuple[Policy, Policy]]:
    """Return the tables that decide for the same prompts, by task; "" are those of all tasks."""
    tasks = dict.fromkeys([*old.tasks, *new.tasks])
    return {"": (old, new)} | {task: (old.for_task(task), new.for_task(task)) for task in tasks}


def _in_both(old: Policy, new: Policy) -> Iterator[tuple[Cell, Cell]]:
    """Yield the cells that are in both tables, old and new."""
    before = {(cell.level, cell.arm): cell for cell in old.cells}
    for cell in new.cells:
        if (cell.level, cell.arm) in before:
            yield before[cell.level, cell.arm], cell


def _models(old: Manifest, new: Manifest) -> list[dict[str, Any]]:
    return _differing(_described(old), _described(new))


def _described(manifest: Manifest) -> dict[str, Any]:
    """Return what must be equal for a level, and an arm's accuracy there, to mean the same."""
    setup = manifest.setup
    specs: Mapping[str, ModelSpec | VerifierSpec] = {**setup.models, VERIFIER: setup.verifier}
    models = {f"{name} {field}": value for name, spec in specs.items() for field, value in asdict(spec).items()}
    weights = {name: digest[:12] for name, digest in manifest.files.items() if name not in _OWN}
    return {
        "statistic": manifest.statistic,
        "edges": list(manifest.edges),
        "difficulty model": manifest.files["difficulty.joblib"][:12],
        "features": manifest.features,
        "task": ", ".join(setup.tasks),
        "reference model": setup.reference,
        **models,
        **weights,
    }


def _settings(side: Side) -> dict[str, Any]:
    policy = side.policy
    return {
        "confidence model": side.manifest and side.manifest.files.get(CONFIDENCE, "none")[:12],
        "default objective": str(policy.default),
        "deciding": policy.deciding,
        "tolerance": policy.tolerance,
        "average budgets": [[point.generations, point.price] for point in policy.budget_points],
        "worth of a solution": policy.worth or None,
        "tables by task": ", ".join(policy.tasks) or None,
    }


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = dict.fromkeys([*old, *new])
    rows = [{"name": name, "old": old.get(name), "new": new.get(name)} for name in names]
    return [row for row in rows if row["old"] != row["new"]]


def _choices(task: str, old: Policy, new: Policy, objectives: Sequence[Objective]) -> Iterator[dict[str, Any]]:
    asked = [*_averages(old, new), old.default, new.default, *objectives]
    others = [objective for objective in dict.fromkeys(asked) if objective.kind != "budget"]
    for level in LEVELS:
        yield from _merged([_row(task, old, new, level, Budget(value)) for value in _budgets(old, new)])
        for objective in others:
            yield {**_row(task, old, new, level, objective), "upto": None}


def _budgets(old: Policy, new: Policy) -> list[float]:
    """Return the fixed budgets at which a choice can change; between two of them it is that of the lower one."""
    largest = max(old.largest, new.largest)
    steps = {policy.budget(arm) for policy in (old, new) for arm in policy.arms}
    steps |= {old.largest + 1, new.largest + 1}
    return sorted(step for step in steps if step <= largest)


def _averages(old: Policy, new: Policy) -> list[Objective]:
    """Return powers of two as average budgets, from the least of either side to the most that buys anything."""
    points = [policy.budget_points for policy in (old, new) if policy.budget_points]
    if not points:
        return []
    least = min(each[0].generations for each in points)
    most = max(each[-1].generations for each in points)
    exponents = range(math.ceil(math.log2(least)), math.ceil(math.log2(most)) + 1)
    return [AverageBudget(2.0**exponent) for exponent in exponents]


def _row(task: str, old: Policy, new: Policy, level: int, objective: Objective) -> dict[str, Any]:
    row = {"task": task, "level": level, "objective": str(objective), "value": objective.value}
    both = _chosen(old, level, objective), _chosen(new, level, objective)
    explained = explain(parse(both[0]["arm"]), parse(both[1]["arm"])) if both[0] and both[1] else ""
    return row | {"old": both[0], "new": both[1], "explained": explained}


def _chosen(policy: Policy, level: int, objective: Objective) -> dict[str, Any] | None:
    try:
        arm = policy.decide([float(each == level) for each in LEVELS], mostly(policy, objective)).arm
    except InvalidRequest:
        return None
    (cell,) = (cell for cell in policy.cells if (cell.level, cell.arm) == (level, arm))
    return {"arm": str(arm), **_measured(cell)}


def _measured(cell: Cell) -> dict[str, Any]:
    return {
        "accuracy": cell.accuracy,
        "low": cell.low,
        "high": cell.high,
        "prompts": cell.prompts,
        "flops": cell.cost.flops,
        **{name: value for name, value in asdict(cell.cost).items() if value is not None},
    }


def _merged(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of rising budgets, neighbours with the same cells on both sides merged into one."""
    merged: list[dict[str, Any]] = []
    for row in rows:
        if merged and (merged[-1]["old"], merged[-1]["new"]) == (row["old"], row["new"]):
            merged[-1]["upto"] = row["value"]
        else:
            if merged:
                merged[-1]["upto"] = row["value"] - 1
            merged.append({**row, "upto": row["value"]})
    yield from merged
