"""The policy: what was measured of each arm at each level, and the choice of an arm by objective.

One table serves every objective. A prompt's level is known only as five probabilities. So an arm's value for the prompt
is the expectation of its measurements over them, or the measurement at the likeliest level if that did better in
tuning.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from router.errors import InvalidBundle, InvalidRequest
from router.policy.objectives import BudgetPoint, Objective, objective_of
from router.policy.seconds import check_seconds, good_in_time
from router.schema import LEAST_WORTH, STRICT, Amount, Name, Probability, loads, read
from strategies import Strategy, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVELS = (1, 2, 3, 4, 5)
Deciding = Literal["mode", "distribution"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean cost of one prompt. Tokens as in ``backends.Usage``; FLOPs are 2 * parameters * tokens.

    generations  what was really generated, in complete solutions of the reference model: tokens divided by the mean
                 tokens of one sample; a token of another model counts as much as its price
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


class Policy:
    """A full table: every arm at every level. Raises InvalidBundle where a cell is missing or occurs twice.

    default        objective of a request that names none
    budget_points  average budgets with their prices, in rising order
    deciding       distribution: by the expectation over the level probabilities; mode: by the likeliest level alone
    tolerance      under a fixed budget, accuracies this close are a tie, which the cheapest arm wins
    worth          cost of a solution of each model, in solutions of the reference model
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
    ):
        self.cells = tuple(sorted(cells, key=lambda cell: (cell.level, cell.arm)))
        self.arms = tuple(sorted({cell.arm for cell in self.cells}))
        self.budget_points = tuple(sorted(budget_points, key=lambda point: point.generations))
        self.default, self.deciding, self.tolerance = default, deciding, tolerance
        self.worth = dict(worth or {})
        wanted = [(level, arm) for level in LEVELS for arm in self.arms]
        if not wanted or [(cell.level, cell.arm) for cell in self.cells] != wanted:
            raise InvalidBundle("policy: needs exactly one cell for each arm at each of the five levels")
        if deciding not in get_args(Deciding):
            raise InvalidBundle(f"policy: deciding {deciding!r} is none of {', '.join(get_args(Deciding))}")
        # Rows are arms by rising budget, so that the arms within a budget come first.
        self._order = sorted(range(len(self.arms)), key=lambda column: self.budget(self.arms[column]))
        self.budgets = [self.budget(self.arms[column]) for column in self._order]
        self.smallest, self.largest = self.budgets[0], self.budgets[-1]
        by_arm = [self.cells[column :: len(self.arms)] for column in self._order]
        self._rows: dict[str, list[tuple[float, ...]]] = {
            name: [tuple(get(cell) for cell in cells) for cells in by_arm] for name, get in _MEASURES.items()
        }
        self._measured = [
            list(zip(*((cell.accuracy, cell.low, cell.high, *_numbers(cell.cost)) for cell in cells), strict=True))
            for cells in by_arm
        ]
        try:
            self.check(default)
        except InvalidRequest as error:
            raise InvalidBundle(f"policy: default objective: {error}") from error

    def budget(self, arm: Strategy) -> float:
        """Return the most that an arm spends, in solutions of the reference model."""
        return arm.budget(self.worth)

    def arm(self, column: int) -> Strategy:
        """Return the arm of a column of :meth:`expected`; columns are arms by rising budget."""
        return self.arms[self._order[column]]

    def check(self, objective: Objective) -> None:
        """Raise InvalidRequest, with the objective as its field, where no measured arm can serve it."""
        objective.check(self)

    def only(self, keep: Callable[[Strategy], bool]) -> "Policy | None":
        """Return the policy with only the arms to keep; None if none is left.

        Raises InvalidBundle where these can't serve the default objective.
        """
        cells = [cell for cell in self.cells if keep(cell.arm)]
        if len(cells) == len(self.cells):
            return self
        return Policy(cells, self.default, **self._settings) if cells else None

    def with_default(self, default: Objective) -> "Policy":
        """Return the policy with this default objective. Raises InvalidRequest where no measured arm can serve it."""
        self.check(default)
        return Policy(self.cells, default, **self._settings)

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
        """Return the expectation for an arm, by its column in :meth:`expected`, at (5,) level weights."""
        accuracy, low, high, *cost = _expected(weights, self._measured[column])
        return Expectation(self.arm(column), accuracy, low, high, _cost(cost), sufficient=True)

    def expected(self, of: str, weights: Any) -> Any:
        """Return expectations of accuracy, low, generations, flops, money (0 without prices) or seconds (NaN where not
        measured), for arms by rising budget.

        weights  of the levels: a tuple (5,) for one prompt gives a list (arms,), an array (n, 5) gives (n, arms)
        """
        return _expected(weights, self._rows[of]) if isinstance(weights, tuple) else weights @ self._arrays[of]

    def _cheapest(self, weights: Sequence[float], rows: Sequence[int]) -> int:
        """Return the row of the fewest FLOPs; ties go to the most accurate arm, then to the first of ``arms``."""
        if len(rows) == 1:
            return rows[0]
        flops = _expected(weights, [self._rows["flops"][row] for row in rows])
        accuracy = _expected(weights, [self._rows["accuracy"][row] for row in rows])
        ranked = zip(flops, [-each for each in accuracy], [self._order[row] for row in rows], rows, strict=True)
        return min(ranked)[-1]

    # Many prompts, in arrays

    def promises(self, columns: "NDArray[np.int64]", weights: "NDArray[np.float64]") -> list[Expectation]:
        """Return the expectations for (n,) arms, by their columns in :meth:`expected`, at (n, 5) level weights."""
        import numpy as np

        values = np.einsum("nkl,nl->nk", np.array(self._measured)[columns], weights).tolist()
        return [
            Expectation(self.arm(column), accuracy, low, high, _cost(cost), sufficient=True)
            for column, (accuracy, low, high, *cost) in zip(columns.tolist(), values, strict=True)
        ]

    def decide_many(self, probabilities: "NDArray[np.float64]", objective: Objective) -> "NDArray[np.int64]":
        """(n,) indices into ``arms`` for (n, 5) probabilities, chosen as in :meth:`decide`. Raises InvalidRequest."""
        self.check(objective)
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

        order = np.array(self._order)
        flops, accuracy = self.expected("flops", weights), self.expected("accuracy", weights)
        cost = np.where(good, flops, np.inf)
        cheapest = cost == cost.min(axis=1, keepdims=True)
        gain = np.where(cheapest, accuracy, -np.inf)
        best = gain == gain.max(axis=1, keepdims=True)
        found: NDArray[np.int64] = np.where(best, order, len(order)).min(axis=1)
        return found

    @cached_property
    def _arrays(self) -> "Mapping[str, NDArray[np.float64]]":
        """(5, arms) values by name of the measurement."""
        import numpy as np

        return {name: np.array(rows).T.copy() for name, rows in self._rows.items()}

    # Files

    def dumps(self) -> str:
        """Return JSON that people can read and diff: one cell per line."""
        head: dict[str, Any] = {"default": {self.default.kind: self.default.value}}
        head |= {"deciding": self.deciding, "tolerance": self.tolerance, "worth": self.worth}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        cells = [{**asdict(cell), "arm": str(cell.arm), "cost": _written(cell.cost)} for cell in self.cells]
        for name, rows in (("budget_points", [asdict(point) for point in self.budget_points]), ("cells", cells)):
            lines.append(f"{json.dumps(name)}: [\n  " + ",\n  ".join(map(json.dumps, rows)) + "\n ]")
        return "{" + ",\n ".join(lines) + "}\n"

    @classmethod
    def loads(cls, text: str | bytes) -> "Policy":
        """Read what ``dumps`` wrote. Raises InvalidBundle, naming what is wrong; unknown keys are errors."""
        try:
            file: _File = read(_File, loads(text))
            ((kind, value),) = file.default.items()
            return cls(
                [row.cell for row in file.cells],
                objective_of(kind, value),
                budget_points=[BudgetPoint(point.generations, point.price) for point in file.budget_points],
                deciding=file.deciding,
                tolerance=file.tolerance,
                worth=file.worth,
            )
        except (ValueError, OverflowError, InvalidRequest) as error:
            raise InvalidBundle(f"policy: {error}") from error


_MEASURES: Mapping[str, Callable[[Cell], float]] = {
    "accuracy": lambda cell: cell.accuracy,
    "low": lambda cell: cell.low,
    "generations": lambda cell: cell.cost.generations,
    "flops": lambda cell: cell.cost.flops,
    "money": lambda cell: cell.cost.money or 0.0,
    "seconds": lambda cell: math.nan if cell.cost.seconds is None else cell.cost.seconds,
}


def _expected(weights: Sequence[float], rows: Iterable[Sequence[float]]) -> list[float]:
    """Return each row's expectation. A row has the values at levels 1 to 5; the weights are their probabilities."""
    one, two, three, four, five = weights
    return [one * a + two * b + three * c + four * d + five * e for a, b, c, d, e in rows]


_COSTS = attrgetter(*(field.name for field in fields(Cost)))


def _numbers(cost: Cost) -> tuple[float, ...]:
    """Return the cost's fields as numbers, None as NaN."""
    *always, money, seconds = _COSTS(cost)  # astuple copies deeply: too slow for the hundreds of tables in tuning
    return *always, math.nan if money is None else money, math.nan if seconds is None else seconds


def _cost(numbers: Sequence[float]) -> Cost:
    """Invert :func:`_numbers`."""
    (one, two, three, four, five, six), (money, seconds) = numbers[:-2], numbers[-2:]
    known = [None if math.isnan(each) else each for each in (money, seconds)]
    return Cost(one, two, three, four, five, six, *known)


def _written(cost: Cost) -> dict[str, float]:
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


@dataclass(frozen=True)
class _File:
    __pydantic_config__ = STRICT

    default: Annotated[dict[str, float], Field(min_length=1, max_length=1)]
    deciding: Deciding
    tolerance: Amount
    worth: dict[Name, Annotated[float, Field(ge=LEAST_WORTH, le=1 / LEAST_WORTH)]]
    budget_points: list[_Point]
    cells: Annotated[list[_Row], Field(min_length=1)]

    def __post_init__(self) -> None:
        if not any(row.prompts for row in self.cells):
            raise ValueError("cells: no prompts at any level, so nothing was measured")
