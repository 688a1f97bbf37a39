"""Finds tests that a model wrote: usable asserts in a text, and the calls in them."""

import ast
import warnings
from collections.abc import Collection, Sequence

_LONGEST = 2_000  # characters of a test
_MOST_LINES = 2_000


def find(text: str, wanted: Collection[str], known: Sequence[str] = ()) -> list[str]:
    """Return the asserts of a text, each on its own line, that call a wanted function with literal arguments.

    wanted  names of functions; empty: any
    known   tests that there are already, which are left out
    """
    seen = {ast.unparse(ast.parse(each)) for each in known}
    found = []
    for line in text.rpartition("</think>")[2].splitlines()[:_MOST_LINES]:
        test = _test(line.strip(), wanted)
        if test and test not in seen:
            seen.add(test)
            found.append(test)
    return found


def calls(tests: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Return the calls of wanted functions with literal arguments in these tests."""
    found = [ast.unparse(node) for test in tests for node in ast.walk(ast.parse(test)) if _called_plainly(node, wanted)]
    return list(dict.fromkeys(found))


def _test(line: str, wanted: Collection[str]) -> str | None:
    """Return a line in one spelling, without its message and comment; None where it is not a usable test."""
    if not line.startswith("assert ") or len(line) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes
            (node,) = ast.parse(line).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(node, ast.Assert) or not any(_called_plainly(each, wanted) for each in ast.walk(node.test)):
        return None
    return ast.unparse(ast.Assert(node.test, None))


def _called_plainly(node: ast.AST, wanted: Collection[str]) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    if wanted and node.func.id not in wanted:
        return False
    try:
        for each in (*node.args, *(keyword.value for keyword in node.keywords)):
            ast.literal_eval(each)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True
