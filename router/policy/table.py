"""The policy: what was measured of each arm at each level, and the arm that an objective makes of it.

One table serves every objective. A prompt's level is known only as five probabilities, so an arm's worth to it is the
expectation of the measurements over them (or the measurement at the likeliest level, where that measured better).

Plain arithmetic: between two calls a server does much else, and a dozen numpy calls whose code has left the processor's
caches take three times as long. ``offline.choices`` applies the same rule to many prompts at once.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Literal, get_args

from router.errors import InvalidBundle, InvalidRequest
from strategies import Arm

LEVELS = (1, 2, 3, 4, 5)
Kind = Literal["budget", "average_budget", "target_accuracy", "price_per_flop"]
OBJECTIVES: tuple[Kind, ...] = get_args(Kind)
Deciding = Literal["mode", "distribution"]
ROUNDING = 1e-9  # accuracies closer than this are equal


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

    sufficient  False: no arm is known to reach the target accuracy; this is the one with the highest lower end, and the
                cheapest of those
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
        # Arms within a budget are the first so many of these rows, each of what was measured at levels 1 to 5.
        self._order = sorted(range(len(self.arms)), key=lambda column: self.arms[column].budget)
        self._budgets = [self.arms[column].budget for column in self._order]
        self.smallest, self.largest = self._budgets[0], self._budgets[-1]
        by_arm = [self.cells[column :: len(self.arms)] for column in self._order]
        self._accuracy = [tuple(cell.accuracy for cell in cells) for cells in by_arm]
        self._low = [tuple(cell.low for cell in cells) for cells in by_arm]
        self._generations = [tuple(cell.cost.generations for cell in cells) for cells in by_arm]
        self._flops = [tuple(cell.cost.flops for cell in cells) for cells in by_arm]
        self._measured = [
            list(zip(*((cell.accuracy, cell.low, cell.high, *astuple(cell.cost)) for cell in cells), strict=True))
            for cells in by_arm
        ]
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

    def decide(self, probabilities: Sequence[float], objective: Objective) -> Expectation:
        """The choice for one prompt, with what it promises. Raises InvalidRequest."""
        self.check(objective)
        weights = tuple(probabilities)
        if self.deciding == "mode":
            likeliest = weights.index(max(weights))
            weights = tuple(float(i == likeliest) for i in range(len(LEVELS)))
        row = self._row(weights, objective.kind, objective.value)
        accuracy, low, high, *cost = _expected(weights, self._measured[row])
        sufficient = objective.kind != "target_accuracy" or low >= objective.value
        return Expectation(self.arms[self._order[row]], accuracy, low, high, Cost(*cost), sufficient)

    def _row(self, weights: Sequence[float], kind: Kind, value: float) -> int:
        if kind == "budget":
            accuracy = _expected(weights, self._accuracy[: bisect_right(self._budgets, value)])
            return self._cheapest(weights, _best(accuracy, self.tolerance))
        if kind == "target_accuracy":
            low = _expected(weights, self._low)
            return self._cheapest(weights, [i for i, each in enumerate(low) if each >= value] or _best(low))
        accuracy = _expected(weights, self._accuracy)
        price, spent = (value, self._flops) if kind == "price_per_flop" else (self._price(value), self._generations)
        worth = [gain - price * cost for gain, cost in zip(accuracy, _expected(weights, spent), strict=True)]
        return self._cheapest(weights, _best(worth))

    def _price(self, average_budget: float) -> float:
        """What a generation is charged, in right answers, so that prompts spend at most so many on average."""
        return self.ladder[bisect_right(self.ladder, average_budget, key=lambda rung: rung.generations) - 1].price

    def _cheapest(self, weights: Sequence[float], rows: Sequence[int]) -> int:
        """The row of fewest FLOPs, the most accurate of equally cheap ones, then the first of ``arms``."""
        flops = _expected(weights, [self._flops[row] for row in rows])
        accuracy = _expected(weights, [self._accuracy[row] for row in rows])
        ranked = zip(flops, [-each for each in accuracy], [self._order[row] for row in rows], rows, strict=True)
        return min(ranked)[-1]

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
                ladder=[Rung(**_numbers(_exactly(row, {"generations", "price"}))) for row in document["ladder"]],
                deciding=document["deciding"],
                tolerance=float(document["tolerance"]),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidBundle(f"policy: {error}") from error


def _expected(weights: Sequence[float], rows: Iterable[Sequence[float]]) -> list[float]:
    """Each row's expectation, its values being of levels 1 to 5 and the weights their probabilities."""
    one, two, three, four, five = weights
    return [one * a + two * b + three * c + four * d + five * e for a, b, c, d, e in rows]


def _best(worth: Sequence[float], tolerance: float = 0.0) -> list[int]:
    """Which are as good as the best."""
    least = max(worth) - tolerance - ROUNDING
    return [i for i, each in enumerate(worth) if each >= least]


def _exactly(mapping: Any, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(mapping, dict) or set(mapping) != keys:
        found = sorted(mapping) if isinstance(mapping, dict) else type(mapping).__name__
        raise ValueError(f"expected exactly {sorted(keys)}, found {found}")
    return mapping


def _cell(row: Any) -> Cell:
    values = dict(_exactly(row, {field.name for field in fields(Cell)}))
    cost = Cost(**_numbers(_exactly(values.pop("cost"), {field.name for field in fields(Cost)})))
    level, arm = values.pop("level"), Arm.parse(values.pop("arm"))
    return Cell(level=level, arm=arm, cost=cost, **_numbers(values))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
