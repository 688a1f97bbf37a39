"""Prompts unlike those of training are known as such, and others of their kind are not taken for such."""

import random
import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from difficulty import Familiarity
from router.bundle.bundle import load_bundle
from router.bundle.manifest import read_manifest
from router.schema import read

SHIPPED = Path("models/smollm2-135m")
STRANGE = [
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "Write a haiku about autumn.",
    "Translate to German: good morning",
    "Wie viele Beine haben 3 Kühe und 4 Hühner?",
    "¿Cuál es la suma de 3 y 4?",
    "Сколько будет 3 + 4?",
    "3 + 4 等于多少?",
    "def f(x):\n    return x + 1\n\nWhat does f(3) return?",
    "SELECT name FROM animals WHERE legs = 4;",
    "Which of these is a noble gas? (A) helium (B) nitrogen (C) oxygen (D) chlorine",
    "Let V be the set of all real polynomials p(x). Is the map T(p) = p' one-to-one?",
    "How many moles of propane are there in 6 g of it?",
    "A train travels 60 miles in 2 hours. What is its average speed in miles per hour?",
    "Find the derivative of x^2 + 3*x.",
    "hello",
    "???",
]


@pytest.fixture(scope="module")
def shipped() -> Familiarity:
    familiarity = load_bundle(SHIPPED).familiarity
    assert familiarity
    return familiarity


@pytest.fixture(scope="module")
def heldout() -> list[str]:
    rows = pd.read_parquet(sorted((SHIPPED / "attempts").glob("fresh-*.parquet")), columns=["prompt"])
    return sorted(set(rows["prompt"]))


@pytest.mark.parametrize("prompt", STRANGE)
def test_the_shipped_bundle_knows_what_it_does_not_know(shipped, prompt):
    assert not shipped.knows(prompt)


def test_false_alarms_on_heldout_prompts_are_rare(shipped, heldout):
    assert sum(not shipped.knows(prompt) for prompt in heldout) <= 0.01 * len(heldout)


@pytest.mark.parametrize("largest", [9, 99, 9_999, 10**9])
def test_the_same_prompts_under_other_numbers_are_familiar(shipped, heldout, largest):
    draw = random.Random(largest)
    others = [re.sub(r"\d+", lambda _: str(draw.randint(1, largest)), prompt) for prompt in heldout]
    assert sum(not shipped.knows(prompt) for prompt in others) <= 0.01 * len(others)


def test_a_new_word_in_a_known_sentence_is_familiar(shipped):
    known = (
        "Your task is to count how many legs there are in total when given a list of animals.\n\nNow, how many legs "
    )
    assert shipped.knows(known + "are there in total if you have 3 lions, 4 wombats?")


def test_what_training_says_of_false_alarms_is_out_of_fold():
    """Every prompt has a word of its own, which no other fold knows: they are judged by how others do, not by it."""
    texts = [f"add {'abcdefghij'[i % 10] * 3}{'klmno'[i % 5] * 2} to the list of good things" for i in range(60)]
    familiarity = Familiarity.of(texts)
    assert familiarity.most_unknown >= 1 / 8
    assert familiarity.false_alarms < 0.02
    assert familiarity.knows("add zebra to the list of good things")
    assert not familiarity.knows("remove zebra from heaps with bad apples")


def test_form_counts_where_all_words_are_known():
    familiarity = Familiarity.of([f"{i} + {i + 1} =" for i in range(50)])
    assert familiarity.knows("3 + 400 =")
    assert not familiarity.knows(" + ".join(["7"] * 60) + " =")


def test_it_reads_back_what_was_written(shipped):
    assert read(Familiarity, asdict(shipped)) == shipped


@pytest.mark.parametrize(
    ("change", "told"),
    [({"most": 1}, "most"), ({"form": {"smell": (0, 1)}}, "smell"), ({"words": 3}, "words"), ({"form": 1}, "form")],
)
def test_a_wrong_file_is_refused_by_name(shipped, change, told):
    with pytest.raises(ValueError, match=told):
        read(Familiarity, asdict(shipped) | change)


def test_one_prompt_alone_teaches_nothing():
    with pytest.raises(ValueError, match="two different"):
        Familiarity.of(["1 + 1 ="] * 3)


def test_the_shipped_file_is_what_train_writes(shipped):
    """`router train` on the shipped attempts."""
    from router.attempts.schema import read_attempts
    from router.training.difficulty import know

    assert know(read_attempts([SHIPPED / "attempts" / f"{name}.parquet" for name in ("tune", "heldout")])) == shipped
    assert "familiarity.json" in read_manifest(SHIPPED)[0].files
