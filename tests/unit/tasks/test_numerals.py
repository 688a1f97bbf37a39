"""Numbers as models write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.tasks import numerals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,234.50", "2469/2"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("€5", "5"),
        ("US$ 12", "12"),
        ("** 5", "5"),
        ("-3.", "-3"),
        ("5.", "5"),
        ("５", "5"),
        ("1'234", "1234"),
        ("1 000 4/9", "9004/9"),
        ("3 4/5 hours", "19/5"),
        ("1/-2", "-1/2"),
        ("negative 5", "-5"),
        ("about 5", "5"),
        ("\\approx 5", "5"),
        ("5th", "5"),
        ("12 m/s", "12"),
        ("12 sq. units", "12"),
        ("16\\text{ units}^2", "16"),
        ("12 bottles of milk a day", "12"),
        ("50 percent of the class", "50"),
        ("37^\\circ C", "37"),
        ("2 dozen eggs", "24"),
        ("3 hundred thousand", "300000"),
        ("1e-7", "1/10000000"),
        ("0.1\\overline{6}", "1/6"),
        ("0.333333333333333", "1/3"),
        ("0.3333333333", "1/3"),
        ("0.333333333", "333333333/1000000000"),
        ("0.66666666666666", "2/3"),
        ("3.0000000000000004", "3"),
        ("0.30000000000000004", "3/10"),
        ("5.29666666666668", "132416666666667/25000000000000"),
        ("0.333", "333/1000"),
    ],
)
def test_read(text, value):
    assert numerals.read(text) == Fraction(value)


NO_NUMBERS = """
    five | 1/0 | 4 10/3 | 5m | 5 x | 5ab | 5! | 12:00 | 10 AM | 10 a.m. | 5 and 6 | 5 or 6 | 1, 2 | 2,5 | (1,234) | 2x
    5 feet 3 inches | 2 pi | 2\\pi | 7 remainder 3 | 4 times | 5 thirds | 1e999 | 1e-999 | 3:4 | 5 e | --5 | 1.2.3
    x = 5 | 1 2 | 4 more than half
"""


@pytest.mark.parametrize("text", [*NO_NUMBERS.replace("\n", "|").split("|"), "9" * 200])
def test_no_number(text):
    assert numerals.read(text) is None


@given(st.fractions(max_denominator=10**6))
def test_fractions_read_as_themselves(value):
    assert numerals.read(str(value)) == value
    assert numerals.read(f"\\frac{{{value.numerator}}}{{{value.denominator}}}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_decimals_read_as_themselves(value):
    assert numerals.read(f"{value:,f}") == Fraction(value)
    assert numerals.read(f"{value:e}") == Fraction(value)


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    numerals.read(text)
