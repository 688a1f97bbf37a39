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
_ZEROS = str.maketrans("123456789", "0" * 9)
_TOKEN = re.compile(r"[^\W\d]+|0+|[^\w\s]")
_OPERATORS = "+-*/^=×÷−"


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 27) descriptions of prompts."""
    return np.array([description(prompt) for prompt in prompts])


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a log scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def masked(prompt: str) -> str:
    """The prompt in lower case with every digit a 0: its form, whatever its numbers are."""
    lower = prompt.lower()
    return lower.translate(_ZEROS) if lower.isascii() else _DIGIT.sub("0", lower)


def phrases(prompt: str) -> list[str]:
    """The masked prompt's words, numbers and signs, and each two neighbours."""
    tokens = _TOKEN.findall(masked(prompt))
    return tokens + [f"{one} {other}" for one, other in pairwise(tokens)]


def description(prompt: str) -> list[float]:
    """(27,) lengths, words, structure, operators, and the numbers: how many, how long, how large; on log scales."""
    words = _WORD.findall(prompt)
    numbers = _NUMBER.findall(prompt)
    digits, sizes = [], []
    small = round_ones = 0
    for number in numbers:
        plain = number.replace(".", "").replace(",", "")
        value = float(plain)
        digits.append(len(plain))
        sizes.append(math.log1p(min(1e15, value)))  # a huge number is huge, whatever it is exactly
        small += value <= 1
        round_ones += plain[-1] == "0"
    digits.sort()
    many, total, size = len(numbers), sum(digits), sum(sizes)
    operators = [prompt.count(operator) for operator in _OPERATORS]
    plus, minus, star, slash, _, _, times, divide, long_minus = operators
    values = (
        len(prompt),
        len(words),
        len(set(words)),
        sum(map(len, words)) / max(1, len(words)),
        prompt.count("(") + prompt.count("{"),
        len(_END.findall(prompt)),
        prompt.count("\n"),
        many,
        len(set(numbers)),
        total,
        max(digits, default=0),
        total / max(1, many),
        sum(digits[-2:]),
        many - bisect_right(digits, 1),
        many - bisect_right(digits, 2),
        small,
        round_ones,
        size,
        max(sizes, default=0.0),
        min(sizes, default=0.0),
        size / max(1, many),
        sum(operators),
        len(operators) - operators.count(0),
        plus,
        minus + long_minus,
        star + times,
        slash + divide,
    )
    return list(map(math.log1p, values))
