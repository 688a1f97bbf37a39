"""The policy: what was measured of each arm at each level, and the arm that an objective makes of it.

One table serves every objective. A prompt's level is known only as five probabilities, so an arm's worth to it is the
expectation of the measurements over them (or the measurement at the likeliest level, where that measured better).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from router.errors import InvalidBundle, InvalidRequest
from strategies import Arm

LEVELS = (1, 2, 3, 4, 5)
Kind = Literal["budget", "average_budget", "target_accuracy", "price_per_flop"]
OBJECTIVES: tuple[Kind, ...] = get_args(Kind)
Deciding = Literal["mode", "distribution"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What an arm is chosen for; ``value`` by ``kind``:

    budget           the most accurate arm of at most so many complete solutions' worth of sampling, for this prompt
                     (Snell et al., section 3.2)
    average_budget   as accurate as possible with so many spent on average over prompts like the training prompts: more
                     where it pays, less where it doesn't
    target_accuracy  the cheapest arm that is right with at least this probability, by the lower end of its interval
    price_per_flop   the arm of the largest accuracy less price: what a FLOP costs, a right answer being worth 1
    """

    kind: Kind
    value: float

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean spend of one prompt. Tokens as in ``backends.Usage``; FLOPs are 2 * parameters * tokens.

    generations  what was really generated, in complete solutions' worth: tokens over the mean tokens of one sample
    """

    generations: float
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
    """What was measured of one arm at one level.

    accuracy   share of right answers that it is expected to give there
    low, high  its 95% bootstrap interval over prompts
    prompts    how many prompts of that level it was measured on; a prompt that belongs to a level with probability p
               counts as p
    """

    level: int
    arm: Arm
    accuracy: float
    low: float
    high: float
    prompts: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the average-budget ladder: charging ``price`` (in right answers) for each generation makes the training
    prompts spend ``generations`` on average (the Lagrangian of Snell et al.'s equation 1 with an average budget)."""

    generations: float
    price: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the chosen arm is expected to give this prompt and to cost.

    sufficient  False: no arm is known to reach the target accuracy; this is the one with the highest lower end
    """

    arm: Arm
    accuracy: float
    low: float
    high: float
    cost: Cost
    sufficient: bool


class Policy:
    """A full table: every arm at every level. Raises InvalidBundle where something is missing or doubled.

    ladder     of average budgets, in rising order
    default    objective of a request that names none
    deciding   distribution: by the expectation over the level probabilities; mode: by the likeliest level alone
    tolerance  under a fixed budget, accuracies this close are a tie, which the cheapest arm wins
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        default: Objective,
        *,
        ladder: Iterable[Rung] = (),
        deciding: Deciding = "distribution",
        tolerance: float = 0.0,
    ):
        self.cells = tuple(sorted(cells, key=lambda cell: (cell.level, cell.arm)))
        self.arms = tuple(sorted({cell.arm for cell in self.cells}))
        self.ladder = tuple(sorted(ladder, key=lambda rung: rung.generations))
        self.default, self.deciding, self.tolerance = default, deciding, tolerance
        wanted = [(level, arm) for level in LEVELS for arm in self.arms]
        if not wanted or [(cell.level, cell.arm) for cell in self.cells] != wanted:
            raise InvalidBundle("policy: needs exactly one cell for each arm at each of the five levels")
        if deciding not in get_args(Deciding):
            raise InvalidBundle(f"policy: deciding {deciding!r} is none of {', '.join(get_args(Deciding))}")
        self._budgets = np.array([arm.budget for arm in self.arms])
        self.smallest, self.largest = int(self._budgets.min()), int(self._budgets.max())
        rows = [(cell.accuracy, cell.low, cell.high, *astuple(cell.cost)) for cell in self.cells]
        self._measured = np.array(rows, dtype=float).reshape(len(LEVELS), len(self.arms), -1)
        accuracy, low, _, generations, *_, generator_flops, verifier_flops = np.moveaxis(self._measured, 2, 0).copy()
        self._accuracy, self._low, self._generations = accuracy, low, generations  # (5, arms) each
        self._flops = generator_flops + verifier_flops
        try:
            self.check(default)
        except InvalidRequest as error:
            raise InvalidBundle(f"policy: default objective: {error}") from error

    def check(self, objective: Objective) -> None:
        """Raises InvalidRequest, naming the objective as its field, where nothing measured can serve it."""
        kind, value = objective.kind, objective.value
        if kind == "budget" and not self.smallest <= value <= self.largest:
            raise InvalidRequest(
                kind,
                f"budget {value:g} is outside this policy's {self.smallest} to {self.largest}; "
                "leave it out for the default, or tune a policy with larger budgets",
                reason="BUDGET_OUT_OF_RANGE",
            )
        if kind == "average_budget" and not (self.ladder and self.ladder[0].generations <= value < math.inf):
            least = f"at least {self.ladder[0].generations:g}" if self.ladder else "not tuned for"
            raise InvalidRequest(
                kind, f"average_budget {value:g}: in this policy it is {least}", reason="BUDGET_OUT_OF_RANGE"
            )
        if kind == "target_accuracy" and not 0 < value <= 1:
            raise InvalidRequest(
                kind, f"target_accuracy {value:g} must be above 0 and at most 1", reason="OBJECTIVE_OUT_OF_RANGE"
            )
        if kind == "price_per_flop" and not 0 <= value < math.inf:
            raise InvalidRequest(
                kind,
                f"price_per_flop {value:g} must be at least 0: it is what a FLOP costs when a right answer is worth 1",
                reason="OBJECTIVE_OUT_OF_RANGE",
            )

    def choose(self, probabilities: ArrayLike, objective: Objective) -> NDArray[np.int64]:
        """(n,) indices into ``arms`` for (n, 5) level probabilities. Raises InvalidRequest."""
        self.check(objective)
        weights = self._weights(probabilities)
        accuracy, flops = weights @ self._accuracy, weights @ self._flops
        if objective.kind == "budget":
            within = np.where(self._budgets <= objective.value, accuracy, -np.inf)
            return _cheapest(_best(within, self.tolerance), flops, accuracy)
        if objective.kind == "target_accuracy":
            low = weights @ self._low
            reached = low >= objective.value
            return np.where(reached.any(axis=1), _cheapest(reached, flops, accuracy), low.argmax(axis=1))
        if objective.kind == "price_per_flop":
            return _cheapest(_best(accuracy - objective.value * flops), flops, accuracy)
        rung = max((rung for rung in self.ladder if rung.generations <= objective.value), key=lambda r: r.generations)
        return self.at_price(probabilities, rung.price)

    def at_price(self, probabilities: ArrayLike, price: float) -> NDArray[np.int64]:
        """As :meth:`choose`, for a price in right answers a generation."""
        weights = self._weights(probabilities)
        accuracy, flops = weights @ self._accuracy, weights @ self._flops
        return _cheapest(_best(accuracy - price * (weights @ self._generations)), flops, accuracy)

    def decide(self, probabilities: Sequence[float], objective: Objective) -> Expectation:
        """The choice for one prompt, with what it promises. Raises InvalidRequest."""
        (column,) = self.choose([probabilities], objective)
        (weights,) = self._weights([probabilities])
        accuracy, low, high, *cost = (weights @ self._measured[:, column]).tolist()
        sufficient = objective.kind != "target_accuracy" or low >= objective.value
        return Expectation(self.arms[column], accuracy, low, high, Cost(*cost), sufficient)

    def dumps(self) -> str:
        """JSON that people can read and diff: one cell a line."""
        head: dict[str, Any] = {"default": {self.default.kind: self.default.value}}
        head |= {"deciding": self.deciding, "tolerance": self.tolerance}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        cells = [{**asdict(cell), "arm": str(cell.arm), "cost": asdict(cell.cost)} for cell in self.cells]
        for name, rows in (("ladder", [asdict(rung) for rung in self.ladder]), ("cells", cells)):
            lines.append(f"{json.dumps(name)}: [\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]")
        return "{" + ",\n ".join(lines) + "}\n"

    @classmethod
    def loads(cls, text: str) -> "Policy":
        """Inverse of ``dumps``; raises InvalidBundle naming what is wrong. Unknown keys are errors."""
        try:
            document = _exactly(json.loads(text), {"default", "deciding", "tolerance", "ladder", "cells"})
            ((kind, value),) = document["default"].items()
            if kind not in OBJECTIVES:
                raise ValueError(f"unknown objective {kind!r}; known: {', '.join(OBJECTIVES)}")
            return cls(
                map(_cell, document["cells"]),
                Objective(kind, value),
                ladder=[Rung(**_exactly(row, {"generations", "price"})) for row in document["ladder"]],
                deciding=document["deciding"],
                tolerance=float(document["tolerance"]),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidBundle(f"policy: {error}") from error

    def _weights(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        given = np.asarray(probabilities, dtype=float)
        return given if self.deciding == "distribution" else np.eye(len(LEVELS))[given.argmax(axis=1)]


def _best(worth: NDArray[np.float64], tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Which of each row's columns are as good as its best."""
    return np.asarray(worth >= worth.max(axis=1, keepdims=True) - tolerance - 1e-9)


def _cheapest(good: NDArray[np.bool_], flops: NDArray[np.float64], accuracy: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) the cheapest of each row's good columns; the most accurate of equally cheap ones."""
    cost = np.where(good, flops, np.inf)
    return np.asarray(np.where(cost == cost.min(axis=1, keepdims=True), accuracy, -np.inf).argmax(axis=1))


def _exactly(mapping: Any, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(mapping, dict) or set(mapping) != keys:
        found = sorted(mapping) if isinstance(mapping, dict) else type(mapping).__name__
        raise ValueError(f"expected exactly {sorted(keys)}, found {found}")
    return mapping


def _cell(row: Any) -> Cell:
    values = _exactly(row, {field.name for field in fields(Cell)})
    cost = Cost(**_exactly(values["cost"], {field.name for field in fields(Cost)}))
    return Cell(**{**values, "arm": Arm.parse(values["arm"]), "cost": cost})
