"""Features of a prompt's text: cheap and general, nothing about any one task."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_OPERATORS = "+-*/^=×÷−"


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 27) lengths, words, structure, operators, and the numbers: how many, how long, how large; on log scales."""
    return np.log1p([_describe(prompt) for prompt in prompts])


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a log scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def masked(prompt: str) -> str:
    """The prompt in lower case with every digit a 0: its form, whatever its numbers are."""
    return re.sub(r"\d", "0", prompt.lower())


def _describe(prompt: str) -> list[float]:
    words = _WORD.findall(prompt)
    numbers = _NUMBER.findall(prompt)
    digits = sorted(sum(character.isdigit() for character in number) for number in numbers)
    sizes = [np.log1p(_size(number)) for number in numbers] or [0.0]
    operators = {operator: prompt.count(operator) for operator in _OPERATORS}
    return [
        len(prompt),
        len(words),
        len(set(words)),
        sum(map(len, words)) / max(1, len(words)),
        prompt.count("(") + prompt.count("{"),
        len(re.findall(r"[.?!](?:\s|$)", prompt)),
        prompt.count("\n"),
        len(numbers),
        len(set(numbers)),
        sum(digits),
        max(digits, default=0),
        sum(digits) / max(1, len(digits)),
        sum(digits[-2:]),
        sum(count > 1 for count in digits),
        sum(count > 2 for count in digits),
        sum(_size(number) <= 1 for number in numbers),
        sum(number.endswith("0") for number in numbers),
        sum(sizes),
        max(sizes),
        min(sizes),
        sum(sizes) / len(sizes),
        sum(operators.values()),
        sum(count > 0 for count in operators.values()),
        operators["+"],
        operators["-"] + operators["−"],
        operators["*"] + operators["×"],
        operators["/"] + operators["÷"],
    ]


def _size(number: str) -> float:
    return min(1e15, float(re.sub(r"\D", "", number)))  # a huge number is huge, whatever it is exactly
