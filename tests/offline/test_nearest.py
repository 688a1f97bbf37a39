"""The best arm at similar prompts: chosen by a prompt's words, without levels."""

import numpy as np
import pytest

from router.errors import InvalidFile
from router.evaluation.evaluate import evaluate
from router.tuning.nearest import closest, nearest, similarities
from tests.support.evaluation import world

COLOURS = [f"What colour is the flower number {number}?" for number in range(30)]
SUMS = [f"Add {number} and {number + 7}, then halve." for number in range(30)]


def test_texts_of_the_same_words_are_similar():
    among, to = similarities([*COLOURS, *SUMS], ["Add 41 and 5, then halve.", "What colour is a rose?"])
    assert among.shape == (60, 60)
    assert (among.diagonal() == -1).all()
    assert among[0, 1:30].min() > among[0, 30:].max()
    assert [row.argmax() >= 30 for row in to] == [True, False]


@pytest.mark.parametrize(("amount", "of_sums"), [(1.0, 0), (10.0, 1)])
def test_an_arm_is_taken_where_it_was_best_and_the_price_allows_it(amount, of_sums):
    among, to = similarities([*COLOURS, *SUMS], [SUMS[3], COLOURS[3]])
    accuracy = np.array([[0.5, 0.5]] * 30 + [[0.2, 0.9]] * 30)
    spent = np.array([[1.0, 16.0]] * 60)
    assert nearest(accuracy, spent, closest(among), closest(to), amount).tolist() == [of_sums, 0]


def test_a_report_compares_with_similar_tuning_prompts_where_these_are_given(plain_bundle):
    report = evaluate(world("held"), plain_bundle, tuned_on=world("train", 20))
    assert report.averages
    for row in report.averages:
        way = row.ways["nearest_neighbours"]
        assert way.point.low <= way.point.accuracy <= way.point.high
        assert "nearest_neighbours" in row.gains
    without = evaluate(world("held"), plain_bundle)
    assert all("nearest_neighbours" not in row.ways for row in without.averages)
    assert all("nearest_neighbours" not in row.ways for row in without.at_flops)


def test_all_prompts_that_the_bundle_was_trained_on_are_needed(plain_bundle):
    tuned_on = world("train", 20)
    with pytest.raises(InvalidFile, match=r"--tuned-on lacks 1 of the 100 prompts .*'train-3-7'.*router tune"):
        evaluate(world("held"), plain_bundle, tuned_on=tuned_on[tuned_on["prompt_id"] != "train-3-7"])
