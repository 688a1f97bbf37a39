"""Imported once in the process that workers are forked from: loads sympy and jsonschema, and fills their caches."""

import sys
from contextlib import suppress
from pickle import UnpicklingError
from typing import Any

from router.tasks.math_symbols import spell


def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """As usual, but say nothing where a worker finds that the server ended before it told it what to do."""
    if not issubclass(kind, (EOFError, OSError, UnpicklingError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = tell  # of this process and those that are forked from it

for _answer in (
    r"\frac{x+2}{7} - 3",
    r"2\sqrt{3} + \sqrt[3]{8}",
    r"x^{2} - 2xy + \pi",
    r"(x+1)(x-1)",
    r"\sin(x) + \log_2 8 + \ln 2",
    r"e^{16} - 1",
    r"\frac{\pi}{2} \cdot 3",
    r"2x + 4y - 3 = 0",
    r"|x| + 7!",
    r"3 + 4i",
    r"2x + 1 > 3",
):
    spell(_answer)

with suppress(ImportError):  # an optional package
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    Draft202012Validator.check_schema({"type": "object"})
