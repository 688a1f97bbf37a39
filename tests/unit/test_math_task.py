import pytest

from router.tasks import math as answers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 + 4 = 7\nAnswer: 7", "7"),
        ("Answer: 1\nno, wait\nAnswer: 2", "2"),
        ("so the total is 12.\n#### 12", "12"),
        ("The final answer is $\\frac{3}{4}$.", "$\\frac{3}{4}$"),
        ("**Answer:** 5", "** 5"),
        ("we get \\boxed{\\frac{1}{2}} and Answer: 3", "\\frac{1}{2}"),
        ("first \\boxed{1}, then \\boxed{2}", "2"),
        ("we get \\boxed{\\frac{1}{2}", None),  # cut within the box
        ("3 + 4 = 7", None),
        ("Answering the question: use 5", None),
        ("The answer to this is 5", None),
        ("Answer:", None),
        ("", None),
    ],
)
def test_find(text, found):
    assert answers.find(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7", "7.0"),
        ("7", "07"),
        ("1,234", "1234"),
        ("$1,234.50", "1234.5"),
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "2/4"),
        ("** 5", "5"),
        ("-3", "-3."),
        ("50%", "50"),
        ("Friday", " friday. "),
        ("x^2 - 1", "(x-1)(x+1)"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
    ],
)
async def test_same(one, other):
    assert await answers.same(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("7", "8"), ("0.333", "1/3"), ("-3", "3"), ("1/0", "0"), ("x + 1", "x + 2"), (None, "0")]
)
async def test_not_same(one, other):
    assert not await answers.same(one, other)


async def test_a_hostile_expression_costs_seconds_at_most_and_is_its_own_spelling():
    assert await answers.canonical("9^{9^{9^{9^9}}}") == "9^{9^{9^{9^9}}}"
