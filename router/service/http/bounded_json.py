"""Reads JSON that can be written again: finite numbers, and not nested without end.

What is passed on to a model's server, logged or recorded is written once more. JSON has no word for an infinite number,
and reading and writing take a stack as deep as an object is nested.
"""

import json
import math
import re
from itertools import accumulate
from typing import Any

from router.service.http.messages import malformed

DEEPEST = 100  # lists and objects within each other: as many messages as protobuf reads
_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}
_TEXT = r'"(?:[^"\\]++|\\.)*+"?'  # ++: without going back, so in time that grows with the length only
_NO_BRACKET = re.compile(rf'{_TEXT}|[^][{{}}"]++', re.DOTALL)
_TEXT_OR_BRACKET = re.compile(rf"{_TEXT}|[][{{}}]", re.DOTALL)


def loads(body: bytes) -> Any:
    """Return what the JSON says. Raises InvalidRequest, with its outermost field that is wrong."""
    infinite = False

    def number(text: str) -> float:
        nonlocal infinite
        value = float(text)
        infinite |= math.isinf(value)
        return value

    try:
        text = body.decode(json.detect_encoding(body))
        if text.count("[") + text.count("{") > DEEPEST:
            _check_depth(text)
        content = json.loads(text, parse_float=number, parse_constant=_no_number)
    except ValueError as error:
        raise malformed("", f"the body is not JSON: {error}") from error
    if infinite:
        fields = content.items() if isinstance(content, dict) else [("", content)]
        # Empty where a later value of the same name hides it.
        name = next((name for name, value in fields if _infinite(value)), "")[:100]
        raise malformed(name, f"{name or 'the body'} has a number above 1.8e308, more than a number can be")
    return content


def _check_depth(text: str) -> None:
    """Raise InvalidRequest where lists and objects are nested too deeply."""
    brackets = _NO_BRACKET.sub("", text)
    if max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0) > DEEPEST:
        name = _outermost(text)
        raise malformed(
            name, f"{name or 'the body'} is nested too deeply: at most {DEEPEST} lists and objects in a row"
        )


def _outermost(text: str) -> str:
    """Return the name of the outermost field that is nested too deeply; empty where it has none."""
    depth, name = 0, ""
    for piece in _TEXT_OR_BRACKET.finditer(text):
        depth += _DEEPER.get(piece[0], 0)
        if depth > DEEPEST:
            break
        if depth == 1 and piece[0] not in _DEEPER:  # the last text before a list or an object is its name
            name = piece[0][1:-1][:100]
    return name


def _infinite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_infinite, value.values()))
    return any(map(_infinite, value)) if isinstance(value, list) else isinstance(value, float) and math.isinf(value)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")
