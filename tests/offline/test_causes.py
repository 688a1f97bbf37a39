"""What limits a missed goal, where everything that was measured is known."""

from dataclasses import replace

import numpy as np
import pytest

from router.evaluation.causes import AtCosts
from router.evaluation.curves import PerPrompt
from router.evaluation.goals import bins_off
from router.evaluation.parts import AtAverage, AtFlops, Estimate, Point, Trust, Way
from router.evaluation.report import Goal
from router.tuning.calibration import Bin


def point(accuracy, generations):
    return Point(accuracy, accuracy - 0.02, accuracy + 0.02, generations, 100 * generations)


def ways(**accuracies):
    return {name: Way("an arm", point(*numbers)) for name, numbers in accuracies.items()}


ROWS = (
    AtAverage(
        8.0,
        point(0.7, 8),
        point(0.7, 8),
        None,
        ways(best_fixed_arm=(0.6, 7), best_fixed_cascade=(0.66, 8), confidence_only=(0.68, 8)),
        {},
    ),
    AtFlops(
        1.0,
        point(0.8, 12),
        ways(best_fixed_cascade=(0.82, 11), confidence_only=(0.84, 12), larger_alone=(0.75, 12)),
        {"best_fixed_cascade": Estimate(-0.03, -0.05, -0.01)},
        0.94,
    ),
)


def costs(measured_levels):
    """``measured_levels``: accuracy of the policy on measured levels at 12 generations."""
    numbers = [(0.5, 4), (measured_levels, 12)]
    known = [PerPrompt(*(np.array([each], dtype=float) for each in (a, g, 100 * g))) for a, g in numbers]
    return AtCosts(ROWS, known, lambda flops: float(np.interp(flops, [0, 800, 1200], [0, 0.9, 0.94])))


@pytest.mark.parametrize(
    ("at_least", "measured_levels", "part"),
    [
        (0.83, 0.85, "estimator"),
        (0.83, 0.81, "policy"),  # confidence only reaches it
        (0.90, 0.81, "verifier"),  # right answers are there
        (0.95, 0.81, "generator"),
    ],
)
def test_an_accuracy_is_limited_by_what_would_not_reach_it_either(at_least, measured_levels, part):
    goal, figure = Goal("accuracy_at_larger_cost", at_least=at_least), {"value": 0.8, "low": 0.78, "high": 0.82}
    found, why = costs(measured_levels).limited(goal, figure, at_least - 0.8)
    assert found == part
    assert why == (
        f"an accuracy of {at_least:.3f} is wanted at 12 generations; the policy has 0.800; on measured levels it would "
        f"have {measured_levels:.3f}; of plainer ways most has “confidence only, no levels”, 0.840; a perfect choice "
        "among the attempts has 0.940"
    )


def test_a_gain_wants_what_the_other_way_has_and_more():
    goal, figure = Goal("gain_over_best_fixed", at_least=0.2), {"8": {"value": 0.1, "low": 0, "high": 0.2}, "16": None}
    part, why = costs(0.8).limited(goal, figure, 0.1)
    assert (part, "0.800 is wanted at 8 generations; the policy has 0.700" in why) == ("verifier", True)
    assert costs(0.8).limited(replace(goal, budget=16), figure, 0.1) is None
    assert costs(0.8).limited(goal, None, 0.1) is None  # no policy spends as much


def test_a_cost_wants_the_accuracy_of_the_larger_model_for_less():
    part, why = costs(0.9).limited(Goal("cost_of_larger_accuracy", at_most=0.5), None, 0)
    assert (part, "0.750 is wanted at 6 generations; on measured levels it would have 0.600" in why) == (
        "verifier",
        True,
    )
    figure = {"accuracy": 0.75, "flops": 1200}
    part, why = costs(0.9).limited(Goal("share_of_large_cost", at_most=0.9), figure, 0)
    assert (part, "0.750 is wanted at 1.08e+03 FLOPs" in why) == ("estimator", True)


def test_a_fixed_way_takes_no_mix_of_two_others():
    assert costs(0.8).accuracy("best_fixed_cascade", 10, "generations") == 0.66
    assert costs(0.8).accuracy("confidence_only", 10, "generations") == pytest.approx(0.76)
    assert costs(0.8).accuracy("best_fixed_arm", 6, "flops") is None


@pytest.mark.parametrize(("measured_levels", "part"), [(0.9, "estimator"), (0.8, "policy")])
def test_what_beats_the_policy_is_named_with_where_and_by_how_much(measured_levels, part):
    place = {"at": ROWS[1].name, "way": "best_fixed_cascade", "value": -0.03, "low": -0.05, "high": -0.01}
    found, why = costs(measured_levels).below([place])
    assert found == part
    assert "at 1 times the FLOPs the best fixed cascade is right on 0.820, and the policy beside it on 0.790" in why
    assert "-0.030 [-0.050, -0.010]" in why
    assert "knows no levels" in why


def test_bins_of_few_answers_are_not_held_against_the_confidences():
    bins = (Bin(99, 0.5, 0.9, 0.8, 0.95), Bin(100, 0.7, 0.9, 0.8, 0.95), Bin(300, 0.95, 0.95, 0.92, 0.97))
    trust = Trust(499, 0.1, 0.01, 0.02, 0.1, 0.2, 0.9, bins, budget=16)
    assert bins_off(trust) == [bins[1]]
