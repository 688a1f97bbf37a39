"""A limit on seconds beside an objective: measured at collect, replayed, tuned, decided."""

from dataclasses import replace

import numpy as np
import pytest

from router.errors import InvalidRequest
from router.policy.objectives import AverageBudget, Budget, BudgetPoint, PricePerFlop, TargetAccuracy
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse
from strategies.replaying.cascades import in_turn
from strategies.replaying.records import Pool, Recorded, Runs, Seen

ARMS = {
    "single": (0.5, 2.0),
    "majority(n=4)": (0.6, 3.0),
    "beam_search(n=4, m=4)": (0.7, 9.0),
    "majority(n=16)": (0.8, 8.0),
}
SURE = (0.0, 0.0, 1.0, 0.0, 0.0)


def policy(**seconds: float | None) -> Policy:
    """``seconds`` by strategy, other than those of ARMS."""
    cells = []
    for level in LEVELS:
        for text, (accuracy, measured) in ARMS.items():
            arm = parse(text)
            cost = Cost(arm.budget(), 1, 1, 1, arm.budget(), 0, seconds=seconds.get(arm.name, measured))
            cells.append(Cell(level, arm, accuracy, accuracy - 0.1, 1, 10, cost))
    return Policy(cells, Budget(4), budget_points=[BudgetPoint(1, 1.0), BudgetPoint(4, 0.001)])


@pytest.mark.parametrize(
    ("objective", "limit", "arm"),
    [
        (Budget(16), 100, "majority(n=16)"),
        (Budget(16), 8.5, "majority(n=16)"),
        (Budget(16), 5, "majority(n=4)"),
        (Budget(4), 8.5, "majority(n=4)"),
        (AverageBudget(4), 5, "majority(n=4)"),
        (TargetAccuracy(0.65), 8.5, "majority(n=16)"),
        (TargetAccuracy(0.65), 5, "majority(n=4)"),  # the nearest that is fast enough
        (PricePerFlop(0), 2.5, "single"),
    ],
)
def test_arms_that_take_longer_are_left_out(objective, limit, arm):
    found = policy().decide(SURE, objective, limit)
    assert (str(found.arm), found.in_time) == (arm, True)


def test_where_every_arm_takes_longer_it_is_the_fastest_and_said():
    found = policy(single=4.0).decide(SURE, Budget(16), 1)
    assert (str(found.arm), found.in_time) == ("majority(n=4)", False)


def test_a_budget_bounds_what_is_fastest():
    found = policy(single=4.0).decide(SURE, Budget(1), 1)
    assert (str(found.arm), found.in_time) == ("single", False)


def test_the_seconds_of_a_mixed_prompt_are_those_of_its_levels():
    cells = [
        replace(cell, cost=replace(cell.cost, seconds=float(cell.level)))
        for cell in policy().cells
        if cell.arm == parse("single")
    ]
    table = Policy(cells, Budget(1))
    assert table.decide((0.5, 0, 0, 0, 0.5), Budget(1), 3.1).in_time
    assert not table.decide((0.5, 0, 0, 0, 0.5), Budget(1), 2.9).in_time
    assert table.decide((0.5, 0, 0, 0, 0.5), Budget(1)).cost.seconds == pytest.approx(3)


def test_an_arm_whose_seconds_are_not_known_is_left_out():
    assert str(policy(beam_search=None).decide(SURE, Budget(4), 100).arm) == "majority(n=4)"


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_a_clear_error(limit):
    with pytest.raises(InvalidRequest, match="must be above 0 and finite") as raised:
        policy().decide(SURE, Budget(4), limit)
    assert (raised.value.field, raised.value.reason) == ("objective.max_seconds", "OBJECTIVE_OUT_OF_RANGE")


def test_a_bundle_without_seconds_says_the_way_out():
    table = policy(single=None, majority=None, beam_search=None)
    with pytest.raises(InvalidRequest, match="`router time`; or leave max_seconds out") as raised:
        table.decide(SURE, Budget(4), 5)
    assert raised.value.reason == "SECONDS_NOT_MEASURED"


def test_a_policy_file_keeps_seconds_and_goes_without():
    read = Policy.loads(policy(single=None).dumps())
    assert read.cells == policy(single=None).cells
    assert '"seconds": null' not in policy(single=None).dumps()


def recorded(seconds: float) -> Recorded:
    answers = ["1"] * 6 + ["2"] * 2
    one, order = np.ones(8), np.arange(8)[None]
    runs = Runs(one[:1], {None: one[:1]}, {None: one[:1]}, one[:1], seen(0.2), one[:1], seconds=np.array([3.0]))
    pool = Pool(answers, one, one, one, one, one, order, seconds)
    return Recorded({None: pool}, {"single": runs})


def seen(score: float) -> Seen:
    return Seen.of(np.array([1]), np.array([score]), np.array([np.nan]))


def test_a_vote_takes_as_long_as_its_pool_each_round():
    assert parse("majority(n=8)").replay(recorded(2.0)).seconds == pytest.approx([2.0])
    early = parse("majority(n=8, stop=0.8)").replay(recorded(2.0))
    assert early.seconds == pytest.approx([2.0])  # the first four agree
    assert parse("majority(n=8)").replay(recorded(float("nan"))).seconds is None


@pytest.mark.parametrize(
    ("arm", "seconds"),
    [
        ("majority(n=1)", 0.6),
        ("majority(n=8)", 2.0),
        ("majority(n=4)", 0.6 + 3 / 7 * 1.4),
        ("majority(n=8, stop=0.95)", 0.6 + 3 / 7 * 1.4),  # the first four agree
    ],
)
def test_fewer_samples_take_between_one_solution_and_the_whole_pool(arm, seconds):
    known = recorded(2.0)
    timed = replace(known, pools={None: replace(known.pools[None], alone=0.6)})
    assert parse(arm).replay(timed).seconds.mean() == pytest.approx(seconds)


def test_each_round_takes_as_long_as_the_samples_that_it_adds():
    pool = replace(recorded(2.0).pools[None], alone=0.6, order=np.array([[0, 6, 1, 2, 3, 4, 5, 7]]))
    early = parse("majority(n=8, stop=0.8)").replay(Recorded({None: pool}, {}))
    assert early.seconds == pytest.approx([2 * 0.8])  # two differ, two more decide


@pytest.mark.parametrize(("score", "seconds"), [(0.2, 3.0 + 2.0), (0.9, 3.0)])
def test_a_cascade_takes_as_long_as_the_stages_that_ran(score, seconds):
    known = recorded(2.0)
    first = replace(known.runs["single"], seen=seen(score))
    second = replace(first, seconds=np.array([2.0]))
    arms = [parse("single"), parse("majority(n=4)")]
    found = in_turn(arms, [first, second], [0.5], {})
    assert found is not None
    assert found.seconds == pytest.approx([seconds])
    unknown = in_turn(arms, [first, replace(second, seconds=None)], [0.5], {})
    assert unknown is not None
    assert unknown.seconds is None
