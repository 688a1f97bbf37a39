"""Reads Python that a model or a caller wrote."""

import ast
import warnings

# What parsing and spelling raise for code that is wrong, or nested too deeply: a sum of a thousand numbers is.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def parsed(code: str) -> ast.Module:
    """Return the syntax tree. Raises one of UNREADABLE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes
        return ast.parse(code)


def one_spelling(code: str) -> str:
    """Return the code without comments and layout; as it is where it can't be read."""
    try:
        return ast.unparse(parsed(code))
    except UNREADABLE:
        return code.strip()
