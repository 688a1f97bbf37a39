"""Where answers are found, as written; and that finding them takes linear time."""

import contextlib
import time

import pytest

from router.tasks import load_task
from router.tasks.math_equality import LONGEST, NeedsAlgebra, Simple, key
from router.tasks.math_extraction import find
from router.tasks.math_structure import Node, spelling, structure


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = 7\nAnswer: 7", "7"),
        ("The final answer is $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("**Answer:** 5", "5"),
        ("The answer is 18 because 9*2=18.", "18"),
        ("The answer is that he earned $56 in 7 days.", "$56"),
        ("The answer is 3 1/2 hours.", "3 1/2 hours"),
        ("The correct answer is $x=2$ or $x=-3$.", "$x=2$ or $x=-3$"),
        ("Answer: (3, 4)", "(3, 4)"),
        ("Answer: 5 (five apples)", "5"),
        ("The answer is 2, 3, and 5.", "2, 3, and 5"),
        ("The answer is 3.5.", "3.5"),
        ("> **Answer: 12 km/h**", "12 km/h"),
        ("The value of x is 5!", "5"),
        ("The number is $5!$", "5!"),
        ("Thus the answer is \\(x = 5\\).", "x = 5"),
        ("The answer is Friday, since it rained.", "Friday"),
        ("The final answer is the total revenue.\nIt is 133.", "133"),
        ("first \\boxed{1}, then \\boxed{2", "1"),
    ],
)
def test_found_as_written(text, found):
    assert find(text) == found


ADVERSARIAL = {
    "lines": "\n",
    "boxes": "\\boxed{",
    "closed boxes": "\\boxed{1} ",
    "nested": "\\boxed{\\fbox{",
    "answers": "answer is ",
    "labels": "Answer:",
    "headings": "Answer\n",
    "clauses": "answer of the ",
    "joined words": "答案",
    "brackets": "(",
    "braces": "{",
    "digits and commas": "1,",
    "long number": "1",
    "dollars": "$",
    "formulas": "$1$ ",
    "display": "\\[ ",
    "double dollars": "$$a",
    "stars": "**",
    "hashes": "#### 1\n",
    "hash line": "####",
    "spaces": " ",
    "tabs": "Answer: \t",
    "thoughts": "<think></think>",
    "fences": "```\n",
    "tags": "<answer>",
    "fractions": "\\frac{1}",
    "text": "\\text{",
    "backslashes": "\\",
    "quotes": '"\\',
    "json": '{"a":[',
    "minus": "−",
    "equals": "= ",
    "sentences": "1. ",
    "words": "the answer to the question that was asked ",
}


def seconds(task: str, piece: str, characters: int, times: int = 3) -> float:
    """Of this thread, to look for the answer in a text of this length: the best of some times."""
    text, extract = "x = 3\n" + piece * (characters // len(piece)), load_task(task).extract
    best = float("inf")
    for _ in range(times):
        begun = time.thread_time()
        extract(text)
        best = min(best, time.thread_time() - begun)
    return best


@pytest.mark.long
@pytest.mark.parametrize("task", ["math", "exact", "json"])
def test_time_grows_with_the_text_only(task):
    for name, piece in ADVERSARIAL.items():
        small, large = seconds(task, piece, 4_000), seconds(task, piece, 32_000)
        assert large < 20 * small + 0.01, name  # eight times the text; quadratic were 64 times


@pytest.mark.long
def test_long_texts_are_quick():
    for name, piece in ADVERSARIAL.items():
        assert seconds("math", piece, 200_000, times=1) < 0.5, name


async def test_keys_of_long_texts_take_linear_time():
    for piece in ADVERSARIAL.values():
        begun = time.thread_time()
        await key(piece * (200_000 // len(piece)))
        assert time.thread_time() - begun < 0.5, piece


@pytest.mark.parametrize(
    "piece", ["(", "((x", "{", "\\{1,", "1,", "x=", "x<", "\\cup ", "\\pm ", "-", "\\frac1", "[(", "a and "]
)
async def test_keys_of_the_longest_answers_are_quick(piece):
    """Answers up to the longest that is read as mathematics: their structure is told in the event loop."""
    begun = time.thread_time()
    node = structure(piece * (LONGEST // len(piece)))
    assert isinstance(node, Node)
    with contextlib.suppress(NeedsAlgebra):
        spelling(node, Simple())
    assert time.thread_time() - begun < 0.2
