"""What a verifier's scores are worth, on scores whose worth is known."""

import pandas as pd
import pytest

from router.errors import InvalidFile
from router.evaluation.judge import judge


def attempts(prompts: int, score) -> pd.DataFrame:
    """Four attempts a prompt, the first one right; ``score(prompt, sample)`` are each one's step scores."""
    tokens = {"prompt_tokens": 1, "generated_tokens": 1, "scored_tokens": 1, "arm": "sample", "text": ""}
    rows = [
        {
            "prompt_id": f"p{p}",
            "prompt": "?",
            "messages": None,
            "reference": "1",
            "sample": s,
            "answer": "12"[s > 0],
            "correct": s == 0,
        }
        | tokens
        | {"scores": score(p, s)}
        for p in range(prompts)
        for s in range(4)
    ]
    return pd.DataFrame(rows).astype({"correct": "boolean"})


def test_a_perfect_verifier_sees_it_at_the_step_where_it_can():
    result = judge(attempts(12, lambda p, s: [0.5, 1.0 - s / 4]), sizes=[4])
    assert result["auc_within"] == 1
    assert result["by_step"] == [0.5, 1]
    assert result["auc_within_interval"] == [1, 1]
    four = result["best_of"]["4"]
    assert four.pop("above_majority") == {
        "best_of_n": {"value": 1, "low": 1, "high": 1},
        "weighted_best_of_n": {"value": 0, "low": 0, "high": 0},
    }
    assert four == {
        "one_sample": 0.25,
        "majority": 0,
        "best_of_n": 1,
        "weighted_best_of_n": 0,  # three wrong ones weigh 1.5 together
        "oracle": 1,
    }


def test_what_choosing_gains_has_an_interval_over_prompts():
    """At half of the prompts the scores are right, at the others they are reversed."""
    result = judge(attempts(24, lambda p, s: [1.0 - s / 4 if p % 2 else s / 4]), sizes=[4])
    assert result["auc_within"] == 0.5
    low, high = result["auc_within_interval"]
    assert 0.2 < low < 0.4
    assert 0.6 < high < 0.8
    gain = result["best_of"]["4"]["above_majority"]["best_of_n"]
    assert gain["low"] < gain["value"] == 0.5 < gain["high"]


def test_knowing_which_prompts_are_hard_is_not_selecting():
    """Every attempt at a prompt has one score, so nothing is told apart within it."""
    result = judge(attempts(12, lambda p, s: [p / 12]), sizes=[4])
    assert result["auc_within"] == 0.5


def test_steps_that_few_prompts_reach_are_left_out():
    assert judge(attempts(9, lambda p, s: [0.5]))["by_step"] == []
    longer = judge(attempts(12, lambda p, s: [0.5] * (2 if p < 9 else 1)))
    assert len(longer["by_step"]) == 1


def test_calibration_error_is_the_distance_of_scores_and_shares():
    assert judge(attempts(12, lambda p, s: [0.25]))["ece"] == pytest.approx(0)
    assert judge(attempts(12, lambda p, s: [0.75]))["ece"] == pytest.approx(0.5)


def test_scores_and_both_outcomes_are_needed():
    with pytest.raises(InvalidFile, match="no attempt has scores"):
        judge(attempts(3, lambda p, s: None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": None}, "no attempt has scores"),
        ({"correct": None}, "`correct` is null for all scored attempts"),
        ({"correct": True}, "take prompts of middling difficulty"),
        ({"arm": "single"}, "no attempts of arm `sample`"),
    ],
)
def test_what_keeps_a_verifier_from_being_judged_is_said(changes, words):
    frame = attempts(12, lambda p, s: [0.5]).assign(**changes).astype({"correct": "boolean"})
    with pytest.raises(InvalidFile, match=words):
        judge(frame)
