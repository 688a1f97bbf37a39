"""Reading an arm takes time in proportion to its text: nothing that a caller sends can keep the parser busy.

What costs time is counted in lines of the parser that were run, so that a busy machine fails no test.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest

from router.errors import InvalidRequest
from router.policy.objectives import parse_objective
from strategies import InvalidArm, parse, parsing
from strategies.parsing import LONGEST_TEXT


def steps(read: Callable[[str], object], text: str) -> int:
    """How many lines of Python were run to read the text, refusals included."""
    lines = 0

    def count(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with suppress(InvalidArm, InvalidRequest):  # refusing is fine, if it is soon
            read(text)
    finally:
        sys.settrace(before)
    return lines


# Texts that grow with n: blanks where a pattern could begin at any of them, brackets, commas, stages, digits.
GROWING: dict[str, Callable[[int], str]] = {
    "blanks after": lambda n: "majority" + " " * n,
    "blanks before": lambda n: " " * n + "majority(n=4)",
    "blanks within": lambda n: "majority(" + " " * n + "n=4" + " " * n + ")",
    "blanks, no end": lambda n: "majority(n=4" + " " * n,
    "blanks and commas": lambda n: "majority(" + " ," * n + ")",
    "commas": lambda n: "majority(" + "," * n + ")",
    "brackets": lambda n: "majority" + "(" * n,
    "closed brackets": lambda n: "majority(" + ")" * n,
    "equals": lambda n: "majority(n" + "=" * n + "4)",
    "digits": lambda n: "majority(n=" + "9" * n + ")",
    "decimals": lambda n: "majority(n=4, stop=0." + "9" * n + ")",
    "a long name": lambda n: "m" * n + "(n=4)",
    "a long option": lambda n: "majority(" + "n" * n + "=4)",
    "options": lambda n: "majority(" + ",".join(f"n{i}=4" for i in range(n // 6)) + ")",
    "the same option": lambda n: "majority(" + "n=4," * (n // 4) + ")",
    "a long model": lambda n: "majority(n=4, model=" + "m" * n + ")",
    "stages": lambda n: " > ".join(["single @0.5"] * (n // 14) + ["single"]),
    "stages without a confidence": lambda n: ">".join(["single"] * (n // 7)),
    "confidences": lambda n: "single" + "@0.5" * (n // 4),
    "arrows": lambda n: ">" * n,
    "ats": lambda n: "@" * n,
}
growing = pytest.mark.parametrize("name", GROWING)
LONGEST = 100_000


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of any length: what keeps the parser fast is not only that they are short."""
    monkeypatch.setattr(parsing, "LONGEST_TEXT", 10 * LONGEST)


@growing
def test_lines_that_are_run_grow_no_faster_than_the_text(name, unbounded):
    sizes = [1_000, 4_000, 16_000]
    taken = [steps(parse, GROWING[name](size)) for size in sizes]
    for (size, few), (larger, many) in pairwise(zip(sizes, taken, strict=True)):
        assert many <= 1.2 * few * larger / size + 100, taken


@growing
def test_a_line_takes_no_time_that_grows_with_the_text(name, unbounded):
    """A regular expression is one line and may take minutes: with 100,000 characters this would not come back."""
    steps(parse, GROWING[name](LONGEST))


@growing
def test_a_text_that_is_too_long_is_refused_before_it_is_read(name):
    text = GROWING[name](3_000)
    if len(text) <= LONGEST_TEXT:
        text = text.ljust(LONGEST_TEXT + 1)
    assert steps(parse, text) < 20
    with pytest.raises(InvalidArm, match="at most 1000 characters"):
        parse(text)


def test_thousands_of_blanks_are_refused_at_once():
    with pytest.raises(InvalidArm, match="at most 1000 characters, this has 3008"):
        parse("majority" + " " * 3000)
    assert steps(parse, "majority" + " " * 3000) < 20
    assert steps(parse, "majority" + " " * 900) == steps(parse, "majority")


def test_an_objective_is_read_in_one_go():
    for text in ("budget=" + "9" * LONGEST, "budget" + " " * LONGEST, "=" * LONGEST, "budget=" + " " * LONGEST + "4"):
        assert steps(parse_objective, text) < 50
