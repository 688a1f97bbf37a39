"""Finds tests that a model wrote: usable asserts in a text, and the calls in them."""

import ast
from collections.abc import Collection, Iterator, Sequence

from router.tasks.python_code import UNREADABLE, one_spelling, parsed

_LONGEST = 2_000  # characters of a test
_MOST_LINES = 2_000
_MOST_KNOWN = 20_000  # characters of known tests that are read: these are a caller's, and may be many


def find(text: str, wanted: Collection[str], known: Sequence[str] = ()) -> list[str]:
    """Return the asserts of a text, each on its own line, that call a wanted function with literal arguments.

    wanted  names of functions; empty: any
    known   tests that there are already, which are left out; after the first :data:`_MOST_KNOWN` characters they may
            be found again
    """
    seen, read = set(), 0
    for each in known:
        read += len(each)
        if len(each) <= _LONGEST and read <= _MOST_KNOWN:
            seen.add(one_spelling(each))
    found = []
    for line in text.rpartition("</think>")[2].splitlines()[:_MOST_LINES]:
        test = _test(line.strip(), wanted)
        if test and test not in seen:
            seen.add(test)
            found.append(test)
    return found


def calls(tests: Sequence[str], wanted: Collection[str]) -> list[str]:
    """Return the calls of wanted functions with literal arguments in these tests."""
    return list(dict.fromkeys(call for test in tests for call in _calls(test, wanted)))


def _calls(test: str, wanted: Collection[str]) -> Iterator[str]:
    try:
        for node in ast.walk(parsed(test)):
            if _called_plainly(node, wanted):
                yield ast.unparse(node)
    except UNREADABLE:
        return


def _test(line: str, wanted: Collection[str]) -> str | None:
    """Return a line in one spelling, without its message and comment; None where it is not a usable test."""
    if not line.startswith("assert ") or len(line) > _LONGEST:
        return None
    try:
        (node,) = parsed(line).body
        if isinstance(node, ast.Assert) and any(_called_plainly(each, wanted) for each in ast.walk(node.test)):
            return ast.unparse(ast.Assert(node.test, None))
    except UNREADABLE:
        pass
    return None


def _called_plainly(node: ast.AST, wanted: Collection[str]) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    if wanted and node.func.id not in wanted:
        return False
    try:
        for each in (*node.args, *(keyword.value for keyword in node.keywords)):
            ast.literal_eval(each)
    except (*UNREADABLE, TypeError):
        return False
    return True
