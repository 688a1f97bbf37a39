"""Features of a prompt's text: cheap and general, nothing about any one task."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_END = re.compile(r"[.?!](?:\s|$)")
_DIGIT = re.compile(r"\d")
_TOKEN = re.compile(r"[^\W\d]+|0+|[^\w\s]")
_OPERATORS = "+-*/^=×÷−"


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 27) lengths, words, structure, operators, and the numbers: how many, how long, how large; on log scales."""
    return np.log1p([_describe(prompt) for prompt in prompts])


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a log scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def masked(prompt: str) -> str:
    """The prompt in lower case with every digit a 0: its form, whatever its numbers are."""
    return _DIGIT.sub("0", prompt.lower())


def phrases(prompt: str) -> list[str]:
    """The masked prompt's words, numbers and signs, and each two neighbours."""
    tokens = _TOKEN.findall(masked(prompt))
    return tokens + [f"{one} {other}" for one, other in pairwise(tokens)]


def _describe(prompt: str) -> list[float]:
    words = _WORD.findall(prompt)
    numbers = _NUMBER.findall(prompt)
    plain = [number.replace(".", "").replace(",", "") for number in numbers]
    digits = sorted(map(len, plain))
    values = [min(1e15, float(number)) for number in plain]  # a huge number is huge, whatever it is exactly
    sizes = [math.log1p(value) for value in values] or [0.0]
    operators = [prompt.count(operator) for operator in _OPERATORS]
    plus, minus, star, slash, _, _, times, divide, long_minus = operators
    return [
        len(prompt),
        len(words),
        len(set(words)),
        sum(map(len, words)) / max(1, len(words)),
        prompt.count("(") + prompt.count("{"),
        len(_END.findall(prompt)),
        prompt.count("\n"),
        len(numbers),
        len(set(numbers)),
        sum(digits),
        max(digits, default=0),
        sum(digits) / max(1, len(digits)),
        sum(digits[-2:]),
        len(digits) - bisect_right(digits, 1),
        len(digits) - bisect_right(digits, 2),
        len([value for value in values if value <= 1]),
        len([number for number in numbers if number.endswith("0")]),
        sum(sizes),
        max(sizes),
        min(sizes),
        sum(sizes) / len(sizes),
        sum(operators),
        len(operators) - operators.count(0),
        plus,
        minus + long_minus,
        star + times,
        slash + divide,
    ]
