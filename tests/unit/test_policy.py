"""One table, four objectives."""

from dataclasses import replace

import numpy as np
import pytest
from router.policy.arrays import Choices

from router.errors import InvalidBundle, InvalidRequest
from router.policy.objectives import AverageBudget, Budget, TargetAccuracy
from router.policy.table import LEVELS, Cell, Cost, Policy, Rung
from strategies import parse

ARMS = ("majority(n=1)", "majority(n=4)", "beam_search(n=16, m=4)")
EASY, HARD = np.eye(5)[0], np.eye(5)[4]
# Level 1 gains nothing by spending, level 5 much; those between lie between.
ACCURACY = {1: (0.9, 0.9, 0.9), 2: (0.8, 0.84, 0.86), 3: (0.6, 0.7, 0.75), 4: (0.4, 0.5, 0.6), 5: (0.1, 0.2, 0.5)}
DEFAULT = Budget(16)
LADDER = [Rung(1.0, 1.0), Rung(5.0, 0.02), Rung(9.0, 0.001)]


def cells(margin=0.05):
    return [
        Cell(
            level,
            parse(arm),
            accuracy,
            accuracy - margin,
            accuracy + margin,
            60,
            Cost(parse(arm).budget, 10, 20 * parse(arm).budget, 0, 100 * parse(arm).budget, 0),
        )
        for level in LEVELS
        for arm, accuracy in zip(ARMS, ACCURACY[level], strict=True)
    ]


def policy(**options):
    return Policy(cells(), DEFAULT, **{"ladder": LADDER, **options})


def chosen(policy, probabilities, kind, value):
    return str(policy.decide(probabilities, Objective(kind, value)).arm)


@pytest.mark.parametrize(
    ("kind", "value", "easy", "hard"),
    [
        ("budget", 1, 0, 0),
        ("budget", 15, 0, 1),  # equally accurate: the cheapest
        ("budget", 16, 0, 2),
        ("average_budget", 1, 0, 0),
        ("average_budget", 5, 0, 2),  # at 0.02 a generation, 0.4 more is worth 15 generations
        ("target_accuracy", 0.4, 0, 2),
        ("target_accuracy", 0.1, 0, 1),
        ("price_per_flop", 0, 0, 2),
        ("price_per_flop", 2e-4, 0, 2),
        ("price_per_flop", 1e-3, 0, 0),
    ],
)
def test_each_objective_takes_its_arm(kind, value, easy, hard):
    found = [chosen(policy(), level, kind, value) for level in (EASY, HARD)]
    assert found == [str(parse(ARMS[easy])), str(parse(ARMS[hard]))]


@pytest.mark.parametrize("deciding", ["mode", "distribution"])
def test_many_prompts_are_decided_as_each_alone(deciding):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=200)
    measured = [
        replace(cell, accuracy=rng.random(), cost=replace(cell.cost, generations=rng.random())) for cell in cells()
    ]
    table = Policy(measured, DEFAULT, ladder=LADDER, deciding=deciding, tolerance=0.05)

    def alone(kind, value):
        return [table.arms.index(table.decide(row, Objective(kind, value)).arm) for row in probabilities.tolist()]

    for budget in (1, 4, 16):
        assert Choices(table).within(budget, probabilities).tolist() == alone("budget", budget)
    for rung in LADDER:
        assert Choices(table).at_price(rung.price, probabilities).tolist() == alone("average_budget", rung.generations)


def test_of_arms_that_measured_the_same_the_cheapest_wins_then_the_first_by_name():
    arms = [parse(arm) for arm in ("weighted_best_of_n(n=2)", "best_of_n(n=8)", "majority(n=8)", "best_of_n(n=16)")]
    flops = dict(zip(arms, (100, 50, 50, 80), strict=True))
    same = [Cell(level, arm, 0.5, 0.4, 0.6, 60, Cost(1, 1, 1, 0, flops[arm], 0)) for level in LEVELS for arm in arms]
    table = Policy(same, DEFAULT, ladder=LADDER)
    for kind, value in (("budget", 16), ("average_budget", 4), ("target_accuracy", 0.9), ("target_accuracy", 0.4)):
        assert chosen(table, EASY, kind, value) == "best_of_n(n=8)"
    for columns in (Choices(table).within(16, EASY[None]), Choices(table).at_price(1.0, EASY[None])):
        assert [str(table.arms[column]) for column in columns] == ["best_of_n(n=8)"]


def test_the_whole_distribution_decides_unless_the_mode_measured_better():
    torn = [0.4, 0, 0, 0.3, 0.3]  # likeliest easy, probably hard
    assert chosen(policy(), torn, "budget", 16) == "beam_search(n=16, m=4)"
    assert chosen(policy(deciding="mode"), torn, "budget", 16) == "majority(n=1)"
    promised = policy().decide(torn, DEFAULT)
    assert promised.accuracy == pytest.approx(0.4 * 0.9 + 0.3 * 0.6 + 0.3 * 0.5)
    assert promised.cost.generations == pytest.approx(16)


def test_accuracies_within_the_tolerance_are_a_tie():
    assert chosen(policy(tolerance=0.0), np.eye(5)[1], "budget", 16) == "beam_search(n=16, m=4)"
    assert chosen(policy(tolerance=0.03), np.eye(5)[1], "budget", 16) == "majority(n=4)"


def test_a_target_out_of_reach_is_insufficient_evidence_and_takes_the_surest_arm():
    found = policy().decide(HARD, TargetAccuracy(0.48))  # measured at 0.5, known to be 0.45
    assert (found.sufficient, str(found.arm)) == (False, "beam_search(n=16, m=4)")
    assert policy().decide(HARD, TargetAccuracy(0.45)).sufficient
    assert policy().decide(HARD, DEFAULT).sufficient


def test_a_price_is_the_hull_of_accuracy_and_spend():
    """As the price falls, spend and accuracy rise together."""
    probabilities = np.random.default_rng(1).dirichlet(np.ones(5), size=200)
    table = policy()
    spends, worths = [], []
    for price in (1, 0.05, 0.02, 0.01, 0.001, 0):
        arms = Choices(table).at_price(price, probabilities)
        spends.append(np.mean([table.arms[i].budget for i in arms]))
        accuracy = probabilities @ np.array([ACCURACY[level] for level in LEVELS])
        order = [ARMS.index(str(arm)) for arm in table.arms]
        worths.append(accuracy[np.arange(200), [order[i] for i in arms]].mean())
    assert spends == sorted(spends)
    assert worths == sorted(worths)
    assert spends[0] < spends[-1]


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("budget", 0, "BUDGET_OUT_OF_RANGE"),
        ("budget", 17, "BUDGET_OUT_OF_RANGE"),
        ("average_budget", 0.9, "BUDGET_OUT_OF_RANGE"),
        ("average_budget", float("nan"), "BUDGET_OUT_OF_RANGE"),
        ("target_accuracy", 0, "OBJECTIVE_OUT_OF_RANGE"),
        ("target_accuracy", 1.1, "OBJECTIVE_OUT_OF_RANGE"),
        ("price_per_flop", -1e-9, "OBJECTIVE_OUT_OF_RANGE"),
        ("price_per_flop", float("inf"), "OBJECTIVE_OUT_OF_RANGE"),
    ],
)
def test_an_objective_that_nothing_serves_is_refused(kind, value, reason):
    with pytest.raises(InvalidRequest) as raised:
        policy().decide(EASY, Objective(kind, value))
    assert (raised.value.field, raised.value.reason) == (kind, reason)


def test_a_policy_is_read_as_it_was_written():
    written = policy(deciding="mode", tolerance=0.01)
    read = Policy.loads(written.dumps())
    assert (read.cells, read.ladder, read.default) == (written.cells, written.ladder, written.default)
    assert (read.deciding, read.tolerance) == ("mode", 0.01)
    assert sum('"level"' in line for line in written.dumps().splitlines()) == 15  # a cell a line, for diffs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy(cells()[1:], DEFAULT), "exactly one cell"),
        (lambda: Policy([*cells(), cells()[0]], DEFAULT), "exactly one cell"),
        (lambda: Policy([], DEFAULT), "exactly one cell"),
        (lambda: policy(deciding="median"), "'median' is none of mode, distribution"),
        (lambda: Policy(cells(), Budget(64)), "default objective: budget 64 is outside"),
        (lambda: Policy(cells(), AverageBudget(4)), "average_budget 4: in this policy it is not tuned"),
        (lambda: Policy.loads("[]"), "expected exactly"),
        (lambda: Policy.loads(policy().dumps().replace('"low"', '"lo"')), "expected exactly"),
        (lambda: Policy.loads(policy().dumps().replace("majority", "plurality")), "unknown strategy"),
        (lambda: Policy.loads(policy().dumps().replace('{"budget"', '{"colour"')), "unknown objective 'colour'"),
        (lambda: Policy.loads(policy().dumps().replace('"price"', '"prize"')), "expected exactly"),
        (lambda: Policy.loads(policy().dumps().replace('"accuracy": 0.84', '"accuracy": "good"')), "to float: 'good'"),
        (lambda: Policy.loads(policy().dumps().replace('"scored_tokens": 0', '"scored_tokens": null')), "NoneType"),
        (lambda: Policy.loads(policy().dumps().replace('"price": 0.02', '"price": "low"')), "to float: 'low'"),
    ],
)
def test_a_bad_policy_is_refused(make, message):
    with pytest.raises(InvalidBundle, match=message):
        make()
