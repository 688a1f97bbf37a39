"""An objective of one's own is a class and a line: one prompt and many are decided alike, files and text name it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backends import Engines
from router.bundle.bundle import load_bundle
from router.errors import InvalidBundle, InvalidRequest
from router.policy import objectives
from router.policy.objectives import Budget, Measurements, objective_of, parse_objective, register
from router.policy.table import LEVELS, Cell, Cost, Policy
from router.prompt import Prompt
from router.service import conversion
from router.solving.request import Request
from router.solving.solver import Solver
from strategies import Strategy, parse


@dataclass(frozen=True, slots=True)
class Regret:
    """Any arm whose accuracy is at most ``value`` below the best one's: the cheapest of them."""

    value: float

    kind: ClassVar[str] = "regret"

    def check(self, policy: Measurements) -> None:
        if not 0 <= self.value < 1:
            raise InvalidRequest("objective.regret", "regret is 0 to 1", reason="OBJECTIVE_OUT_OF_RANGE")

    def good(self, policy: Measurements, weights: Sequence[float]) -> list[int]:
        accuracy = policy.expected("accuracy", weights)
        return [i for i, each in enumerate(accuracy) if each >= max(accuracy) - self.value - objectives.ROUNDING]

    def good_of_many(self, policy: Measurements, weights: Any) -> Any:
        accuracy = policy.expected("accuracy", weights)
        return accuracy >= accuracy.max(axis=1, keepdims=True) - self.value - objectives.ROUNDING

    def sufficient(self, low: float) -> bool:
        return low > 0.3

    def runs(self, arm: Strategy) -> Strategy:
        return arm

    def reached(self, confidence: float | None) -> bool:
        return True


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(Regret)
    yield
    del objectives._OBJECTIVES["regret"]


ARMS = [parse(arm) for arm in ("single", "majority(n=4)", "best_of_n(n=8)", "beam_search(n=16, m=4)")]


def policy(default=None, seed=0) -> Policy:
    rng = np.random.default_rng(seed)
    cells = [
        Cell(level, arm, accuracy, accuracy / 2, 1, 60, Cost(arm.budget(), 10, 20, 0, float(rng.integers(1, 4)), 0))
        for level in LEVELS
        for arm, accuracy in zip(ARMS, np.round(rng.random(len(ARMS)), 2).tolist(), strict=True)
    ]
    return Policy(cells, default or Budget(4))


def test_text_and_names_know_it():
    assert parse_objective("regret=0.05") == objective_of("regret", 0.05) == Regret(0.05)
    with pytest.raises(InvalidRequest, match=r"write one of .*regret=…"):
        parse_objective("regret")


@given(
    probabilities=st.lists(st.lists(st.floats(0.01, 1), min_size=5, max_size=5), min_size=1, max_size=20),
    value=st.sampled_from([0.0, 0.05, 0.3, 0.99]),
    seed=st.integers(0, 50),
)
def test_one_prompt_and_many_are_decided_alike(probabilities, value, seed):
    table, objective = policy(seed=seed), Regret(value)
    weights = np.array(probabilities) / np.sum(probabilities, axis=1, keepdims=True)
    alone = [table.decide(row, objective).arm for row in weights.tolist()]
    assert [table.arms[i] for i in table.decide_many(weights, objective)] == alone
    for row, arm in zip(weights, alone, strict=True):
        accuracy = dict(
            zip(table.arms, row @ [[cell.accuracy for cell in cells] for cells in by_level(table)], strict=True)
        )
        assert accuracy[arm] >= max(accuracy.values()) - value - 1e-6


def by_level(table: Policy) -> list[list[Cell]]:
    return [[cell for cell in table.cells if cell.level == level] for level in LEVELS]


def test_it_decides_and_says_whether_that_is_enough():
    table = policy()
    assert {table.decide(row, Regret(0.999)).arm for row in np.eye(5).tolist()} != {
        table.decide(row, Regret(0.0)).arm for row in np.eye(5).tolist()
    }
    found = table.decide(np.eye(5)[0].tolist(), Regret(0.0))
    assert found.sufficient == (found.low > 0.3)
    with pytest.raises(InvalidRequest, match="regret is 0 to 1") as raised:
        table.decide(np.eye(5)[0].tolist(), Regret(2))
    assert raised.value.field == "objective.regret"


def test_a_policy_may_have_it_for_a_default_and_keeps_it():
    table = policy(Regret(0.1))
    assert Policy.loads(table.dumps()).default == Regret(0.1)
    with pytest.raises(InvalidBundle, match="default objective: regret is 0 to 1"):
        policy(Regret(1.5))


async def test_a_solver_decides_for_it_also_where_the_contract_does_not_know_it(bundle_folder, generator, verifier):
    bundle = load_bundle(bundle_folder)
    bundle = replace(bundle, policy=bundle.policy.with_default(Regret(0.2)))
    solver = Solver(bundle, Engines({"small": generator}, "small", verifier))
    for asked in (None, Regret(0.0)):
        decision = await solver.decide(Request(Prompt.of("7 + 7 ="), asked))
        assert decision.objective == (asked or Regret(0.2))
    message = conversion.served(bundle, solver.policy)
    assert not message.HasField("default_objective")
    assert len(message.cells) == len(bundle.policy.cells)
