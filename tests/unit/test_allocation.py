"""One budget over many prompts: the best by exhaustive search at what is spent, and never more than was given."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.allocation import Ladders, undominated


@st.composite
def problems(draw):
    """(accuracy, cost) of up to four prompts with up to four arms."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    numbers = st.integers(0, 20).map(lambda n: n / 20)
    accuracy = draw(st.lists(numbers, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    cost = draw(st.lists(st.integers(1, 16), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(accuracy).reshape(shape), np.array(cost, dtype=float).reshape(shape)


def totals(table, columns):
    return float(table[np.arange(len(table)), columns].sum())


@given(problems(), st.floats(0, 80))
def test_the_choice_spends_no_more_than_the_budget_and_leaves_less_than_a_step(problem, extra):
    accuracy, cost = problem
    ladders = Ladders.of(accuracy, cost)
    budget = ladders.base.sum() + extra
    columns = ladders.choose(budget)
    assert totals(cost, columns) <= budget + 1e-6
    top = ladders.choose(np.inf)
    if (columns != top).any():
        assert budget - totals(cost, columns) < ladders.cost.max()


@given(problems(), st.floats(0, 80))
def test_nothing_is_more_accurate_than_the_hull_allows(problem, extra):
    """The best of all choices within the budget is at most one step's gain ahead, the bound of the greedy choice."""
    accuracy, cost = problem
    ladders = Ladders.of(accuracy, cost)
    budget = ladders.base.sum() + extra
    every = itertools.product(range(accuracy.shape[1]), repeat=len(accuracy))
    best = max(totals(accuracy, list(each)) for each in every if totals(cost, list(each)) <= budget + 1e-9)
    columns = ladders.choose(budget)
    assert best - totals(accuracy, columns) <= np.ptp(accuracy, axis=1).max() + 1e-9


def test_steps_are_taken_in_the_order_of_what_a_unit_buys():
    accuracy = np.array([[0.5, 0.9, 0.95], [0.1, 0.2, 0.8]])
    cost = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    ladders = Ladders.of(accuracy, cost)
    # The second prompt's middle arm lies below the line from its first to its last: 0.7 for 3.
    assert [ladders.choose(budget).tolist() for budget in (2, 3, 5, 6, 8)] == [[0, 0], [1, 0], [2, 0], [1, 2], [2, 2]]


def test_what_is_left_goes_to_steps_that_still_fit():
    accuracy, cost = np.array([[0.0, 0.9], [0.0, 0.1]]), np.array([[1.0, 9.0], [1.0, 2.0]])
    assert Ladders.of(accuracy, cost).choose(4.0).tolist() == [0, 1]


def test_a_step_is_not_taken_without_the_one_before():
    accuracy, cost = np.array([[0.0, 0.8, 0.9]]), np.array([[1.0, 9.0, 10.0]])
    assert Ladders.of(accuracy, cost).choose(5.0).tolist() == [0]


def test_prompts_that_are_not_among_them_get_nothing():
    accuracy, cost = np.array([[0.0, 0.9], [0.0, 0.9]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    assert Ladders.of(accuracy, cost).choose(10.0, np.array([False, True])).tolist() == [0, 1]


def test_less_than_the_cheapest_arms_cost_buys_just_those():
    accuracy, cost = np.array([[0.0, 0.9]] * 3), np.array([[1.0, 2.0]] * 3)
    assert Ladders.of(accuracy, cost).choose(-5.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e15])
def test_the_unit_of_the_cost_does_not_matter(scale):
    accuracy, cost = np.array([[0.5, 0.9, 0.95], [0.1, 0.2, 0.8]]), np.array([[1.0, 2.0, 4.0]] * 2)
    chosen = [Ladders.of(accuracy, cost * scale).choose(budget * scale).tolist() for budget in (3, 5, 6)]
    assert chosen == [[1, 0], [2, 0], [1, 2]]


@given(problems(), st.floats(0, 80))
def test_arms_that_another_beats_at_every_level_are_on_nobodys_hull(problem, extra):
    accuracy, cost = problem
    kept = undominated(accuracy, cost)
    weights = np.array([[1.0, *[0.0] * (len(cost) - 1)], [1 / len(cost)] * len(cost)])
    whole = Ladders.of(weights @ accuracy, weights @ cost)
    fewer = Ladders.among(kept, (weights @ accuracy)[:, kept], (weights @ cost)[:, kept])
    budget = whole.base.sum() + extra
    assert fewer.base.sum() == pytest.approx(whole.base.sum())
    chosen = [totals(weights @ accuracy, each.choose(budget)) for each in (whole, fewer)]
    assert chosen[0] == pytest.approx(chosen[1])
