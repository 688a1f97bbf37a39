"""Which asserts of a model's text can be used as tests, and what they call."""

import pytest

from router.errors import InvalidRequest
from router.tasks.code import CodeTask
from router.tasks.written_tests import calls, find

REPLY = """Here are the tests:
```python
import math
# a comment
assert add(1, 2) == 3
assert add(-1, 1) == 0, "negative"   # message
assert add(1,2)==3
  assert add([1], [2]) == [1, 2]
assert add(x, 2) == 3
assert other(1) == 1
assert add(1, 2
assert True
assert math.isclose(add(0.1, 0.2), 0.3)
for i in range(3): assert add(i, i) == 2 * i
```
That's it, assert me!"""


def test_asserts_that_call_the_function_with_literals_are_kept_once():
    assert find(REPLY, {"add"}) == [
        "assert add(1, 2) == 3",
        "assert add(-1, 1) == 0",
        "assert add([1], [2]) == [1, 2]",
        "assert math.isclose(add(0.1, 0.2), 0.3)",
    ]


def test_those_that_are_there_already_are_left_out():
    assert "assert add(1, 2) == 3" not in find(REPLY, {"add"}, known=["assert add(1,2) == 3"])


def test_any_function_will_do_where_none_is_named():
    assert "assert other(1) == 1" in find(REPLY, ())


@pytest.mark.parametrize("text", ["", "no tests", "<think>assert add(1, 2) == 3", "assert " * 2000, "assert \0"])
def test_a_text_without_tests_has_none(text):
    assert find(text, {"plus"}) == []


def test_what_is_called():
    assert calls(["assert add(1, 2) == add(2, 1)", "assert add(1, 2)", "assert f(add)(1)"], {"add"}) == [
        "add(1, 2)",
        "add(2, 1)",
    ]


def test_a_task_takes_as_many_as_it_is_told():
    task = CodeTask().bound({"tests": ["assert add(5, 6) == 11"]}).with_written(REPLY, 2)
    assert task._written == ("assert add(1, 2) == 3", "assert add(-1, 1) == 0")
    assert task._inputs == ("add(1, 2)", "add(-1, 1)")
    assert task.extract("```python\ndef add(a, b): return a + b\n```")


def test_a_callers_many_tests_are_read_up_to_a_length():
    known = [f"assert add({i}, {'1 ' + '+ 1 ' * 400}) == {i}" for i in range(20)] + ["assert add(1, 2) == 3"]
    assert find("assert add(1, 2) == 3", {"add"}, known=known) == ["assert add(1, 2) == 3"]
    assert find("assert add(1, 2) == 3", {"add"}, known=known[-1:]) == []


SUM = " + ".join(["1"] * 900)  # too deep for Python to spell


def test_a_test_that_is_nested_too_deeply_is_left_out():
    assert find(f"assert add(1, 2) == {SUM}\nassert add(2, 2) == 4", {"add"}) == ["assert add(2, 2) == 4"]


def test_a_callers_test_that_is_nested_too_deeply_stands_in_no_ones_way():
    task = CodeTask().bound({"tests": [f"assert add(1, 2) == {SUM}"]})
    assert task.with_written("assert add(2, 2) == 4", 5).functions == ["add"]
    assert calls([f"assert add(1, 2) == add({SUM})", "assert add(1, 2) == 3"], {"add"}) == ["add(1, 2)"]


@pytest.mark.parametrize("deep", [f"assert f() == {'1+' * 9_000}1", f"assert {'-' * 9_000}f()"])
def test_a_test_that_python_cant_read_is_refused_by_name(deep):
    with pytest.raises(InvalidRequest, match="nested too deeply") as raised:
        CodeTask().bound({"tests": ["assert f()", deep]})
    assert raised.value.field == "tests[1]"
