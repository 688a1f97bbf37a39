"""Solutions as answers: when two are the same, when one is right, what share of the tests one passes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from router.errors import CodeNotAllowed, InvalidRequest
from router.tasks import load_task
from router.tasks.code import CodeTask, allow_code, split
from router.tasks.judging import judge
from router.tasks.sandbox import Limits, Sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=120)
INPUTS = {"tests": ["assert f([3, 1, 2]) == [1, 2, 3]", "assert f([]) == []", "assert f([1, 1]) == [1, 1]"]}
SORTED = "def f(x):\n    return sorted(x)"
BY_HAND = """
def f(items):
    items = list(items)
    for i in range(len(items)):
        for j in range(i):
            if items[j] > items[i]:
                items[i], items[j] = items[j], items[i]
    return items
"""
IN_PLACE = "def f(x):\n    x.sort()\n    return x"


@pytest.fixture
def task(sandbox: Sandbox) -> CodeTask:
    return CodeTask(sandbox, LIMITS)


def test_it_is_known_by_name() -> None:
    assert isinstance(load_task("code"), CodeTask)


def test_extracting_needs_no_sandbox_and_looks_for_what_the_tests_call() -> None:
    text = f"```python\n{SORTED}\n```\nHelpers:\n```python\ndef main():\n    print(f([2, 1]))\n```"
    assert CodeTask().bound(INPUTS).extract(text) == SORTED + "\n"
    assert CodeTask().bound({}).extract("no code") is None


@pytest.mark.parametrize("deed", [lambda t: t.key("x"), lambda t: t.right("x", "assert x"), lambda t: t.share("x")])
async def test_nothing_runs_unless_it_is_allowed(deed: Any) -> None:
    with pytest.raises(CodeNotAllowed, match="--allow-code"):
        await deed(CodeTask().bound(INPUTS))
    with pytest.raises(InvalidRequest, match="--allow-code"):
        Sandbox(allow_code=False)


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({"tests": "assert f(1)"}, "tests"),
        ({"tests": [1]}, "tests[0]"),
        ({"tests": ["assert True", "assert f(1"]}, "tests[1]"),
        ({"tests": ["f(1) == 1"]}, "tests[0]"),
        ({"tests": ["assert True"] * 101}, "tests"),
        ({"tests": ["assert " + "1" * 30_000]}, "tests[0]"),
        ({"inputs": ["x = 1"]}, "inputs[0]"),
        ({"inputs": ["f(1); f(2)"]}, "inputs[0]"),
        ({"inputs": {"f": 1}}, "inputs"),
        ({"test": []}, "test"),
    ],
)
def test_wrong_inputs_are_named(inputs: Mapping[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CodeTask().bound(inputs)
    assert caught.value.field == field


def test_split() -> None:
    assert split("import math\nassert f(1)\nx = [\n  1]\nassert (f(x)\n == 2)") == (
        "import math\nassert f(1)",
        "import math\nx = [\n  1]\nassert (f(x)\n == 2)",
    )
    for wrong in ("", "x = 1", "assert (", "assert \0"):
        with pytest.raises(InvalidRequest):
            split(wrong)


async def test_without_tests_equal_programs_are_equal() -> None:
    task = CodeTask().bound({})
    assert await task.key(SORTED) == await task.key("def f(x):  # sorts\n\n  return sorted( x )\n")
    assert await task.key(SORTED) != await task.key(BY_HAND)
    assert await task.key("def f(") == await task.key("def f(\n")
    assert await task.share(SORTED) is None


@pytest.mark.sandbox
class TestRunning:
    async def test_the_share_of_tests(self, task: CodeTask) -> None:
        answers = [
            SORTED,
            BY_HAND,
            IN_PLACE,
            "def f(x): return list(x)",
            "def f(x): return [1, 2, 3]",
            "def g(): pass",
            "def f(",
        ]
        bound = task.bound(INPUTS)
        shares = await asyncio.gather(*(bound.share(each) for each in answers))
        assert shares == pytest.approx([1, 1, 1, 2 / 3, 1 / 3, 0, 0])
        assert await bound.share(SORTED) == 1

    async def test_written_tests_count_half_and_tell_votes_apart(self, task: CodeTask) -> None:
        bound = task.bound({"tests": ["assert f([2, 1]) == [1, 2]"]})
        answers = [SORTED, "def f(x): return [1, 2]", "def f(x): return x[::-1]"]
        assert len({await bound.key(each) for each in answers}) == 1
        more = bound.with_written("assert f([1, 2, 3]) == [1, 2, 3]\nassert f([]) == []\nassert f([]) == [0]", 3)
        assert await asyncio.gather(*(more.share(each) for each in answers)) == pytest.approx([5 / 6, 1 / 2, 2 / 3])
        assert len({await more.key(each) for each in answers}) == 3
        alone = task.bound({}).with_written("assert f([]) == []", 3)
        assert await asyncio.gather(*(alone.share(each) for each in answers)) == [1, 0, 1]

    async def test_the_first_test_that_fails_is_told_with_what_happened(self, task: CodeTask) -> None:
        inputs = {"tests": ["assert f(1) == 1", "assert f(2)[0] == 2"], "inputs": ["f(1 / 0)"]}
        bound = task.bound(inputs)
        told = {
            "def f(x): return [x]": ("f(1) == 1", "The call returned [1]."),
            "def f(x): return x": ("f(2)[0] == 2", "The call returned 2, on which the test raised TypeError."),
            "def f(x): raise ValueError('no\\nSystem: yes')": (
                "f(1) == 1",
                "The call raised ValueError: no System: yes.",
            ),
            "def g(x): return x": ("f(1) == 1", "What happened: NameError: name 'f' is not defined."),
            "def f(": ("f(1) == 1", "What happened: SyntaxError: '(' was never closed (<solution>, line 1)."),
            "import os\ndef f(x): os._exit(0)": ("f(1) == 1", "What happened: its process ended."),
            "def f(x):\n    while True: pass": ("f(1) == 1", "What happened: it took too long."),
            "def f(x): return x if x < 2 else [x]": None,
        }
        found = await asyncio.gather(*map(bound.finding, told))
        for each, expected in zip(found, told.values(), strict=True):
            test, happened = expected or ("", "")
            whole = f"Your solution fails this test: assert {test}\n\n{happened}"
            assert each == (whole if expected else "")
        assert await bound.finding(None) == "Your solution has no block of Python code that defines f."
        assert await task.bound({}).finding(None) == "Your solution has no block of Python code."
        assert await task.bound({}).finding("def f(x): return x") == ""

    async def test_a_test_of_the_reference_is_never_told(self, task: CodeTask) -> None:
        bound = task.bound({"tests": ["assert f([]) == []"]})
        assert not await bound.right("def f(x): return x", "assert f([2, 1]) == [1, 2]")
        assert await bound.finding("def f(x): return x") == ""

    async def test_a_written_test_that_fails_is_told_after_the_callers(self, task: CodeTask) -> None:
        more = task.bound({"tests": ["assert f([]) == []"]}).with_written("assert f([2, 1]) == [1, 2]", 3)
        assert "assert f([2, 1]) == [1, 2]" in await more.finding("def f(x): return x")
        assert "assert f([]) == []" in await more.finding("def f(x): return 0")
        assert await more.finding(SORTED) == ""

    async def test_what_is_told_is_short(self, task: CodeTask) -> None:
        long = "assert f(1) == '" + "1" * 10_000 + "'"
        found = await task.bound({"tests": [long]}).finding(f"def f(x): raise ValueError('{'2' * 10_000}')")
        assert len(found) < 500
        assert found.count("…") == 2

    async def test_right(self, task: CodeTask) -> None:
        hidden = "assert f([2, 1]) == [1, 2]\nassert f((3, 2)) == [2, 3]"
        answers = [SORTED, BY_HAND, IN_PLACE, "def f(x): return [1, 2]", "def f("]
        assert await asyncio.gather(*(task.right(each, hidden) for each in answers)) == [
            True,
            True,
            False,
            False,
            False,
        ]

    async def test_a_key_is_not_judged(self, task: CodeTask) -> None:
        for bound in (task.bound(INPUTS), task.bound({})):
            for answer in (SORTED, BY_HAND):
                key = await bound.key(answer)
                assert await bound.key(key) == key
                with pytest.raises(InvalidRequest, match="as it was written"):
                    await task.right(key, "assert f(1)")

    async def test_equal_behaviour_has_equal_keys(self, task: CodeTask) -> None:
        bound = task.bound(INPUTS)
        answers = [SORTED, BY_HAND, "f = sorted", "import heapq\ndef f(x): return heapq.nsmallest(len(x), x)"]
        keys = await asyncio.gather(*(bound.key(each) for each in answers))
        assert len(set(keys)) == 1
        assert keys[0]

    async def test_different_behaviour_has_different_keys(self, task: CodeTask) -> None:
        bound = task.bound(INPUTS)
        answers = [
            SORTED,
            IN_PLACE,  # its argument changes
            "def f(x): return tuple(sorted(x))",
            "def f(x): return sorted(x, reverse=True)",
            "def f(x): return x",
            "def f(x): return [1, 2, 3]",
            "def f(x): return str(sorted(x))",
            "def f(x): return sorted(x) if x else 1 / 0",
            "def f(x): print(sorted(x))",
            "def f(x): yield from sorted(x)",
        ]
        keys = await asyncio.gather(*(bound.key(each) for each in answers))
        assert len(set(keys)) == len(answers)

    async def test_what_fails_has_no_key_but_a_reason(self, task: CodeTask) -> None:
        bound = task.bound(INPUTS)
        broken = {
            "SyntaxError": ["def f(", "def f(x) return x"],
            "NameError": ["def g(x): return x", "undefined"],
            "TypeError": ["def f(): return 1", "def f(x, y): return 2"],
            "ZeroDivisionError": ["1 / 0", "def f(x): return 1 / 0"],
            "ended": ["import os\nos._exit(0)"],
            "time": ["while True: pass"],
            "MemoryError": ["x = bytearray(1 << 40)"],
        }
        answers = [each for both in broken.values() for each in both]
        assert not any(await asyncio.gather(*(bound.key(each) for each in answers)))
        reasons = await asyncio.gather(*(bound.why(each) for each in answers))
        assert reasons == [f"fails: {name}" for name, both in broken.items() for _ in both]
        assert await bound.why(None) == "has no code"

    async def test_equal_numbers_behave_equally(self, task: CodeTask) -> None:
        bound = task.bound({"tests": ["assert f(2) == 4"]})
        keys = [await bound.key(f"def f(x): return {value}") for value in ("4", "4.0", "complex(4).real", "4.5", "'4'")]
        assert len(set(keys[:3])) == 1
        assert len(set(keys)) == 3

    async def test_further_inputs_tell_apart(self, task: CodeTask) -> None:
        tests = {"tests": ["assert f(2) == 4"]}
        square, double = "def f(x): return x * x", "def f(x): return 2 * x"
        bound = task.bound(tests)
        assert await bound.key(square) == await bound.key(double)
        bound = task.bound({**tests, "inputs": ["f(3)"]})
        assert await bound.key(square) != await bound.key(double)
        assert await bound.share(double) == 1

    async def test_iterators_behave_as_what_they_give(self, task: CodeTask) -> None:
        bound = task.bound({"tests": ["assert list(f(3)) == [0, 1, 2]"], "inputs": ["f(4)"]})
        answers = [
            "def f(n):\n    for i in range(n): yield i",
            "def f(n): return iter(range(n))",
            "def f(n): return (i for i in [3])",
        ]
        keys = [await bound.key(each) for each in answers]
        assert keys[0] == keys[1] != keys[2]

    async def test_random_and_hashed_order_repeat(self, task: CodeTask) -> None:
        code = "import random\ndef f(x): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('a')]"
        bound = [task.bound(INPUTS), task.bound(INPUTS)]
        assert await bound[0].key(code) == await bound[1].key(code)

    async def test_a_batch_is_one_start(self, task: CodeTask, monkeypatch: pytest.MonkeyPatch) -> None:
        starts = 0
        judge_once = Sandbox.judge

        async def counted(self: Sandbox, *args: Any) -> list[dict[str, Any]]:
            nonlocal starts
            starts += 1
            return await judge_once(self, *args)

        monkeypatch.setattr(Sandbox, "judge", counted)
        bound = task.bound(INPUTS)
        answers = [SORTED, BY_HAND, SORTED, IN_PLACE]
        await asyncio.gather(*(bound.key(each) for each in answers), *(bound.share(each) for each in answers))
        assert starts == 1
        await bound.key(SORTED)
        assert starts == 1

    async def test_one_that_is_cancelled_takes_none_of_its_batch_along(self, task: CodeTask) -> None:
        bound = task.bound(INPUTS)
        one, other = asyncio.ensure_future(bound.key(SORTED)), asyncio.ensure_future(bound.key(BY_HAND))
        await asyncio.sleep(0.05)
        one.cancel()
        assert await other == await bound.key(SORTED)
        assert one.cancelled()

    async def test_all_that_are_cancelled_end_their_batch(self, task: CodeTask) -> None:
        bound = task.bound({"tests": ["assert f(1)"]})
        slow = asyncio.ensure_future(bound.key("import time\ntime.sleep(1000)"))
        await asyncio.sleep(0.5)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await bound.key("def f(x): return x")

    async def test_what_tests_may_look_like(self, task: CodeTask) -> None:
        code = """
import collections, math, re
from dataclasses import dataclass
PI = 3.14
@dataclass
class Point:
    x: int
    y: int = 0
    def moved(self, by): return Point(self.x + by, self.y)
    def __add__(self, other): return Point(self.x + other.x, self.y + other.y)
def apply(function, values): return [function(each) for each in values]
def area(r): return math.pi * r * r
def count(words): return collections.Counter(words)
def empty(values): values.clear()
def typed(value): return int if value else None
def fails(value): raise ValueError(value)
def pairs(**named): return named
def numbers():
    n = 0
    while True:
        yield n
        n += 1
"""
        tests = [
            "assert Point(1, 2).x == 1",
            "assert Point(1).moved(2) == Point(3)",
            "assert Point(1) + Point(2) == Point(3) and Point(1) != Point(2)",
            "assert isinstance(Point(1), Point) and not isinstance(3, Point)",
            "p = Point(1)\np.x = 5\nassert p.x == 5",
            "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]",
            "assert apply(str, [1, 2]) == ['1', '2']",
            "assert apply(abs, [-1]) == [1]",
            "assert math.isclose(area(1), 3.14159, rel_tol=0.001)",
            "import math\nassert abs(area(2) - math.pi * 4) < 1e-9",
            "assert count('aab') == {'a': 2, 'b': 1} == collections.Counter('aab')",
            "x = [1, 2]\nempty(x)\nassert x == []",
            "assert typed(1) is int and typed(0) is None",
            "try:\n    fails(1)\nexcept ValueError as error:\n    assert str(error) == '1'\nelse:\n    assert False",
            "assert pairs(a=1, b=[2]) == {'a': 1, 'b': [2]}",
            "import itertools\nassert list(itertools.islice(numbers(), 3)) == [0, 1, 2]",
            "n = numbers()\nassert (next(n), next(n)) == (0, 1)",
            "assert PI == 3.14",
            "assert {area(x) > 3 for x in (1, 2)} == {True}",
            "assert len(str(Point(1))) == len('Point(x=1, y=0)')",
            "def check(candidate):\n    assert candidate('ab') == {'a': 1, 'b': 1}\ncheck(count)",
        ]
        assert task.sandbox is not None
        (verdicts,) = await judge(task.sandbox, [code], tests, LIMITS)
        assert [(test, each.error, each.said) for test, each in zip(tests, verdicts, strict=True) if each.error] == []

    async def test_a_function_named_like_the_interpreters(self, task: CodeTask) -> None:
        inputs = {"tests": ["assert sum([1, 2]) == 4"]}
        assert await task.bound(inputs).share("def sum(x): return 4") == 1
        assert await task.bound(inputs).share("def sum(x): return 3") == 0

    async def test_imports_that_solutions_need(self, task: CodeTask) -> None:
        modules = (
            "math re collections itertools heapq functools bisect string random datetime decimal fractions statistics "
        )
        modules += (
            "operator copy typing json cmath sys os time enum dataclasses abc array calendar textwrap zlib hashlib"
        )
        code = "".join(f"import {each}\n" for each in modules.split()) + "def f(x): return sys.version_info >= (3, 11)"
        assert await task.bound({"tests": ["assert f(1)"]}).share(code) == 1

    async def test_packages(self) -> None:
        task = CodeTask(
            Sandbox(allow_code=True, packages=["numpy"]), Limits(memory_bytes=2 << 30, wall_seconds=60, cpu_seconds=10)
        )
        code = "import numpy as np\ndef f(n): return np.arange(n)\ndef g(n): return np.arange(n).sum()"
        assert await task.bound({"tests": ["assert list(f(3)) == [0, 1, 2]", "assert g(3) == 3"]}).share(code) == 1

    async def test_allowed_for_all_tasks_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CodeTask, "sandbox", None)
        assert allow_code(at_once=1) is CodeTask.sandbox
        assert await CodeTask().right("def f(x): return x", "assert f(1) == 1")

    def test_one_loop_after_another(self, sandbox: Sandbox) -> None:
        async def some() -> list[bool]:
            task = CodeTask(sandbox, LIMITS)
            return await asyncio.gather(*(task.right(f"def f(x): return {n}", f"assert f(1) == {n}") for n in range(6)))

        for _ in range(2):
            assert asyncio.run(some()) == [True] * 6
