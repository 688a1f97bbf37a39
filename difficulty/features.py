"""Features of a prompt's text: cheap and general, nothing about any one task."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
_OPERATORS = "+-*/^=×÷−"


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 14) lengths, words, numbers (how many, how long), operators, structure; counts on a log scale."""
    return np.log1p([_describe(prompt) for prompt in prompts])


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a log scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def _describe(prompt: str) -> list[float]:
    words = _WORD.findall(prompt)
    digits = [sum(character.isdigit() for character in number) for number in _NUMBER.findall(prompt)]
    operators = [prompt.count(operator) for operator in _OPERATORS]
    return [
        len(prompt),
        len(words),
        len(set(words)),
        sum(map(len, words)) / max(1, len(words)),
        len(digits),
        sum(digits),
        max(digits, default=0),
        sum(digits) / max(1, len(digits)),
        sum(operators),
        prompt.count("*") + prompt.count("×"),
        sum(operator in prompt for operator in _OPERATORS),
        prompt.count("(") + prompt.count("{"),
        len(re.findall(r"[.?!](?:\s|$)", prompt)),
        prompt.count("\n"),
    ]
