"""Replies as models write them, and the code in each."""

import ast
import time

import pytest

from router.tasks.code_blocks import find

ADD = "def add(a, b):\n    return a + b"


def fenced(code: str, label: str = "python") -> str:
    return f"```{label}\n{code}\n```"


def names(code: str | None) -> list[str]:
    """What a text defines, in order."""
    assert code is not None
    return [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize(
    "text",
    [
        fenced(ADD),
        fenced(ADD, ""),
        fenced(ADD, "Python"),
        fenced(ADD, "py"),
        fenced(ADD, "python3"),
        fenced(ADD, " python title='add.py'"),
        fenced(ADD, "{.python .numberLines}"),
        f"~~~python\n{ADD}\n~~~",
        f"````python\n{ADD}\n````",
        f"Sure! Here is the function:\n\n{fenced(ADD)}\n\nIt adds two numbers.",
        f"{fenced(ADD)}\nRun it:\n{fenced('python add.py', 'bash')}",
        f"{fenced(ADD)}\n{fenced('pip install numpy', '')}\n{fenced('5', '')}\n{fenced('5', 'output')}",
        f"{fenced(ADD)}\nExample:\n{fenced('print(add(1, 2))')}",
        f"{fenced(ADD)}\nExample:\n{fenced('result = add(1, 2)')}",
        f"{fenced(ADD)}\nExample:\n{fenced('>>> add(1, 2)' + chr(10) + '3')}",
        f"{fenced(ADD)}\nIt passes:\n{fenced('assert add(1, 2) == 3')}",
        f"{fenced('def add(a, b):' + chr(10) + '    return a - b')}\nWait, that is wrong.\n{fenced(ADD)}",
        f"<think>{fenced('def add(a, b): pass')}</think>\n{fenced(ADD)}",
        f"I could write {fenced('def wrong(): pass')} but</think>{fenced(ADD)}",
        f"{fenced(ADD)}\nAnd also\n```python\ndef sub(a, b):\n    return a -",  # cut
        "1. First:\n\n   ```python\n   def add(a, b):\n       return a + b\n   ```",
        "> ```python\n> def add(a, b):\n>     return a + b\n> ```",
        f"```python\n{ADD}",  # never closed, and whole
        f"```python\n{ADD}\n\nThis function adds two numbers, doesn't it?",
        f"```python\r\n{ADD}\r\n```".replace("\n", "\r\n").replace("\r\r", "\r"),
        ADD,
        f"python\n{ADD}",
        f"Here you go:\n\n{ADD}\n\nThis adds two numbers.",
        f"Use this.\n{ADD}\nprint(add(1, 2))\n",
        f"{ADD}\n```",
    ],
)
def test_one_function(text: str) -> None:
    code = find(text)
    assert names(code) == ["add"]
    space: dict[str, object] = {}
    exec(code, space)  # type: ignore[arg-type]
    assert space["add"](1, 2) == 3  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 7.",
        "You should define a function that adds.",
        "import this is not code",
        fenced("pip install x", "bash"),
        fenced("def f(): pass", "javascript"),
        fenced(">>> add(1, 2)\n3"),
        fenced("add(1, 2)"),
        "<think>\n" + fenced(ADD),
        "```python\ndef add(a, b):\n    return (a +",
        "class: the set of all sets\nfrom here to there import is hard",
        "x" * 200_000,
    ],
)
def test_no_code(text: str) -> None:
    assert find(text) is None


def test_a_complete_block_that_does_not_parse_is_the_answer() -> None:
    assert find(f"{fenced(ADD)}\nBetter:\n{fenced('def add(a, b) return a')}") == "def add(a, b) return a\n"


def test_blocks_that_belong_together_are_joined() -> None:
    text = f"""First the imports:
{fenced("import math")}
A helper:
{fenced("def double(x):" + chr(10) + "    return 2 * x")}
An example of it:
{fenced("x = double(3)" + chr(10) + "print(x)")}
Then the function:
{fenced("def area(r):" + chr(10) + "    x = double(r)" + chr(10) + "    return math.pi * r * x / 2")}
Use it:
{fenced("print(area(1))")}
"""
    code = find(text)
    assert names(code) == ["double", "area"]
    assert code is not None
    assert "import math" in code
    assert "print" not in code


def test_a_helper_may_come_after() -> None:
    main, helper = fenced("def main(x): return helper(x)"), fenced("def helper(x): return x")
    assert names(find(f"{main}\nwhere\n{helper}")) == ["main", "helper"]
    assert names(find(f"{main}\nwhere\n{helper}", ["main"])) == ["main", "helper"]


def test_an_earlier_version_stays_out_and_what_it_imported_comes_in() -> None:
    text = (
        f"{fenced('import math' + chr(10) + 'def f(x): return 0')}\nBetter:\n{fenced('def f(x): return math.floor(x)')}"
    )
    space: dict[str, object] = {}
    exec(find(text) or "", space)
    assert space["f"](2.5) == 2  # type: ignore[operator]


def test_the_wanted_function_is_taken_though_another_is_last() -> None:
    text = f"{fenced(ADD)}\nTests:\n{fenced('import unittest' + chr(10) + 'class TestAdd(unittest.TestCase): pass')}"
    assert names(find(text, ["add"])) == ["add"]
    assert names(find(text)) == ["TestAdd"]


def test_all_wanted_functions_are_taken() -> None:
    text = f"{fenced(ADD)}\n{fenced('def sub(a, b): return a - b')}\n{fenced('def other(): pass')}"
    assert names(find(text, ["add", "sub"])) == ["add", "sub"]


def test_a_lambda_is_a_function() -> None:
    assert find(fenced("add = lambda a, b: a + b")) == "add = lambda a, b: a + b\n"


def test_without_fences_constants_and_imports_come_along() -> None:
    text = (
        "The code:\n\nimport math\nMOD = 10 ** 9 + 7\n\n@decorated\ndef f(x):\n    return math.floor(x) % MOD\n\nDone."
    )
    code = find(text)
    assert code is not None
    assert "import math" in code
    assert "MOD = " in code
    assert "@decorated" in code
    assert "Done" not in code


@pytest.mark.long
@pytest.mark.parametrize(
    "piece",
    [
        "```",
        "```python\n",
        "```\n",
        "def f(",
        "(",
        "def f():\n",
        "x = 1\nand so on\n",
        "```python\ndef f{i}(): return f{next}()\n```\n",
        "```python\ndef f{next}(): return f{i}()\n```\n",
        "def f{i}():\n    return f{next}()\nand\n",
    ],
)
def test_time_grows_with_the_length(piece: str) -> None:
    seconds = []
    for length in (10_000, 80_000):
        pieces = [piece.replace("{i}", str(i)).replace("{next}", str(i + 1)) for i in range(length // len(piece))]
        text, least = "".join(pieces)[:length], 1e9
        for _ in range(3):  # what else the machine does only makes it longer
            began = time.process_time()
            find(text)
            least = min(least, time.process_time() - began)
        seconds.append(least)
    assert seconds[1] < 32 * seconds[0] + 0.2


def test_a_models_own_tests_are_no_part_of_its_solution() -> None:
    code = "def f(x):\n    assert x\n    return x\n"
    tests = "assert f(1) == 2\nassert (f(3)\n    == 3), 'three'\n"
    assert find(f"```python\n{code}\n# Test it\n{tests}```") == f"{code}\n# Test it\n"
    assert find(f"```python\n{code}x = 1; assert f(1)\n```") == f"{code}x = 1; assert f(1)\n"
    assert find(f"```python\n{code}```\nTests:\n```python\n{tests}```") == code
