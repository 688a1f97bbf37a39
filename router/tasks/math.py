"""Mathematics: where a solution states its final answer, and when two answers are the same.

Numbers and fractions are compared exactly, here and fast. Anything else that looks like mathematics goes to math-verify
(sympy) in a worker process: a hostile expression can keep sympy busy for ever, and its own time-outs use SIGALRM, which
works in the main thread only.
"""

import asyncio
import re
import threading
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

_MARKERS = re.compile(
    r"(?:^|\n|\*\*)\s*(?:(?:the )?(?:final )?answer\s*+(?:is\b\s*+[:=]?+|[:=])\s*+|####\s*)(?P<answer>[^\n]+)", re.I
)
_LONGEST = 200  # characters of an answer that are worth parsing
_SECONDS = 3.0
_starting = threading.Lock()


class MathTask:
    """Answers that are numbers or expressions. See :class:`router.tasks.Task`."""

    def extract(self, text: str) -> str | None:
        return find(text)

    async def key(self, answer: str) -> str:
        return await canonical(answer)

    async def right(self, answer: str, reference: str) -> bool:
        expected = await canonical(reference)
        # A key is in sympy's spelling, which is not always read as mathematics again: x**2 - 1.
        return answer == expected or await canonical(answer) == expected


def find(text: str) -> str | None:
    r"""The last stated final answer, as written: ``\boxed{...}``, else the rest of an ``Answer:`` or ``####`` line."""
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed or None
    stated = [match["answer"].strip().rstrip(".") for match in _MARKERS.finditer(text)]
    return stated[-1] or None if stated else None


async def canonical(answer: str) -> str:
    """One spelling for all answers that are equal, so that they can be compared and voted on as strings."""
    number = _number(answer)
    if number is not None:
        return number
    if not re.search(r"[\\^/*+=(){}]", answer) or len(answer) > _LONGEST:
        return _plain(answer)
    return await asyncio.to_thread(_symbolic, answer)


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for i, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[start:i].strip()
    return None  # never closed: cut, not stated


def _plain(answer: str) -> str:
    return " ".join(answer.lower().strip(" .$*").split())


def _number(answer: str) -> str | None:
    """Exact value of a decimal or a fraction of integers, without units of money, percent or thousands' commas."""
    text = answer.strip().strip("$*").strip().rstrip(".%").replace("\\$", "").replace("$", "").replace("\\,", "")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.strip())
    text = re.sub(r"^(-?)\s*\\[dt]?frac\{(-?\d+)\}\{(-?\d+)\}$", r"\1\2/\3", text)
    if len(text) > 40:
        return None
    try:
        if re.fullmatch(r"-?\d+\s*/\s*-?\d+", text):
            top, bottom = map(int, text.split("/"))
            return str(Fraction(top, bottom))
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text):
            return str(Fraction(Decimal(text)))
    except (InvalidOperation, ZeroDivisionError):
        pass
    return None


@lru_cache(4096)
def _symbolic(answer: str) -> str:
    future = _workers().schedule(_simplify, args=[answer], timeout=_SECONDS)
    # Whatever it failed with, two spellings of it then count as two answers.
    return _plain(answer) if future.exception() else str(future.result())


def _workers() -> Any:
    with _starting:  # threads that come together share one pool
        return _pool()


@cache
def _pool() -> Any:
    from multiprocessing import get_context  # only needed where an answer is an expression

    from pebble import ProcessPool

    # Spawned: forking a process that runs gRPC and torch threads deadlocks. The imports take seconds: not on the clock.
    return ProcessPool(max_workers=1, context=get_context("spawn"), initializer=_import_libraries)


def close() -> None:
    """End the worker process, where one was begun: a process that multiprocessing started waits for its children."""
    if _pool.cache_info().currsize:
        _pool().stop()
        _pool().join()
        _pool.cache_clear()


def _import_libraries() -> None:
    import math_verify  # noqa: F401
    import sympy  # noqa: F401


def _simplify(answer: str) -> str:
    from math_verify import parse
    from sympy import simplify, srepr

    parsed = parse(f"${answer.strip().strip('$')}$", parsing_timeout=None)
    if not parsed or isinstance(parsed[0], str):
        return _plain(answer)
    value = simplify(parsed[0])
    return str(value) if len(str(value)) < _LONGEST else srepr(parsed[0])
