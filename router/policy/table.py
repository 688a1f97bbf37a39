"""The policy: what was measured of each arm at each level, and the choice of an arm by objective.

One table serves every objective. A prompt's level is known only as five probabilities. So an arm's value for the prompt
is the expectation of its measurements over them, or the measurement at the likeliest level if that did better in
tuning. Where a bundle has several tasks, a task may have a table of its own, under the same prices.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from router.errors import InvalidBundle, InvalidRequest
from router.policy.cells import (
    LEVELS,
    MEASURES,
    Cell,
    Cost,
    Deciding,
    Expectation,
    File,
    cost_of,
    expectation,
    numbers,
    written,
)
from router.policy.objectives import BudgetPoint, Objective, objective_of
from router.policy.seconds import check_seconds, good_in_time
from router.schema import loads, read
from strategies import Strategy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LEVELS", "Cell", "Cost", "Deciding", "Expectation", "Policy"]


class Policy:
    """A full table: every arm at every level. Raises InvalidBundle where a cell is missing or occurs twice.

    It is of one task, or of all tasks together. Then tasks may have tables of their own. These differ in their cells
    only: they have the same arms, average budgets and prices.

    default        objective of a request that names none
    budget_points  average budgets with their prices, in rising order
    deciding       distribution: by the expectation over the level probabilities; mode: by the likeliest level alone
    tolerance      under a fixed budget, accuracies this close are a tie, which the cheapest arm wins
    worth          cost of a solution of each model, in solutions of the reference model
    tasks          the cells of single tasks, by the task's name

    ``arms`` and ``budgets``, what they may spend, are in rising order of budget. A *column* is an index into them.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        default: Objective,
        *,
        budget_points: Iterable[BudgetPoint] = (),
        deciding: Deciding = "distribution",
        tolerance: float = 0.0,
        worth: Mapping[str, float] | None = None,
        tasks: Mapping[str, Iterable[Cell]] | None = None,
    ):
        self.budget_points = tuple(sorted(budget_points, key=lambda point: point.generations))
        self.default, self.deciding, self.tolerance = default, deciding, tolerance
        self.worth = dict(worth or {})
        # By rising budget, so that the arms within a budget come first.
        given = list(cells)
        self.arms = in_order({cell.arm for cell in given}, self.worth)
        column = {arm: k for k, arm in enumerate(self.arms)}
        self.cells = tuple(sorted(given, key=lambda cell: (cell.level, column[cell.arm])))
        wanted = [(level, arm) for level in LEVELS for arm in self.arms]
        if not wanted or [(cell.level, cell.arm) for cell in self.cells] != wanted:
            raise InvalidBundle("policy: needs exactly one cell for each arm at each of the five levels")
        if deciding not in get_args(Deciding):
            raise InvalidBundle(f"policy: deciding {deciding!r} is none of {', '.join(get_args(Deciding))}")
        self.budgets = [self.budget(arm) for arm in self.arms]
        self.smallest, self.largest = self.budgets[0], self.budgets[-1]
        by_arm = [self.cells[k :: len(self.arms)] for k in range(len(self.arms))]
        self._values: dict[str, list[tuple[float, ...]]] = {
            name: [tuple(get(cell) for cell in cells) for cells in by_arm] for name, get in MEASURES.items()
        }
        self._measured = [
            list(zip(*((cell.accuracy, cell.low, cell.high, *numbers(cell.cost)) for cell in cells), strict=True))
            for cells in by_arm
        ]
        try:
            self.check(default)
        except InvalidRequest as error:
            raise InvalidBundle(f"policy: default objective: {error}") from error
        self.tasks = {name: self._of_task(name, cells) for name, cells in (tasks or {}).items()}

    def _of_task(self, task: str, cells: Iterable[Cell]) -> "Policy":
        """Return the table of one task."""
        try:
            found = Policy(cells, self.default, **self._settings)
        except InvalidBundle as error:
            raise InvalidBundle(f"policy: tasks.{task}: {str(error).removeprefix('policy: ')}") from error
        if found.arms != self.arms:
            arm = min(set(found.arms) ^ set(self.arms))
            has = "has cells of" if arm in found.arms else "lacks cells of"
            raise InvalidBundle(f"policy: tasks.{task}: {has} {arm}, unlike the table of all tasks")
        return found

    def for_task(self, name: str | None) -> "Policy":
        """Return the table that decides for prompts of a task: its own, or that of all tasks where it has none."""
        return self.tasks.get(name, self) if name else self

    @property
    def level_counts(self) -> list[float]:
        """How many tuning prompts are at each level, measured or predicted, as the table was made."""
        return [max(cell.prompts for cell in self.cells if cell.level == level) for level in LEVELS]

    def budget(self, arm: Strategy) -> float:
        """Return the most that an arm spends, in solutions of the reference model."""
        return arm.budget(self.worth)

    def by_task(self, tasks: Iterable[str]) -> dict[str, "Policy"]:
        """Return the tables that decide for these tasks: by task its own one, and by "" that of all others."""
        names = [name if name in self.tasks else "" for name in tasks]
        return {name: self.for_task(name) for name in sorted(names, key=lambda name: not name)}

    def check(self, objective: Objective) -> None:
        """Raise InvalidRequest, with the objective as its field, where no measured arm can serve it."""
        objective.check(self)

    def only(self, keep: Callable[[Strategy], bool]) -> "Policy | None":
        """Return the policy with only the arms to keep; None if none is left.

        Raises InvalidBundle where these can't serve the default objective.
        """
        arms = {arm for arm in self.arms if keep(arm)}
        if len(arms) == len(self.arms):
            return self
        return self._made(self.default, lambda cell: cell.arm in arms) if arms else None

    def with_default(self, default: Objective) -> "Policy":
        """Return the policy with this default objective. Raises InvalidRequest where no measured arm can serve it."""
        self.check(default)
        return self._made(default)

    def with_budget_points(self, points: Iterable[BudgetPoint]) -> "Policy":
        """Return the policy with these average budgets and their prices."""
        return self._made(self.default, budget_points=points)

    def with_seconds(self, seconds: Callable[[str, Cell], float | None]) -> "Policy":
        """Return the policy with these seconds, None where unknown, by task ("" in the table of all tasks) and cell."""

        def timed(task: str, cells: Iterable[Cell]) -> list[Cell]:
            return [replace(cell, cost=replace(cell.cost, seconds=seconds(task, cell))) for cell in cells]

        tasks = {name: timed(name, table.cells) for name, table in self.tasks.items()}
        return Policy(timed("", self.cells), self.default, **self._settings, tasks=tasks)

    def _made(self, default: Objective, keep: Callable[[Cell], bool] = lambda cell: True, **changed: Any) -> "Policy":
        tasks = {name: filter(keep, table.cells) for name, table in self.tasks.items()}
        return Policy(filter(keep, self.cells), default, **{**self._settings, **changed}, tasks=tasks)

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("budget_points", "deciding", "tolerance", "worth")
        return {name: getattr(self, name) for name in names}

    # One prompt, in plain arithmetic

    def decide(
        self, probabilities: Sequence[float], objective: Objective, max_seconds: float | None = None
    ) -> Expectation:
        """Choose an arm for one prompt; return it with its expected accuracy and cost. Raises InvalidRequest.

        max_seconds  no arm that is expected to take longer is chosen; if all take longer, the fastest one is
        """
        self.check(objective)
        if max_seconds is not None:
            check_seconds(self, max_seconds)
        weights = self.weights_of_one(probabilities)
        good, in_time = objective.good(self, weights), True
        if max_seconds is not None:
            good, in_time = good_in_time(self, objective, weights, max_seconds)
        promise = self.promise(self._cheapest(weights, good), weights)
        sufficient = objective.sufficient(promise.low)
        return promise if sufficient and in_time else replace(promise, sufficient=sufficient, in_time=in_time)

    def weights_of_one(self, probabilities: Sequence[float]) -> tuple[float, ...]:
        """(5,) weight of each level in a prompt's expectations."""
        weights = tuple(probabilities)
        if self.deciding == "mode":
            likeliest = weights.index(max(weights))
            weights = tuple(float(i == likeliest) for i in range(len(LEVELS)))
        return weights

    def promise(self, column: int, weights: Sequence[float]) -> Expectation:
        """Return the expectation for an arm, by its index in ``arms``, at (5,) level weights."""
        accuracy, low, high, *cost = expectation(weights, self._measured[column])
        return Expectation(self.arms[column], accuracy, low, high, cost_of(cost), sufficient=True)

    def expected(self, of: str, weights: Any) -> Any:
        """Return expectations of accuracy, low, generations, flops, money (0 without prices) or seconds (NaN where not
        measured), in the order of ``arms``.

        weights  of the levels: a tuple (5,) for one prompt gives a list (arms,), an array (n, 5) gives (n, arms)
        """
        return expectation(weights, self._values[of]) if isinstance(weights, tuple) else weights @ self._arrays[of]

    def _cheapest(self, weights: Sequence[float], columns: Sequence[int]) -> int:
        """Return the one of the fewest FLOPs; ties go to the most accurate arm, then to the first."""
        if len(columns) == 1:
            return columns[0]
        flops = expectation(weights, [self._values["flops"][column] for column in columns])
        accuracy = expectation(weights, [self._values["accuracy"][column] for column in columns])
        return min(zip(flops, [-each for each in accuracy], columns, strict=True))[-1]

    # Many prompts, in arrays

    def promises(self, columns: "NDArray[np.int64]", weights: "NDArray[np.float64]") -> list[Expectation]:
        """Return the expectations for (n,) arms, by their indices in ``arms``, at (n, 5) level weights."""
        import numpy as np

        values = np.einsum("nkl,nl->nk", self._measured_array[columns], weights).tolist()
        return [
            Expectation(self.arms[column], accuracy, low, high, cost_of(cost), sufficient=True)
            for column, (accuracy, low, high, *cost) in zip(columns.tolist(), values, strict=True)
        ]

    def tables(self, tasks: "NDArray[np.str_]") -> "Iterator[tuple[NDArray[np.int64], Policy]]":
        """Yield each table that decides for some of (n,) prompts of these tasks, with the rows of the prompts."""
        import numpy as np

        left = np.ones(len(tasks), dtype=bool)
        for name, table in self.tasks.items():
            own = tasks == name
            left &= ~own
            if own.any():
                yield np.flatnonzero(own), table
        if left.any():
            yield np.flatnonzero(left), self

    def decide_many(
        self,
        probabilities: "NDArray[np.float64]",
        objective: Objective,
        tasks: "NDArray[np.str_] | None" = None,
    ) -> "NDArray[np.int64]":
        """(n,) indices into ``arms`` for (n, 5) probabilities, chosen as in :meth:`decide`. Raises InvalidRequest.

        tasks  (n,) names of the prompts' tasks, each of which is decided by its table; None: all are by this one
        """
        import numpy as np

        self.check(objective)
        if tasks is not None and self.tasks:
            found = np.empty(len(probabilities), dtype=np.int64)
            for rows, table in self.tables(tasks):
                found[rows] = table.decide_many(probabilities[rows], objective)
            return found
        weights = self.weights(probabilities)
        return self.cheapest_of_many(weights, objective.good_of_many(self, weights))

    def weights(self, probabilities: "NDArray[np.float64]") -> "NDArray[np.float64]":
        """(n, 5) weight of each level in the prompts' expectations."""
        import numpy as np

        if self.deciding == "mode":
            return np.asarray(np.eye(len(LEVELS))[probabilities.argmax(axis=1)])
        return probabilities

    def cheapest_of_many(self, weights: "NDArray[np.float64]", good: "NDArray[np.bool_]") -> "NDArray[np.int64]":
        """(n,) indices into ``arms``: the cheapest of the (n, arms) good ones, ties as in :meth:`decide`."""
        import numpy as np

        flops, accuracy = self.expected("flops", weights), self.expected("accuracy", weights)
        cost = np.where(good, flops, np.inf)
        cheapest = cost == cost.min(axis=1, keepdims=True)
        gain = np.where(cheapest, accuracy, -np.inf)
        return np.asarray(gain.argmax(axis=1))

    @cached_property
    def _arrays(self) -> "Mapping[str, NDArray[np.float64]]":
        """(5, arms) values by name of the measurement."""
        import numpy as np

        return {name: np.array(rows).T.copy() for name, rows in self._values.items()}

    @cached_property
    def _measured_array(self) -> "NDArray[np.float64]":
        """(arms, values, 5) of what :meth:`promise` tells."""
        import numpy as np

        return np.array(self._measured)

    # Files

    def dumps(self) -> str:
        """Return JSON that people can read and diff: one cell per line."""
        head: dict[str, Any] = {"default": {self.default.kind: self.default.value}}
        head |= {"deciding": self.deciding, "tolerance": self.tolerance, "worth": self.worth}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        points = ",\n  ".join(json.dumps(asdict(point)) for point in self.budget_points)
        lines += [f'"budget_points": [\n  {points}\n ]', f'"cells": {written(_in_file(self.cells))}']
        if self.tasks:
            tables = [f"{json.dumps(name)}: {written(_in_file(table.cells))}" for name, table in self.tasks.items()]
            lines.append('"tasks": {' + ",\n ".join(tables) + "}")
        return "{" + ",\n ".join(lines) + "}\n"

    @classmethod
    def loads(cls, text: str | bytes) -> "Policy":
        """Read what ``dumps`` wrote. Raises InvalidBundle, naming what is wrong; unknown keys are errors."""
        try:
            file: File = read(File, loads(text))
            ((kind, value),) = file.default.items()
            return cls(
                [row.cell for row in file.cells],
                objective_of(kind, value),
                budget_points=[BudgetPoint(point.generations, point.price) for point in file.budget_points],
                deciding=file.deciding,
                tolerance=file.tolerance,
                worth=file.worth,
                tasks={name: [row.cell for row in rows] for name, rows in file.tasks.items()},
            )
        except (ValueError, OverflowError, InvalidRequest) as error:
            raise InvalidBundle(f"policy: {error}") from error


def in_order(arms: Iterable[Strategy], worth: Mapping[str, float]) -> tuple[Strategy, ...]:
    """Return arms by rising budget: the order of a policy's columns, and of what tables are made from."""
    return tuple(sorted(arms, key=lambda arm: (arm.budget(worth), arm)))


def _in_file(cells: Iterable[Cell]) -> list[Cell]:
    """By level and the arms' own order, which does not change with the models' prices."""
    return sorted(cells, key=lambda cell: (cell.level, cell.arm))
