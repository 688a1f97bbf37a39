"""The cells of a policy's table: what was measured of one arm at one level, and how a file writes it."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import Field

from router.schema import LEAST_WORTH, STRICT, Amount, Name, Probability
from strategies import Strategy, parse

LEVELS = (1, 2, 3, 4, 5)
Deciding = Literal["mode", "distribution"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean cost of one prompt. Tokens as in ``backends.Usage``; FLOPs are 2 * parameters * tokens.

    generations  what was really generated, in complete solutions of the reference model: tokens divided by the mean
                 tokens of one sample; a token of another model counts by its price, without prices by its parameters
    money        None where no model has a price
    seconds      elapsed time; None where it was not measured
    """

    __pydantic_config__ = STRICT

    generations: Amount
    prompt_tokens: Amount
    generated_tokens: Amount
    scored_tokens: Amount
    generator_flops: Amount
    verifier_flops: Amount
    money: Amount | None = None
    seconds: Amount | None = None

    @property
    def flops(self) -> float:
        return self.generator_flops + self.verifier_flops


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of one arm at one level.

    accuracy   expected share of right answers
    low, high  its 95% bootstrap interval over prompts
    prompts    number of prompts of that level; a prompt that belongs to the level with probability p counts as p
    """

    level: int
    arm: Strategy
    accuracy: float
    low: float
    high: float
    prompts: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class Expectation:
    """The chosen arm, with its expected accuracy and cost for this prompt.

    sufficient  False: no arm is known to reach the target accuracy; this is the one with the highest lower end, and the
                cheapest of those
    in_time     False: no arm is expected to end within the seconds that were asked for; this is the fastest one
    """

    arm: Strategy
    accuracy: float
    low: float
    high: float
    cost: Cost
    sufficient: bool
    in_time: bool = True


MEASURES: Mapping[str, Callable[[Cell], float]] = {
    "accuracy": lambda cell: cell.accuracy,
    "low": lambda cell: cell.low,
    "generations": lambda cell: cell.cost.generations,
    "flops": lambda cell: cell.cost.flops,
    "money": lambda cell: cell.cost.money or 0.0,
    "seconds": lambda cell: math.nan if cell.cost.seconds is None else cell.cost.seconds,
}


def expectation(weights: Sequence[float], rows: Iterable[Sequence[float]]) -> list[float]:
    """Return each row's expectation. A row has the values at levels 1 to 5; the weights are their probabilities."""
    one, two, three, four, five = weights
    return [one * a + two * b + three * c + four * d + five * e for a, b, c, d, e in rows]


_COSTS = attrgetter(*(each.name for each in fields(Cost)))


def numbers(cost: Cost) -> tuple[float, ...]:
    """Return the cost's fields as numbers, None as NaN."""
    *always, money, seconds = _COSTS(cost)  # astuple copies deeply: too slow for the hundreds of tables in tuning
    return *always, math.nan if money is None else money, math.nan if seconds is None else seconds


def cost_of(values: Sequence[float]) -> Cost:
    """Invert :func:`numbers`."""
    one, two, three, four, five, six, money, seconds = values
    known = None if math.isnan(money) else money, None if math.isnan(seconds) else seconds
    return Cost(one, two, three, four, five, six, *known)


def written(cells: Iterable[Cell]) -> str:
    """Return a JSON list that people can read and diff: one cell per line."""
    rows = [{**asdict(cell), "arm": str(cell.arm), "cost": _known(cell.cost)} for cell in cells]
    return "[\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]"


def _known(cost: Cost) -> dict[str, float]:
    return {name: value for name, value in asdict(cost).items() if value is not None}


@dataclass(frozen=True)
class _Point:
    __pydantic_config__ = STRICT

    generations: Amount
    price: Amount


@dataclass(frozen=True)
class _Row:
    __pydantic_config__ = STRICT

    level: Annotated[int, Field(ge=1, le=5)]
    arm: str
    accuracy: Probability
    low: Probability
    high: Probability
    prompts: Amount
    cost: Cost

    def __post_init__(self) -> None:
        if not self.low <= self.accuracy <= self.high:
            raise ValueError(f"accuracy {self.accuracy} is outside its interval of {self.low} to {self.high}")

    @property
    def cell(self) -> Cell:
        return Cell(self.level, parse(self.arm), self.accuracy, self.low, self.high, self.prompts, self.cost)


_Rows = Annotated[list[_Row], Field(min_length=1)]


@dataclass(frozen=True)
class File:
    """What a policy's file holds; ``tasks`` are the tables of single tasks, by name. Unknown keys are errors."""

    __pydantic_config__ = STRICT

    default: Annotated[dict[str, float], Field(min_length=1, max_length=1)]
    deciding: Deciding
    tolerance: Amount
    worth: dict[Name, Annotated[float, Field(ge=LEAST_WORTH, le=1 / LEAST_WORTH)]]
    budget_points: list[_Point]
    cells: _Rows
    tasks: dict[str, _Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = {"cells": self.cells, **{f"tasks.{name}": rows for name, rows in self.tasks.items()}}
        for where, rows in tables.items():
            if not any(row.prompts for row in rows):
                raise ValueError(f"{where}: no prompts at any level, so nothing was measured")
