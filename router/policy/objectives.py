"""Objectives: what an arm is chosen for. To add one, write a class like these and ``register`` it.

An objective decides on the measurements of each arm (:class:`Measurements`). It decides for one prompt in plain
arithmetic: between two calls a server does much else, and numpy's code is slow until it is in the processor's caches
again. It decides for many prompts in arrays: tuning decides tens of thousands of times. Both say which arms are *good
enough*; the cheapest of those is taken, in one place for all objectives.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from router.errors import InvalidRequest
from strategies import Cascade, Strategy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUNDING = 1e-9  # accuracies closer than this are equal


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """An average budget and its price, the Lagrange multiplier of Snell et al.'s equation 1 with an average budget.

    If each generation costs ``price`` right answers, the training prompts spend ``generations`` on average.
    """

    generations: float
    price: float


class Measurements(Protocol):
    """What a policy knows of its arms, which are ordered by rising budget.

    budgets        of each arm, in solutions of the reference model
    budget_points  average budgets with their prices, rising
    tolerance      under a fixed budget, accuracies this close are a tie
    """

    @property
    def budgets(self) -> Sequence[float]: ...

    @property
    def budget_points(self) -> Sequence[BudgetPoint]: ...

    @property
    def tolerance(self) -> float: ...

    def expected(self, of: str, weights: Any) -> Any:
        """Return expectations over level probabilities: (arms,) for (5,) ``weights``, (n, arms) for (n, 5).

        of  accuracy, low, generations, flops or seconds
        """


class SomeArms:
    """The measurements of some of a policy's arms, given by their ``columns``: indices into its arms."""

    def __init__(self, policy: Measurements, columns: Sequence[int]):
        self.columns, self._policy = columns, policy
        self.budgets: Sequence[float] = [policy.budgets[column] for column in columns]
        self.budget_points = policy.budget_points
        self.tolerance = policy.tolerance

    def expected(self, of: str, weights: Any) -> Any:
        """Return (arms,) expectations for one prompt's (5,) weights."""
        found = self._policy.expected(of, weights)
        return [found[column] for column in self.columns]


class Objective(Protocol):
    """What an arm is chosen for; ``value`` is in the unit of its kind.

    kind  name in ``--objective kind=value``, in policy.json and in the proto
    """

    kind: ClassVar[str]

    @property
    def value(self) -> float: ...

    def check(self, policy: Measurements) -> None:
        """Raise InvalidRequest, with the objective as its field, where no measured arm can serve it."""

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        """Return the columns of the arms that are good enough for a prompt of these (5,) level probabilities."""

    def good_of_many(self, policy: Measurements, weights: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        """(n, arms) which arms are good enough, for (n, 5) level probabilities."""

    def sufficient(self, low: float) -> bool:
        """Whether an arm whose accuracy interval starts at ``low`` is known to serve the objective."""

    def runs(self, arm: Strategy) -> Strategy:
        """Return the arm to run where this arm was chosen."""

    def reached(self, confidence: float | None) -> bool:
        """Whether an answer with this confidence serves the objective; None: the confidence is unknown."""


@dataclass(frozen=True, slots=True)
class _Valued:
    value: float

    kind: ClassVar[str]

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    def sufficient(self, low: float) -> bool:
        return True

    def runs(self, arm: Strategy) -> Strategy:
        return arm

    def reached(self, confidence: float | None) -> bool:
        return True

    def _refuse(self, why: str, reason: str) -> InvalidRequest:
        return InvalidRequest(f"objective.{self.kind}", why, reason=reason)


@dataclass(frozen=True, slots=True)
class Budget(_Valued):
    """The most accurate arm for this prompt within a number of complete solutions (Snell et al., section 3.2)."""

    kind: ClassVar[str] = "budget"

    def check(self, policy: Measurements) -> None:
        smallest, largest = policy.budgets[0], policy.budgets[-1]
        if not smallest <= self.value <= largest:
            raise self._refuse(
                f"budget {self.value:g} is outside this policy's {smallest:g} to {largest:g}; "
                "leave it out for the default, or tune a policy with larger budgets",
                "BUDGET_OUT_OF_RANGE",
            )

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        accuracy = policy.expected("accuracy", weights)[: bisect_right(policy.budgets, self.value)]
        return _best(accuracy, policy.tolerance)

    def good_of_many(self, policy: Measurements, weights: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        accuracy = policy.expected("accuracy", weights)
        accuracy[:, bisect_right(policy.budgets, self.value) :] = -math.inf
        return _best_of_many(accuracy, policy.tolerance)


@dataclass(frozen=True, slots=True)
class AverageBudget(_Valued):
    """As accurate as possible with this many solutions on average over prompts like the training prompts: more where it
    pays, less where it does not.

    Between two budget points a share of the prompts pays the price of the upper one, so that both together spend the
    budget (Everett 1963 calls what no price reaches a gap). Which prompts do is drawn by their digests: equal prompts
    get equal arms.

    factor  the arm is chosen for ``value * factor``. A factor other than 1 makes up for what the caller's earlier calls
            spent, see ``keeping``
    draw    from 0 to 1: the prompt pays the upper price where this is below the share. 1: never, so that at most the
            budget is spent on average
    """

    factor: float = field(default=1.0, compare=False)
    draw: float = field(default=1.0, compare=False)

    kind: ClassVar[str] = "average_budget"

    @property
    def corrected(self) -> float:
        """The average budget that the arm is chosen for."""
        return self.value * self.factor

    def check(self, policy: Measurements) -> None:
        points = policy.budget_points
        if self.value == math.inf:
            raise self._refuse(
                f"average_budget inf must be finite; for the largest budget of this policy, ask for budget="
                f"{policy.budgets[-1]:g}",
                "BUDGET_OUT_OF_RANGE",
            )
        if not (points and points[0].generations <= self.value < math.inf):
            why = f"it is at least {points[0].generations:g}" if points else "no average budget was tuned"
            raise self._refuse(f"average_budget {self.value:g}: in this policy {why}", "BUDGET_OUT_OF_RANGE")

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        return _worth(policy, weights, self._price(policy), "generations")

    def good_of_many(self, policy: Measurements, weights: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        return at_price(policy, weights, self._price(policy), "generations")

    def drawn_by(self, digest: str) -> "AverageBudget":
        """Return the objective of the prompt with this SHA-256, in hexadecimal."""
        return replace(self, draw=int(digest[:8], 16) / 2**32)

    def parts(self, policy: Measurements) -> list[tuple[float, "AverageBudget"]]:
        """Return the shares of prompts at the point below and at the point above, with the objective of each."""
        _, share = self._point(policy)
        below, above = replace(self, draw=1.0), replace(self, draw=0.0)
        return [(1 - share, below), (share, above)] if share else [(1.0, below)]

    def _price(self, policy: Measurements) -> float:
        """Return the price of a generation, in right answers."""
        below, share = self._point(policy)
        return policy.budget_points[below + (self.draw < share)].price

    def _point(self, policy: Measurements) -> tuple[int, float]:
        """Return the index of the budget point below, and the share of prompts that pay the price of the one above."""
        points = policy.budget_points
        above = bisect_right(points, self.corrected, key=lambda point: point.generations)
        if not 0 < above < len(points):
            return max(0, above - 1), 0.0
        least, most = points[above - 1].generations, points[above].generations
        return above - 1, (self.corrected - least) / (most - least)


@dataclass(frozen=True, slots=True)
class TargetAccuracy(_Valued):
    """The cheapest arm whose accuracy is at least this probability, by the lower end of its interval.

    A cascade then ends once its answer has this confidence, whatever thresholds it was measured with.
    """

    kind: ClassVar[str] = "target_accuracy"

    def check(self, policy: Measurements) -> None:
        if not 0 < self.value <= 1:
            raise self._refuse(
                f"target_accuracy {self.value:g} must be above 0 and at most 1", "OBJECTIVE_OUT_OF_RANGE"
            )

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        low = policy.expected("low", weights)
        return [i for i, each in enumerate(low) if each >= self.value] or _best(low)

    def good_of_many(self, policy: Measurements, weights: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        import numpy as np

        low = policy.expected("low", weights)
        enough = low >= self.value
        return np.where(enough.any(axis=1, keepdims=True), enough, _best_of_many(low))

    def sufficient(self, low: float) -> bool:
        return low >= self.value

    def runs(self, arm: Strategy) -> Strategy:
        return arm.with_threshold(self.value) if isinstance(arm, Cascade) else arm

    def reached(self, confidence: float | None) -> bool:
        return confidence is not None and confidence >= self.value


@dataclass(frozen=True, slots=True)
class PricePerFlop(_Valued):
    """The arm with the largest accuracy minus cost. The value is the cost of a FLOP where a right answer is worth 1."""

    kind: ClassVar[str] = "price_per_flop"

    def check(self, policy: Measurements) -> None:
        if not 0 <= self.value < math.inf:
            raise self._refuse(
                f"price_per_flop {self.value:g} must be a finite number of at least 0: it is what a FLOP costs when a "
                "right answer is worth 1",
                "OBJECTIVE_OUT_OF_RANGE",
            )

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        return _worth(policy, weights, self.value, "flops")

    def good_of_many(self, policy: Measurements, weights: "NDArray[np.float64]") -> "NDArray[np.bool_]":
        return at_price(policy, weights, self.value, "flops")


_OBJECTIVES: dict[str, type[Any]] = {}
OBJECTIVES: Mapping[str, type[Any]] = _OBJECTIVES  # by kind


def register(*kinds: type[Any]) -> None:
    """Make objectives known to commands, files and the service."""
    for kind in kinds:
        _OBJECTIVES[kind.kind] = kind


register(Budget, AverageBudget, TargetAccuracy, PricePerFlop)


def objective_of(kind: str, value: float) -> Objective:
    """Return the objective of this kind and value. Raises InvalidRequest where there is no such kind."""
    if kind not in OBJECTIVES:
        raise InvalidRequest(
            "objective", f"unknown objective {kind!r}; known: {', '.join(OBJECTIVES)}", reason="OBJECTIVE_OUT_OF_RANGE"
        )
    found: Objective = OBJECTIVES[kind](value)
    return found


def parse_objective(text: str) -> Objective:
    """Read ``average_budget=4``. Raises InvalidRequest."""
    kind, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InvalidRequest(
            "objective",
            f"can't read objective {text!r}; write one of {', '.join(f'{known}=…' for known in OBJECTIVES)}",
            reason="OBJECTIVE_OUT_OF_RANGE",
        )
    return objective_of(kind.strip().replace("-", "_"), number)


def parts(policy: Measurements, objective: Objective) -> list[tuple[float, Objective]]:
    """Return how the prompts under an objective are decided: shares of them, with the objective of each share."""
    return [*objective.parts(policy)] if isinstance(objective, AverageBudget) else [(1.0, objective)]


def mostly(policy: Measurements, objective: Objective) -> Objective:
    """Return the objective of the largest share."""
    return max(parts(policy, objective), key=lambda part: part[0])[1]


def at_price(policy: Measurements, weights: "NDArray[np.float64]", price: float, spent: str) -> "NDArray[np.bool_]":
    """(n, arms) which arms are best where a unit of ``spent`` costs ``price`` right answers."""
    return _best_of_many(policy.expected("accuracy", weights) - price * policy.expected(spent, weights))


def _worth(policy: Measurements, weights: Sequence[float], price: float, spent: str) -> list[int]:
    pairs = zip(policy.expected("accuracy", weights), policy.expected(spent, weights), strict=True)
    return _best([gain - price * cost for gain, cost in pairs])


def _best(worth: Sequence[float], tolerance: float = 0.0) -> list[int]:
    """Return the indices of the largest values, up to the tolerance."""
    least = max(worth) - tolerance - ROUNDING
    return [i for i, each in enumerate(worth) if each >= least]


def _best_of_many(worth: "NDArray[np.float64]", tolerance: float = 0.0) -> "NDArray[np.bool_]":
    found: NDArray[np.bool_] = worth >= worth.max(axis=1, keepdims=True) - tolerance - ROUNDING
    return found
