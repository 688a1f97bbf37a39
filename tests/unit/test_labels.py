"""Labels of steps, where a character is a token; what a tokenizer changes, the tests of engines check."""

from functools import partial

import pandas as pd
import pytest

from router.attempts.prompts import Problem
from router.backends.steps import split_text
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.labels import from_outcomes, from_solutions

SPLIT = partial(split_text, delimiter="\n")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\nb", ("a\n", "b")),
        ("a\nb\n", ("a\n", "b\n")),  # a trailing delimiter is no empty last step
        ("a\n\nb", ("a\n", "\nb")),
        ("\na\n\n", ("\na\n\n",)),
        ("a", ("a",)),
        ("", ()),
        ("\n", ()),
    ],
)
def test_a_solution_is_cut_into_its_steps(text, steps):
    assert SPLIT(text) == steps
    assert "".join(steps) == (text if steps else "")


def attempts(*rows: tuple[str, bool | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"prompt_id": "p", "prompt": "1 + 1 + 1?", "messages": None, "text": text, "correct": correct}
            for text, correct in rows
        ]
    )


def test_a_step_is_right_while_it_and_all_before_it_are():
    frame = attempts(("2\n3\n3", True), ("2\n4\n3", False), ("2\n3\n3", True))
    examples = from_solutions(frame, [Problem("p", Prompt.of("1 + 1 + 1?"), "3", "2\n3\n3")], SPLIT)
    assert [example.labels for example in examples] == [(1, 1, 1), (1, 0, 0)]
    assert [example.count for example in examples] == [3, 1]  # the worked solution is one more right attempt


def test_a_step_beyond_the_solution_is_wrong():
    sampled, worked = from_solutions(attempts(("2\n3\n4", False)), [Problem("p", Prompt.of("?"), "3", "2\n3")], SPLIT)
    assert sampled.labels == (1, 1, 0)
    assert (worked.steps, worked.labels) == (("2\n", "3"), (1, 1))  # a prompt that was never solved has none else


def test_solutions_must_cover_the_attempts():
    with pytest.raises(InvalidFile, match="'p'"):
        from_solutions(attempts(("2", True)), [Problem("q", Prompt.of("?"), None, "2")], SPLIT)


def test_outcomes_label_a_step_with_the_share_of_right_attempts_through_it():
    frame = attempts(("a\nb", True), ("a\nc", False), ("a\nb", True), ("d\nb", None))
    examples = from_outcomes(frame, SPLIT)
    assert [example.steps for example in examples] == [("a\n", "b"), ("a\n", "c")]
    assert examples[0].labels == pytest.approx((2 / 3, 1.0))
    assert examples[1].labels == pytest.approx((2 / 3, 0.0))


def test_outcomes_need_to_be_known():
    with pytest.raises(InvalidFile, match="correct"):
        from_outcomes(attempts(("a", None)), SPLIT)
