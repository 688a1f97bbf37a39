import pytest

from router.errors import InvalidRequest
from router.tasks import TASKS, load_task

TASK = load_task("math")


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
def test_the_last_stated_answer_is_found(text, found):
    assert TASK.extract(text) == found


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
async def test_equal_answers_have_one_key(one, other):
    key = await TASK.key(one)
    assert key == await TASK.key(other)
    assert await TASK.right(one, other)
    assert await TASK.right(key, other)  # also what is recorded, the key


@pytest.mark.parametrize(
    ("one", "other"), [("7", "8"), ("0.333", "1/3"), ("-3", "3"), ("1/0", "0"), ("x + 1", "x + 2"), ("", "0")]
)
async def test_different_answers_have_different_keys(one, other):
    assert await TASK.key(one) != await TASK.key(other)
    assert not await TASK.right(one, other)


@pytest.mark.parametrize("nothing", ["$", " ", "**", "."])
async def test_decoration_is_no_answer(nothing):
    assert await TASK.key(nothing) == ""


async def test_a_hostile_expression_costs_seconds_at_most_and_is_its_own_spelling():
    assert await TASK.key("9^{9^{9^{9^9}}}") == "9^{9^{9^{9^9}}}"


def test_a_task_is_made_once():
    assert "math" in TASKS
    assert load_task("math") is TASK


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poetry", "unknown task 'poetry'; known: math, .*or your own as module:object"),
        ("router.tasks.math:", "unknown task"),
        ("no.such.module:Task", "can't import the task"),
        ("router.tasks.math:NoSuchTask", "can't import the task"),
        ("router.tasks.math:canonical", "it has no method extract"),
    ],
)
def test_what_is_no_task_is_refused(name, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        load_task(name)
    assert raised.value.field == "task"
