"""What ``router tune`` wrote into a bundle besides its policy."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import InvalidBundle
from router.evaluation.parts import ByTask, Estimate
from router.evaluation.report import MethodResult
from router.policy.table import Policy
from router.tuning.tune import ORACLE_POLICY, TUNING


@dataclass(frozen=True, slots=True)
class Tuned:
    """The policy for measured levels, and the tuning report.

    best_fixed   the arm or cascade that is best for all prompts alike, by budget, in rising order
    averages     a row for each average budget, see ``tuning.nested.compare``
    method, methods, by_task  as in ``report.Report``
    """

    oracle: Policy
    best_fixed: Mapping[int, str]
    averages: tuple[dict[str, Any], ...]
    method: str
    methods: tuple[MethodResult, ...]
    by_task: ByTask | None

    @property
    def budgets(self) -> list[int]:
        """The fixed budgets that the policy was tuned for, in complete solutions."""
        return list(self.best_fixed)

    @classmethod
    def read(cls, folder: Path) -> "Tuned":
        """Read the files of a bundle's folder. Raises InvalidBundle where they can't be read."""
        try:
            oracle = Policy.loads((folder / ORACLE_POLICY).read_text())
            report = json.loads((folder / TUNING).read_text())
        except (FileNotFoundError, ValueError) as error:
            raise InvalidBundle(
                f"{folder}: can't read {TUNING} and {ORACLE_POLICY} ({error}); run `router tune`"
            ) from error
        return cls(
            oracle=oracle,
            best_fixed={row["budget"]: row["best_fixed_arm"] for row in report["budgets"]},
            averages=tuple(report["average_budgets"]),
            method=report["method"],
            methods=tuple(map(_method, report["methods"])),
            by_task=_by_task(report.get("by_task")),
        )


def _method(row: Mapping[str, Any]) -> MethodResult:
    difference = _estimate(row["minus_best_fixed"])
    return MethodResult(row["method"], row["accuracy"], row["low"], row["high"], difference)


def _by_task(found: Mapping[str, Any] | None) -> ByTask | None:
    """Return what the tuning report says of tables by task; older ones say nothing."""
    if found is None:
        return None
    estimates = {name: _estimate(found[name]) for name in ("gain", "at_equal_flops", "within_budgets")}
    return ByTask(**{**found, **estimates})


def _estimate(found: Mapping[str, float]) -> Estimate:
    return Estimate(found["accuracy"], found["low"], found["high"])
