"""The policy: which arm was measured to be best at each level and budget."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from router.errors import InvalidBundle, InvalidRequest
from strategies import Arm

LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean spend of one prompt. Tokens as in ``backends.Usage``; FLOPs are 2 * parameters * tokens."""

    prompt_tokens: float
    generated_tokens: float
    scored_tokens: float
    generator_flops: float
    verifier_flops: float

    @property
    def flops(self) -> float:
        return self.generator_flops + self.verifier_flops


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured for the arm chosen at one level and budget.

    accuracy   expected share of right answers, by two-fold cross-validation within the level
    low, high  its 95% bootstrap interval over prompts
    prompts    how many prompts it was measured on
    """

    level: int
    budget: int
    arm: Arm
    accuracy: float
    low: float
    high: float
    prompts: int
    cost: Cost


class Policy:
    """A full table of cells: every level at every budget. Raises InvalidBundle where cells are missing or doubled."""

    def __init__(self, cells: Iterable[Cell], default_budget: int):
        self.cells = tuple(sorted(cells, key=lambda cell: (cell.level, cell.budget)))
        self.budgets = tuple(sorted({cell.budget for cell in self.cells}))
        self.default_budget = default_budget
        self._table = {(cell.level, cell.budget): cell for cell in self.cells}
        wanted = {(level, budget) for level in LEVELS for budget in self.budgets}
        if len(self._table) != len(self.cells) or set(self._table) != wanted or not wanted:
            raise InvalidBundle("policy: needs exactly one cell for each of the five levels at each budget")
        for cell in self.cells:
            if cell.arm.budget > cell.budget:
                raise InvalidBundle(f"policy: {cell.arm} spends more than its cell's budget {cell.budget}")
        if default_budget not in self.budgets:
            raise InvalidBundle(f"policy: default_budget {default_budget} is none of its budgets {self.budgets}")

    def choose(self, level: int, budget: int) -> Cell:
        """The cell at the largest measured budget within ``budget``; raises InvalidRequest outside the table."""
        if not self.budgets[0] <= budget <= self.budgets[-1]:
            raise InvalidRequest(
                "budget",
                f"budget {budget} is outside this policy's {self.budgets[0]} to {self.budgets[-1]}; "
                "leave it out for the default, or tune a policy with larger budgets",
                reason="BUDGET_OUT_OF_RANGE",
            )
        return self._table[level, max(measured for measured in self.budgets if measured <= budget)]

    def dumps(self) -> str:
        """JSON that people can read and diff: one cell a line."""
        rows = [json.dumps({**asdict(cell), "arm": str(cell.arm), "cost": asdict(cell.cost)}) for cell in self.cells]
        return f'{{"default_budget": {self.default_budget},\n "cells": [\n  ' + ",\n  ".join(rows) + "\n ]}\n"

    @classmethod
    def loads(cls, text: str) -> "Policy":
        """Inverse of ``dumps``; raises InvalidBundle naming what is wrong. Unknown keys are errors."""
        try:
            document = json.loads(text)
            return cls(map(_cell, _exactly(document, {"default_budget", "cells"})["cells"]), document["default_budget"])
        except (ValueError, TypeError) as error:
            raise InvalidBundle(f"policy: {error}") from error


def _exactly(mapping: Any, keys: set[str]) -> dict[str, Any]:
    if not isinstance(mapping, dict) or set(mapping) != keys:
        found = sorted(mapping) if isinstance(mapping, dict) else type(mapping).__name__
        raise ValueError(f"expected exactly {sorted(keys)}, found {found}")
    return mapping


def _cell(row: Any) -> Cell:
    values = _exactly(row, {field.name for field in fields(Cell)})
    cost = Cost(**_exactly(values["cost"], {field.name for field in fields(Cost)}))
    return Cell(**{**values, "arm": Arm.parse(values["arm"]), "cost": cost})
