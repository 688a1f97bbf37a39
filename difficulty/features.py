"""Features of a prompt's text: cheap and general, none of them about one task."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The second pattern of each pair finds the same in ASCII text, faster, because it lists the characters.
_NUMBER, _ASCII_NUMBER = re.compile(r"\d+(?:[.,]\d+)*"), re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_WORD = re.compile(r"[^\W\d_]+")
_TOKEN, _ASCII_TOKEN = (
    re.compile(r"[^\W\d]+|0+|[^\w\s]"),
    re.compile(r"[A-Za-z_]+|0+|[\x00-\x08\x0e-\x1b!-/:-@\[-^`{-\x7f]"),
)
_END = re.compile(r"[.?!](?:\s|$)")
_DIGIT = re.compile(r"\d")
_MASKED = bytes.maketrans(b"123456789", b"000000000")
_LETTERS_ONLY = bytes(code if chr(code).isalpha() else ord(" ") for code in range(128)).ljust(256)
_OPERATORS = "+-*/^=×÷−"
# Kinds of characters that are counted: each operator is one, then come these.
_OPENING, _NEWLINE, _SPACE, _STOP, _OTHER = range(len(_OPERATORS), len(_OPERATORS) + 5)
_KINDS = _OTHER + 1
_SIGNS = {character: kind for kind, character in enumerate(_OPERATORS)}
_SIGNS |= {"(": _OPENING, "{": _OPENING, "\n": _NEWLINE, ".": _STOP, "?": _STOP, "!": _STOP}
# The kind of each character up to U+3001. That is after the last sign and the last white space, so those after it are
# like it.
_KIND = np.array(
    [_SIGNS.get(each, _SPACE if each.isspace() else _OTHER) for each in map(chr, range(0x3002))], dtype=np.uint8
)


# Columns of a description that tell a prompt's form, which does not depend on the size of its numbers.
FORM = {
    **{"characters": 0, "words": 1, "different_words": 2, "word_length": 3, "brackets": 4, "sentences": 5, "lines": 6},
    **{"numbers": 7, "different_numbers": 8, "operators": 21, "different_operators": 22},
    **{"plus": 23, "minus": 24, "times": 25, "divided": 26},
}


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, 27) descriptions of prompts, read-only: those of :func:`description`, computed in arrays."""
    return _describe(tuple(prompts))


@lru_cache(maxsize=1)  # as for :func:`description`
def _describe(prompts: tuple[str, ...]) -> NDArray[np.float64]:
    if not prompts:
        return np.zeros((0, 27))
    counts: list[int] = []
    numbers: list[str] = []
    for prompt in prompts:
        found, own = words(prompt), numbers_in(prompt)
        numbers += own
        counts += len(prompt), len(found), len(set(found)), len("".join(found)), len(own), len(set(own))
    characters, many_words, different, letters, many, different_numbers = np.array(counts).reshape(-1, 6).T
    kinds, ends = _kinds(prompts, characters)
    operators = kinds[: len(_OPERATORS)]
    plus, minus, star, slash, _, _, times, divide, long_minus = operators
    rows = (
        *(characters, many_words, different, letters / np.maximum(1, many_words)),
        *(kinds[_OPENING], ends, kinds[_NEWLINE], many, different_numbers),
        *_sizes(numbers, many).T,
        *(operators.sum(axis=0), (operators > 0).sum(axis=0)),
        *(plus, minus + long_minus, star + times, slash + divide),
    )
    described = np.asarray(np.log1p(np.array(rows, dtype=float).T.copy()))
    described.flags.writeable = False
    return described


def _kinds(prompts: Sequence[str], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(kinds, n) how many characters of each kind each prompt has; (n,) how many sentences end in it.

    lengths  (n,) of the prompts, in characters
    """
    # With a space after each prompt, a stop at its end is followed by white space like the others.
    text = " ".join((*prompts, "")).encode("utf-32-le", errors="surrogatepass")
    found = _KIND.take(np.frombuffer(text, dtype="<u4"), mode="clip")
    places = np.repeat(np.arange(len(prompts)) * _KINDS, lengths + 1)  # of characters in the counts, row by row
    places += found
    counts = np.bincount(places, minlength=len(prompts) * _KINDS).reshape(len(prompts), _KINDS)
    blank = (found == _SPACE) | (found == _NEWLINE)
    stops = places[:-1][(found[:-1] == _STOP) & blank[1:]]
    return counts.T, np.bincount(stops // _KINDS, minlength=len(prompts))


def _sizes(numbers: Sequence[str], many: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 12) features of the numbers in n prompts: columns 9 to 20 of a description, before the logarithm.

    numbers  of all prompts, one prompt after the other;  many  (n,) how many of them each prompt has
    """
    sizes = np.zeros((len(many), 12))
    having = np.flatnonzero(many)
    if not len(having):
        return sizes
    plain = " ".join(numbers).replace(".", "").replace(",", "").split(" ")
    values = np.minimum(1e15, list(map(float, plain)))
    digits = np.array(list(map(len, plain)))
    whose = np.repeat(np.arange(len(many)), many)
    digits_ordered = digits[np.lexsort((digits, whose))]
    logs = np.log1p(values)
    ends = np.cumsum(many)[having]
    starts = ends - many[having]

    def each(reduce: np.ufunc, of: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(reduce.reduceat(of, starts), dtype=float)

    total, largest, size = each(np.add, digits), digits_ordered[ends - 1], each(np.add, logs)
    second = np.where(many[having] > 1, digits_ordered[np.maximum(ends - 2, 0)], 0)
    round_ones = np.array([number[-1] == "0" for number in plain])
    columns = (
        *(total, largest, total / many[having], largest + second),
        *(each(np.add, digits > most) for most in (1, 2)),
        *(each(np.add, values <= 1), each(np.add, round_ones)),
        *(size, each(np.maximum, logs), each(np.minimum, logs), size / many[having]),
    )
    sizes[having] = np.column_stack(columns)
    return sizes


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a logarithmic scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def masked(prompt: str) -> str:
    """Return the prompt in lower case with every digit as 0, so that only its form remains."""
    lower = prompt.lower()
    return lower.encode().translate(_MASKED).decode() if lower.isascii() else _DIGIT.sub("0", lower)


@lru_cache(maxsize=1)  # as for :func:`description`
def tokens(prompt: str) -> tuple[str, ...]:
    """Return the masked prompt's words, numbers and signs."""
    return _tokens(prompt)


def _tokens(prompt: str) -> tuple[str, ...]:
    text = masked(prompt)
    return tuple((_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text))


@lru_cache(maxsize=1)  # as for :func:`description`
def tokens_of_many(prompts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the tokens of each prompt."""
    return list(map(_tokens, prompts))


def numbers_in(prompt: str) -> list[str]:
    """Return the prompt's numbers: digits, with points and commas between them."""
    return (_ASCII_NUMBER if prompt.isascii() else _NUMBER).findall(prompt)


def words(prompt: str) -> list[str]:
    """Return the prompt's words: runs of letters."""
    if prompt.isascii():  # faster than a pattern
        return prompt.encode().translate(_LETTERS_ONLY).decode().split()
    return _WORD.findall(prompt)


def phrases(prompt: str) -> list[str]:
    """Return the masked prompt's words, numbers and signs, and each pair of neighbours."""
    found = tokens(prompt)
    return [*found, *(f"{one} {other}" for one, other in pairwise(found))]


@lru_cache(maxsize=1)  # a prompt is described twice: for its difficulty and for its familiarity
def description(prompt: str) -> tuple[float, ...]:
    """(27,) lengths, words, structure, operators, and the numbers' count, length and size; logarithmic scales."""
    found = words(prompt)
    numbers = numbers_in(prompt)
    digits, sizes = [], []
    small = round_ones = 0
    for number in numbers:
        plain = number.replace(".", "").replace(",", "")
        value = float(plain)
        digits.append(len(plain))
        sizes.append(math.log1p(min(1e15, value)))  # bounded: beyond it, the exact value doesn't matter
        small += value <= 1
        round_ones += plain[-1] == "0"
    digits.sort()
    many, total, size = len(numbers), sum(digits), sum(sizes)
    operators = [prompt.count(operator) for operator in _OPERATORS]
    plus, minus, star, slash, _, _, times, divide, long_minus = operators
    values = (
        len(prompt),
        len(found),
        len(set(found)),
        len("".join(found)) / max(1, len(found)),
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
    return tuple(map(math.log1p, values))
