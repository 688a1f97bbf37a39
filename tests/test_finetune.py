import pandas as pd
import pytest
import torch

from router.backends.examples import LabelledSteps
from router.backends.finetune import pack_trees, tree
from router.errors import InvalidFile
from router.offline.chains import LONGEST, chains


class Characters:
    """A tokenizer whose tokens are characters."""

    @staticmethod
    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]


def grow(*attempts: LabelledSteps) -> dict:
    return tree(Characters(), "?", attempts)


RIGHT = LabelledSteps("p", ("a\n", "b"), (1.0, 1.0), count=3)
WRONG = LabelledSteps("p", ("a\n", "c"), (1.0, 0.0), count=1)


def test_attempts_share_the_tokens_that_they_begin_with():
    row = grow(RIGHT, WRONG)
    assert "".join(map(chr, row["input_ids"])) == "?a\nbc"
    assert row["parents"] == [-1, 0, 1, 2, 2]
    assert row["positions"] == [0, 1, 2, 3, 3]


def test_right_and_wrong_weigh_the_same_and_agreement_teaches_nothing():
    row = grow(RIGHT, WRONG)
    assert row["right_weights"] == [0, 0, 0, 0.5, 0]
    assert row["wrong_weights"] == [0, 0, 0, 0, 0.5]


def test_attempts_weigh_by_how_often_they_were_sampled():
    row = grow(RIGHT, WRONG, LabelledSteps("p", ("a\n", "d"), (1.0, 0.0), count=4))
    assert row["wrong_weights"][-2:] == pytest.approx([0.1, 0.4])


def test_soft_labels_count_on_both_sides():
    row = grow(LabelledSteps("p", ("a",), (0.75,)), LabelledSteps("p", ("b",), (0.25,)))
    assert row["right_weights"][1:] == pytest.approx([0.375, 0.125])
    assert row["wrong_weights"][1:] == pytest.approx([0.125, 0.375])


def test_a_packed_token_sees_itself_and_its_ancestors_only():
    packed = pack_trees([grow(RIGHT, WRONG), grow(RIGHT)])
    sees = packed["attention_mask"][0, 0]
    expected = torch.zeros(9, 9, dtype=torch.bool)
    for token, seen in enumerate(
        [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 4), (5,), (5, 6), (5, 6, 7), (5, 6, 7, 8)]
    ):
        expected[token, list(seen)] = True
    assert torch.equal(sees, expected)
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 3, 0, 1, 2, 3]]


def attempts(*rows: tuple[str, str | None, bool | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"prompt_id": "p", "prompt": "1 + 1?", "text": text, "answer": answer, "correct": correct}
            for text, answer, correct in rows
        ]
    )


def test_a_chain_ends_with_the_wrong_attempt_nearest_to_the_right_one():
    far = [(f"something else {i}", "9", False) for i in range(10)]
    (example,) = chains(attempts(("1 + 1 = 2", "2", True), ("1 + 1 = 3", "3", False), ("1 + 1 =", None, False), *far))
    assert example.completion == "1 + 1 = 2"
    assert example.earlier[-1] == "1 + 1 = 3"
    assert len(set(example.earlier)) == len(example.earlier) <= LONGEST


def test_a_chain_needs_a_right_and_a_wrong_attempt():
    with pytest.raises(InvalidFile, match="both"):
        chains(attempts(("2", "2", True)))
