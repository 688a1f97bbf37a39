"""Many prompts with one budget: decides an arm for each, and divides what is left among the prompts still to come."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from router.errors import InvalidRequest
from router.policy import unfamiliar
from router.policy.allocation import Ladders, undominated
from router.policy.table import LEVELS, Expectation
from router.solving.bill import Bill
from router.solving.request import Request, validate
from router.solving.solver import Decision, Solver

MOST_PROMPTS = 1000  # in one call
Unit = Literal["generations", "flops", "money"]
UNITS: tuple[Unit, ...] = get_args(Unit)
_CHARACTERS = 1 << 14  # of prompts that are read in one piece
_OF_A_PROMPT = ("prompt", "messages", "inputs", "task", "conversation")  # fields of a prompt, not of the batch


@dataclass(frozen=True, slots=True)
class Total:
    """The most that all prompts of a batch together may be expected to spend, above 0."""

    value: float
    unit: Unit = "generations"


class Batch:
    """Prompts whose arms were decided together. Make one with :func:`decide`.

    costs     (n, arms) expected costs of each prompt's arms, in the total's unit
    plans     by index, the plan of each unfamiliar prompt
    order     the prompts' indices, least expected cost first: what these prompts don't spend is left for the others
    expected  expected cost of all prompts
    """

    def __init__(
        self,
        solver: Solver,
        requests: Sequence[Request],
        total: Total,
        probabilities: NDArray[np.float64],
        familiar: NDArray[np.bool_],
    ):
        """``probabilities`` (n, 5) of levels; ``familiar`` (n,). Raises InvalidRequest where the total is too small."""
        self.requests = requests
        self.total = total
        self._solver = solver
        self._probabilities = probabilities
        policy = solver.policy
        tasks = np.array([solver.task_of(request) for request in requests])
        self._tables = list(policy.tables(tasks))
        self._weights = policy.weights(probabilities)
        levels = np.eye(len(LEVELS))
        kept = undominated(
            *(np.vstack([table.expected(of, levels) for _, table in self._tables]) for of in ("accuracy", total.unit))
        )
        accuracy = np.empty((len(requests), len(kept)), order="F")  # as the other array that they are compared with
        self.costs = np.empty((len(requests), len(policy.arms)))
        for rows, table in self._tables:
            accuracy[rows] = table.expected("accuracy", self._weights[rows])[:, kept]
            self.costs[rows] = table.expected(total.unit, self._weights[rows])
        self.plans: dict[int, Expectation] = {}
        for index in np.flatnonzero(~familiar).tolist():
            plan = self.plans[index] = self._plan(solver.task_of(requests[index]))
            # Only one arm, so the prompt never moves to a more expensive one.
            self.costs[index], accuracy[index] = _in(total.unit, plan), 0.0
        self._ladders = Ladders.among(kept, accuracy, self.costs[:, kept])
        if self._ladders.base.sum() > total.value * (1 + 1e-9):
            raise InvalidRequest(
                f"budget.{total.unit}",
                f"the {len(requests)} prompts take at least {self._ladders.base.sum():.6g} {total.unit}, the cheapest "
                f"arm for each; {total.value:.6g} were given",
                reason="BUDGET_OUT_OF_RANGE",
            )
        self._columns = self._ladders.choose(total.value)
        expected = self.costs[np.arange(len(requests)), self._columns]
        self.expected = float(expected.sum())
        self.order: list[int] = np.argsort(expected, kind="stable").tolist()
        self._waiting = np.ones(len(requests), dtype=bool)
        self._counted = np.zeros(len(requests))  # real or expected spending of prompts that began

    @property
    def decisions(self) -> list[Decision]:
        """The decision for each prompt, before any prompt is solved."""
        promises: dict[int, Expectation] = {}
        for rows, table in self._tables:
            found = table.promises(self._columns[rows], self._weights[rows])
            promises |= zip(rows.tolist(), found, strict=True)
        return [self._decision(i, tuple(row), promises[i]) for i, row in enumerate(self._probabilities.tolist())]

    @property
    def spent(self) -> float:
        """What the prompts that began spent or are expected to spend, in the total's unit."""
        return float(self._counted.sum())

    def begin(self, index: int, bill: Bill) -> Decision:
        """Decide for a prompt that begins now, or again: divide what is left among it and the waiting prompts.

        bill  what the prompt spent before
        """
        before = self._counted[index] = self._spent(index, bill)
        self._waiting[index] = True
        column = int(self._ladders.choose(self.total.value - self._counted.sum(), self._waiting)[index])
        self._waiting[index] = False
        self._counted[index] = before + self.costs[index, column]
        table = self._solver.policy.for_task(self._solver.task_of(self.requests[index]))
        promise = table.promise(column, self._weights[index].tolist())
        return self._decision(index, tuple(self._probabilities[index].tolist()), promise)

    def ended(self, index: int, bill: Bill) -> None:
        """Replace the prompt's expected spending by its real spending."""
        self._counted[index] = self._spent(index, bill)

    def _spent(self, index: int, bill: Bill) -> float:
        match self.total.unit:
            case "flops":
                return bill.flops()
            case "money":
                return bill.money or 0.0
        return self._solver.generations(bill, self._weights[index].tolist(), self._solver.task_of(self.requests[index]))

    def _decision(self, index: int, probabilities: tuple[float, ...], promise: Expectation) -> Decision:
        request = self.requests[index]
        if plan := self.plans.get(index):
            return self._solver.decision(request, probabilities, plan.arm, plan, familiar=False)
        measured = self._solver.as_measured(request, promise.arm)
        return self._solver.decision(request, probabilities, promise.arm, promise if measured else None)

    def _plan(self, task: str) -> Expectation:
        """Return an unfamiliar prompt's plan: as many samples as an even share of the total pays for."""
        share = self.total.value / len(self.requests)
        table, weights = self._solver.policy.for_task(task), self._solver.shares_of(task)
        one = _in(self.total.unit, unfamiliar.within(table, 1, weights))
        return unfamiliar.within(table, share / one if one else unfamiliar.SAMPLES, weights)


def _in(unit: Unit, expectation: Expectation) -> float:
    return float(getattr(expectation.cost, unit) or 0.0)


async def decide(solver: Solver, requests: Sequence[Request], total: Total, bill: Bill | None = None) -> Batch:
    """Predict all levels in arrays and divide the total among the prompts; add the cost of predicting to ``bill``.

    Raises InvalidRequest; a field of the sixth prompt is named like ``prompts[5].prompt``.
    """
    if not total.value > 0 or not np.isfinite(total.value):
        raise InvalidRequest(
            f"budget.{total.unit}",
            f"the budget is {total.value:g}; give a number above 0",
            reason="BUDGET_OUT_OF_RANGE",
        )
    tables = (solver.policy, *solver.policy.tasks.values())
    if total.unit == "money" and any(cell.cost.money is None for table in tables for cell in table.cells):
        raise InvalidRequest(
            "budget.money",
            "the policy has no prices for its arms; give the budget in generations or flops",
            reason="BATCH_INVALID",
        )
    await _check(solver, requests)
    familiar = np.zeros(len(requests), dtype=bool)
    probabilities = np.empty((len(requests), len(LEVELS)))
    for part in _parts(requests):
        await asyncio.sleep(0)  # other callers' turn
        familiar[part] = solver.known([requests[index] for index in part])
        # Reading a text costs nothing, and these were just read to see which are familiar.
        asked = [index for index in part if familiar[index] or not solver.features.vectors]
        if asked:
            read = await solver.read([requests[index].prompt for index in asked], bill)
            probabilities[asked] = solver.bundle.difficulty.predict_proba(read)
    for index in np.flatnonzero(~familiar).tolist():
        probabilities[index] = solver.shares_of(solver.task_of(requests[index]))
    return Batch(solver, requests, total, probabilities, familiar)


def _parts(requests: Sequence[Request]) -> Iterator[list[int]]:
    """Yield the indices of the requests in parts that take a few milliseconds to read."""
    part: list[int] = []
    characters = 0
    for index, request in enumerate(requests):
        part.append(index)
        characters += request.prompt.characters
        if characters >= _CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


async def _check(solver: Solver, requests: Sequence[Request]) -> None:
    """Raise InvalidRequest where a request is wrong."""
    sound: set[str | None] = set()  # tasks that were checked for prompts without inputs
    checked = 0
    try:
        for request in requests:
            validate(request)
            if request.inputs:
                await asyncio.sleep(0)  # other callers' turn
            if request.inputs or request.task not in sound:
                await solver.task(request)
            if not request.inputs:
                sound.add(request.task)
            checked += 1
    except InvalidRequest as error:
        raise _of_prompt(checked, error) from error


def for_each(items: Sequence[Any], do: Callable[[Any], Any]) -> list[Any]:
    """Return what ``do`` returns for each prompt. Raises its InvalidRequest with the prompt's index in the field."""
    done: list[Any] = []
    try:
        for item in items:
            done.append(do(item))
    except InvalidRequest as error:
        raise _of_prompt(len(done), error) from error
    return done


def _of_prompt(index: int, error: InvalidRequest) -> InvalidRequest:
    """Return the error with the prompt's index in its field, where it is about a prompt's field."""
    if error.field.split(".")[0] not in _OF_A_PROMPT:
        return error
    where = f"prompts[{index}].{error.field}"
    return InvalidRequest(where, f"{where}: {error}", reason=error.reason)
