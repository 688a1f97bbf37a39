"""Features of a prompt's text: cheap and general, none of them about one task.

A description has the features in ``NAMES``. Two functions compute it. :func:`description` describes one prompt in plain
Python: a server calls it now and then, and numpy is slow there (docs/decisions/0003). :func:`describe` describes many
prompts in arrays. Both give each value by its name. A rule that serves both without taking longer is written once, at
the end of this file. The others are written twice, since arrays count in another way, and
``test_prompts_are_described_together_as_alone`` holds the two together.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Features that depend on the size of the prompt's numbers. Points and commas in a number are left out: 1,200 is read as
# 1200, and 0.5 as 05. The logarithm of a number is log(1 + number).
_SIZES = (
    "digits",  # of all numbers together
    "most_digits",
    "mean_digits",
    "two_longest",  # digits of the two longest numbers together
    "over_one_digit",  # how many numbers have more than one digit
    "over_two_digits",
    "up_to_one",  # how many numbers are 0 or 1
    "round",  # how many numbers end in 0
    "total_log",  # sum of the numbers' logarithms
    "largest_log",
    "smallest_log",
    "mean_log",
)

# The features, in the order of a description's columns. A fitted model has its weights in this order too. So where a
# name is added, removed or moved, every bundle whose difficulty model reads text must be trained anew.
NAMES = (
    "characters",
    "words",
    "different_words",
    "word_length",  # mean, in letters
    "brackets",  # opening ones, round and curly
    "sentences",  # stops that white space or the prompt's end follows
    "lines",  # line breaks
    "numbers",
    "different_numbers",
    *_SIZES,
    "operators",
    "different_operators",
    "plus",
    "minus",
    "times",
    "divided",
)

# Name → column of the features that tell a prompt's form, which does not depend on the size of its numbers.
FORM = {name: column for column, name in enumerate(NAMES) if name not in _SIZES}

_in_order = itemgetter(*NAMES)  # takes values by name, gives them in the order of NAMES

# The second pattern of each pair finds the same in ASCII text, faster, because it lists the characters.
_NUMBER, _ASCII_NUMBER = re.compile(r"\d+(?:[.,]\d+)*"), re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_TOKEN, _ASCII_TOKEN = (
    re.compile(r"[^\W\d]+|0+|[^\w\s]"),
    re.compile(r"[A-Za-z_]+|0+|[\x00-\x08\x0e-\x1b!-/:-@\[-^`{-\x7f]"),
)
_WORD = re.compile(r"[^\W\d_]+")
_DIGIT = re.compile(r"\d")
# Tables for bytes.translate, which reads ASCII text faster than a pattern does; a table has 256 entries.
_MASKED = bytes.maketrans(b"123456789", b"000000000")
_LETTERS_ONLY = bytes(code if chr(code).isalpha() else ord(" ") for code in range(128)).ljust(256)

_STOPS = ".?!"
_END = re.compile(rf"[{_STOPS}](?:\s|$)")
_OPERATORS = "+-−*×/÷^="  # in the order that _by_operation reads
_COUNTED = _OPERATORS + "({\n"  # signs that are counted one by one
_LARGEST = 1e15  # numbers beyond it count as this one: how large they are no longer matters


def length(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, 1) number of characters, on a logarithmic scale."""
    return np.log1p([[len(prompt)] for prompt in prompts])


def words(prompt: str) -> list[str]:
    """Return the prompt's words: runs of letters."""
    if prompt.isascii():
        return prompt.encode().translate(_LETTERS_ONLY).decode().split()
    return _WORD.findall(prompt)


def numbers_in(prompt: str) -> list[str]:
    """Return the prompt's numbers: digits, with points and commas between them."""
    return (_ASCII_NUMBER if prompt.isascii() else _NUMBER).findall(prompt)


def masked(prompt: str) -> str:
    """Return the prompt in lower case with every digit as 0, so that only its form remains."""
    lower = prompt.lower()
    return lower.encode().translate(_MASKED).decode() if lower.isascii() else _DIGIT.sub("0", lower)


@lru_cache(maxsize=1)  # a prompt is read twice: for its difficulty and for its familiarity
def tokens(prompt: str) -> tuple[str, ...]:
    """Return the masked prompt's words, numbers and signs."""
    return _tokens(prompt)


@lru_cache(maxsize=1)  # as for :func:`tokens`
def tokens_of_many(prompts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the tokens of each prompt."""
    return list(map(_tokens, prompts))


def _tokens(prompt: str) -> tuple[str, ...]:
    text = masked(prompt)
    return tuple((_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text))


def phrases(prompt: str) -> list[str]:
    """Return the masked prompt's words, numbers and signs, and each pair of neighbours."""
    found = tokens(prompt)
    return [*found, *(f"{one} {other}" for one, other in pairwise(found))]


@lru_cache(maxsize=1)  # as for :func:`tokens`
def description(prompt: str) -> tuple[float, ...]:
    """(features,) log(1 + x) of each feature x of one prompt, in the order of ``NAMES``."""
    many_words, different_words, word_length = _word_counts(prompt)
    *operators, opening, curly, lines = map(prompt.count, _COUNTED)
    plus, minus, times, divided = _by_operation(operators)
    numbers = numbers_in(prompt)
    digits, logs = [], []
    up_to_one = round_ones = 0
    for number in _digits_of(numbers):
        value = float(number)
        digits.append(len(number))
        logs.append(math.log1p(value if value < _LARGEST else _LARGEST))  # min() takes longer
        up_to_one += value <= 1
        round_ones += number[-1] == "0"
    digits.sort()
    many, total, total_log = len(numbers), sum(digits), sum(logs)
    values = {
        "characters": len(prompt),
        "words": many_words,
        "different_words": different_words,
        "word_length": word_length,
        "brackets": opening + curly,
        "sentences": len(_END.findall(prompt)),
        "lines": lines,
        "numbers": many,
        "different_numbers": len(set(numbers)),
        "digits": total,
        "most_digits": digits[-1] if many else 0,
        "mean_digits": total / (many or 1),
        "two_longest": sum(digits[-2:]),
        "over_one_digit": many - bisect_right(digits, 1),
        "over_two_digits": many - bisect_right(digits, 2),
        "up_to_one": up_to_one,
        "round": round_ones,
        "total_log": total_log,
        "largest_log": max(logs) if many else 0,
        "smallest_log": min(logs) if many else 0,
        "mean_log": total_log / (many or 1),
        "operators": sum(operators),
        "different_operators": len(operators) - operators.count(0),
        "plus": plus,
        "minus": minus,
        "times": times,
        "divided": divided,
    }
    return tuple(map(math.log1p, _in_order(values)))


def describe(prompts: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, features) descriptions of n prompts, read-only: as :func:`description`, computed in arrays."""
    return _describe(tuple(prompts))


@lru_cache(maxsize=1)  # as for :func:`tokens`
def _describe(prompts: tuple[str, ...]) -> NDArray[np.float64]:
    if not prompts:
        return np.zeros((0, len(NAMES)))
    characters = np.array(list(map(len, prompts)))
    many_words, different_words, word_length = np.array(list(map(_word_counts, prompts))).T
    (*operators, opening, curly, lines), sentences = _signs_and_sentences(prompts, characters)
    plus, minus, times, divided = _by_operation(operators)
    numbers = list(map(numbers_in, prompts))
    many = np.array(list(map(len, numbers)))
    values = _sizes(list(chain.from_iterable(numbers)), many) | {
        "characters": characters,
        "words": many_words,
        "different_words": different_words,
        "word_length": word_length,
        "brackets": opening + curly,
        "sentences": sentences,
        "lines": lines,
        "numbers": many,
        "different_numbers": np.array([len(set(own)) for own in numbers]),
        "operators": sum(operators),
        "different_operators": np.count_nonzero(operators, axis=0),
        "plus": plus,
        "minus": minus,
        "times": times,
        "divided": divided,
    }
    described = np.asarray(np.log1p(np.array(_in_order(values), dtype=float).T.copy()))
    described.flags.writeable = False
    return described


def _sizes(numbers: Sequence[str], many: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return the features in ``_SIZES`` of n prompts, before the logarithm: (n,) by name.

    numbers  of all prompts, one prompt after the other
    many     (n,) how many of them each prompt has
    """
    having = np.flatnonzero(many)
    if not len(having):
        return dict.fromkeys(_SIZES, np.zeros(len(many)))
    plain = _digits_of(numbers)
    values = np.array(list(map(float, plain)))
    digits = np.array(list(map(len, plain)))
    logs = np.log1p(np.minimum(_LARGEST, values))
    round_ones = np.array([number[-1] == "0" for number in plain])
    # A prompt without numbers has no place in these arrays. The numbers of those that have some lie from start to end.
    ends = np.cumsum(many)[having]
    starts = ends - many[having]
    whose = np.repeat(np.arange(len(many)), many)
    rising = digits[np.lexsort((digits, whose))]  # each prompt's own, from the fewest digits to the most
    second = np.where(many[having] > 1, rising[np.maximum(ends - 2, 0)], 0)

    def each(reduce: np.ufunc, of: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(reduce.reduceat(of, starts), dtype=float)

    total, total_log = each(np.add, digits), each(np.add, logs)
    sizes = {
        "digits": total,
        "most_digits": rising[ends - 1],
        "mean_digits": total / many[having],
        "two_longest": rising[ends - 1] + second,
        "over_one_digit": each(np.add, digits > 1),
        "over_two_digits": each(np.add, digits > 2),
        "up_to_one": each(np.add, values <= 1),
        "round": each(np.add, round_ones),
        "total_log": total_log,
        "largest_log": each(np.maximum, logs),
        "smallest_log": each(np.minimum, logs),
        "mean_log": total_log / many[having],
    }
    of_all = np.zeros((len(sizes), len(many)))
    of_all[:, having] = list(sizes.values())
    return dict(zip(sizes, of_all, strict=True))


# In arrays, characters are counted by their kind: each sign in _COUNTED is a kind, then come these.
_SPACE, _STOP, _OTHER = range(len(_COUNTED), len(_COUNTED) + 3)
_KINDS = len(_COUNTED) + 3
_SIGNS = {sign: kind for kind, sign in enumerate(_COUNTED)} | dict.fromkeys(_STOPS, _STOP)
# The kind of each character up to U+3001. The last white space is U+3000, and all signs come before it. So later
# characters are of the same kind as U+3001.
_KIND_OF = np.array(
    [_SIGNS.get(each, _SPACE if each.isspace() else _OTHER) for each in map(chr, range(0x3002))], dtype=np.uint8
)


def _signs_and_sentences(
    prompts: Sequence[str], characters: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the (signs, n) counts of each sign in ``_COUNTED`` and the (n,) counts of sentences in n prompts.

    characters  (n,) length of each prompt
    """
    # With a space after each prompt, a stop at its end is followed by white space like the others.
    text = " ".join((*prompts, "")).encode("utf-32-le", errors="surrogatepass")
    kinds = _KIND_OF.take(np.frombuffer(text, dtype="<u4"), mode="clip")
    # Where each character is counted: in its prompt's row, in its kind's column; both as one number, for bincount.
    places = np.repeat(np.arange(len(prompts)) * _KINDS, characters + 1)
    places += kinds
    counts = np.bincount(places, minlength=len(prompts) * _KINDS).reshape(len(prompts), _KINDS)
    blank = (kinds == _SPACE) | (kinds == _COUNTED.index("\n"))
    stops = places[:-1][(kinds[:-1] == _STOP) & blank[1:]]
    return counts.T[: len(_COUNTED)], np.bincount(stops // _KINDS, minlength=len(prompts))


# Rules that description and describe share.


def _word_counts(prompt: str) -> tuple[int, int, float]:
    """Return the prompt's number of words, number of different words, and mean number of letters in a word."""
    found = words(prompt)
    return len(found), len(set(found)), len("".join(found)) / (len(found) or 1)


def _digits_of(numbers: Sequence[str]) -> list[str]:
    """Return the digits of each number, without points and commas; all at once, which is faster than one by one."""
    return " ".join(numbers).replace(".", "").replace(",", "").split()


def _by_operation(operators: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Return the counts of plus, minus, times and divided, each in all its signs.

    operators  for each sign in ``_OPERATORS`` its count in one prompt, or its (n,) counts in n prompts
    """
    plus, minus, long_minus, star, times, slash, divide, _, _ = operators
    return plus, minus + long_minus, star + times, slash + divide
