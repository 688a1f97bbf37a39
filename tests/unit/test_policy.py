"""One table, four objectives."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from router.errors import InvalidBundle, InvalidRequest
from router.policy.objectives import (
    OBJECTIVES,
    AverageBudget,
    Budget,
    BudgetPoint,
    Objective,
    PricePerFlop,
    TargetAccuracy,
    at_price,
    objective_of,
    parse_objective,
)
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse

ARMS = ("majority(n=1)", "majority(n=4)", "beam_search(n=16, m=4)")
EASY, HARD = np.eye(5)[0], np.eye(5)[4]
# Level 1 gains nothing by spending, level 5 much; those between lie between.
ACCURACY = {1: (0.9, 0.9, 0.9), 2: (0.8, 0.84, 0.86), 3: (0.6, 0.7, 0.75), 4: (0.4, 0.5, 0.6), 5: (0.1, 0.2, 0.5)}
DEFAULT = Budget(16)
POINTS = [BudgetPoint(1.0, 1.0), BudgetPoint(5.0, 0.02), BudgetPoint(9.0, 0.001)]


def cells(margin=0.05):
    return [
        Cell(
            level,
            parse(arm),
            accuracy,
            accuracy - margin,
            accuracy + margin,
            60,
            Cost(parse(arm).budget(), 10, 20 * parse(arm).budget(), 0, 100 * parse(arm).budget(), 0),
        )
        for level in LEVELS
        for arm, accuracy in zip(ARMS, ACCURACY[level], strict=True)
    ]


def policy(**options):
    return Policy(cells(), DEFAULT, **{"budget_points": POINTS, **options})


def chosen(policy, probabilities, kind, value):
    return str(policy.decide(probabilities, objective_of(kind, value)).arm)


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
        replace(cell, accuracy=rng.random(), low=rng.random(), cost=replace(cell.cost, generations=rng.random()))
        for cell in cells()
    ]
    table = Policy(measured, DEFAULT, budget_points=POINTS, deciding=deciding, tolerance=0.05)

    def alone(objective):
        return [table.arms.index(table.decide(row, objective).arm) for row in probabilities.tolist()]

    objectives: list[Objective] = [
        *[Budget(budget) for budget in (1, 4, 16)],
        *[AverageBudget(point.generations) for point in POINTS],
        *[TargetAccuracy(target) for target in (0.1, 0.5, 0.9)],
        *[PricePerFlop(price) for price in (0, 1e-5, 1e-3)],
    ]
    assert {objective.kind for objective in objectives} == set(OBJECTIVES)
    for objective in objectives:
        assert table.decide_many(probabilities, objective).tolist() == alone(objective), str(objective)


def test_of_arms_that_measured_the_same_the_cheapest_wins_then_the_first_by_name():
    arms = [parse(arm) for arm in ("weighted_best_of_n(n=2)", "best_of_n(n=8)", "majority(n=8)", "best_of_n(n=16)")]
    flops = dict(zip(arms, (100, 50, 50, 80), strict=True))
    same = [Cell(level, arm, 0.5, 0.4, 0.6, 60, Cost(1, 1, 1, 0, flops[arm], 0)) for level in LEVELS for arm in arms]
    table = Policy(same, DEFAULT, budget_points=POINTS)
    for kind, value in (("budget", 16), ("average_budget", 4), ("target_accuracy", 0.9), ("target_accuracy", 0.4)):
        assert chosen(table, EASY, kind, value) == "best_of_n(n=8)"
        (column,) = table.decide_many(EASY[None], objective_of(kind, value))
        assert str(table.arms[column]) == "best_of_n(n=8)"


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
        arms = table.cheapest_of_many(probabilities, at_price(table, probabilities, price, "generations"))
        spends.append(np.mean([table.arms[i].budget() for i in arms]))
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
        policy().decide(EASY, objective_of(kind, value))
    assert (raised.value.field, raised.value.reason) == (f"objective.{kind}", reason)


def test_a_policy_is_read_as_it_was_written():
    written = policy(deciding="mode", tolerance=0.01)
    read = Policy.loads(written.dumps())
    assert (read.cells, read.budget_points, read.default) == (written.cells, written.budget_points, written.default)
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
        (lambda: Policy(cells(), AverageBudget(4)), "average_budget 4: in this policy no average budget was tuned"),
        (lambda: Policy.loads("[]"), "policy: "),
        (lambda: Policy.loads("{"), "policy: "),
        (lambda: Policy.loads(policy().dumps().replace('"low"', '"lo"')), r"cells\.0\.low: is missing"),
        (lambda: Policy.loads(policy().dumps().replace("majority", "plurality")), "unknown strategy"),
        (lambda: Policy.loads(policy().dumps().replace('{"budget"', '{"colour"')), "unknown objective 'colour'"),
        (lambda: Policy.loads(policy().dumps().replace('"price"', '"prize"')), r"budget_points\.0\.price: is missing"),
        (
            lambda: Policy.loads(policy().dumps().replace('"accuracy": 0.84', '"accuracy": "good"')),
            "number, found 'good'",
        ),
        (lambda: Policy.loads(policy().dumps().replace('"accuracy": 0.84', '"accuracy": 1.84')), "to 1, found 1.84"),
        (lambda: Policy.loads(policy().dumps().replace('"accuracy": 0.84', '"accuracy": NaN')), "NaN is not a number"),
        (lambda: Policy.loads(policy().dumps().replace('"scored_tokens": 0', '"scored_tokens": null')), "found None"),
        (lambda: Policy.loads(policy().dumps().replace('"price": 0.02', '"price": "low"')), "found 'low'"),
        (lambda: Policy.loads(policy().dumps().replace('"level": 1', '"level": 6')), r"level: .* found 6"),
    ],
)
def test_a_bad_policy_is_refused(make, message):
    with pytest.raises(InvalidBundle, match=message):
        make()


def test_without_some_arms_the_rest_decides():
    table = policy(worth={"small": 1.0, "large": 3.0}).with_default(Budget(4))
    rest = table.only(lambda arm: arm.name == "majority")
    assert [str(arm) for arm in rest.arms] == ["majority(n=1)", "majority(n=4)"]
    assert (rest.budget_points, rest.worth) == (table.budget_points, table.worth)
    assert str(rest.decide(HARD, Budget(4)).arm) == "majority(n=4)"
    assert table.only(lambda arm: True) is table
    assert table.only(lambda arm: False) is None
    with pytest.raises(InvalidBundle, match="default objective: budget 16 is outside this policy's 1 to 4"):
        policy().only(lambda arm: arm.name == "majority")


def test_an_arm_of_another_model_counts_what_its_solutions_are_worth():
    arms = [parse(arm) for arm in ("single(model=large)", "majority(n=4)")]
    measured = [
        Cell(level, arm, accuracy, accuracy, accuracy, 60, Cost(1, 1, 1, 0, 1, 0))
        for level in LEVELS
        for arm, accuracy in zip(arms, (0.9, 0.5), strict=True)
    ]
    table = Policy(measured, Budget(4), worth={"small": 1.0, "large": 12.0})
    assert table.budgets == [4, 12]
    assert str(table.decide(EASY, Budget(11)).arm) == "majority(n=4)"
    assert str(table.decide(EASY, Budget(12)).arm) == "single(model=large)"


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("budget=16", Budget(16)),
        ("average_budget=4.5", AverageBudget(4.5)),
        ("average-budget=4", AverageBudget(4)),
        (" target_accuracy = 0.9", TargetAccuracy(0.9)),
        ("price_per_flop=1e-13", PricePerFlop(1e-13)),
    ],
)
def test_an_objective_is_read_from_text(text, objective):
    assert parse_objective(text) == objective == parse_objective(str(objective))


@pytest.mark.parametrize("text", ["", "16", "budget", "budget=", "budget=many", "budget=nan", "colour=3"])
def test_a_text_that_is_no_objective_says_which_there_are(text):
    with pytest.raises(InvalidRequest, match="target_accuracy") as raised:
        parse_objective(text)
    assert raised.value.field == "objective"


def test_between_two_budget_points_a_share_of_the_prompts_pays_the_upper_price():
    """At 2 solutions on average, a quarter of the way from the point at 1 to the point at 5, a quarter does."""
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(2000)]
    arms = Counter(policy().decide(HARD, AverageBudget(2).drawn_by(digest)).arm for digest in digests)
    assert set(arms) == {parse(ARMS[0]), parse(ARMS[2])}
    assert arms[parse(ARMS[2])] / len(digests) == pytest.approx(0.25, abs=0.03)
    again = AverageBudget(2).drawn_by(digests[0])
    assert len({policy().decide(HARD, again).arm for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("budget", "factor", "shares"),
    [(1, 1, [1]), (2, 1, [0.75, 0.25]), (5, 1, [1]), (1, 2, [0.75, 0.25]), (5, 0.1, [1]), (100, 1, [1])],
)
def test_shares_of_the_points_around_an_average_budget(budget, factor, shares):
    """``factor`` is what a server corrects a budget by."""
    parts = AverageBudget(budget, factor).parts(policy())
    assert [share for share, _ in parts] == shares
    prices = [str(policy().decide(HARD, part).arm) for _, part in parts]
    assert len(set(prices)) == len(parts)
