"""Which arms cascades are made of."""

from collections.abc import Sequence

import numpy as np
import pytest

from router.tuning.cascades import ATOMS, Replays, atoms
from strategies import BestOfN, Majority, Strategy


class Asked(Replays):
    """Says which arms were scored, and remembers who was asked for."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[Strategy] = []

    def gives_confidence(self, arm: Strategy) -> bool:
        self.asked.append(arm)
        return isinstance(arm, BestOfN)


def made_of(points: Sequence[tuple[Strategy, float, float]], replays: Replays | None = None) -> list[Strategy]:
    """``points``: arms with their accuracy and generations."""
    arms, accuracy, spent = zip(*points, strict=True)
    return atoms(arms, np.array([accuracy]), np.array([spent]), replays or Asked())


def test_arms_come_by_rising_cost():
    assert made_of([(BestOfN(4), 0.6, 4), (BestOfN(1), 0.2, 1), (BestOfN(2), 0.5, 2)]) == list(map(BestOfN, (1, 2, 4)))


@pytest.mark.parametrize(("accuracy", "taken"), [(0.7, True), (0.5, False)])
def test_an_arm_that_nothing_scored_takes_part_where_it_is_more_accurate_than_all_cheaper_ones(accuracy, taken):
    found = made_of([(BestOfN(1), 0.2, 1), (BestOfN(2), 0.5, 2), (Majority(8), accuracy, 8)])
    assert (Majority(8) in found) == taken


def test_of_two_such_arms_the_more_accurate_one_takes_part():
    found = made_of([(BestOfN(1), 0.2, 1), (Majority(4), 0.5, 4), (Majority(8), 0.6, 8)])
    assert found == [BestOfN(1), Majority(8)]


def test_arms_that_do_not_matter_are_not_replayed():
    good = [(BestOfN(n), 1 - 1 / (n + 1), float(n)) for n in range(1, 2 * ATOMS)]
    bad = [(BestOfN(n), 0.1, float(n)) for n in range(50, 80)]
    replays = Asked()
    assert len(made_of([*good, *bad], replays)) == ATOMS
    assert not set(replays.asked) & {arm for arm, _, _ in bad}
