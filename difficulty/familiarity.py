"""Whether a prompt is like the prompts that a difficulty model learned from: of others it knows nothing.

Two things are looked at, and neither at numbers' sizes, which the difficulty model is there for. Words: which share of
the prompt's different words and signs no training prompt had. Form: how far its length, structure, and counts of
numbers and operators lie outside what training prompts had. Another language, another kind of question, code: all have
other words, and most another form. How far a prompt of the same kind may be off is learned out of fold.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import Self

import numpy as np
from numpy.typing import NDArray

from difficulty.features import FORM, describe, description, tokens, tokens_of_many

_QUANTILE = 0.995  # of out-of-fold distances that is still familiar
# At least so far a prompt may be off. Generated prompts are so alike that one new animal would be too much.
_LEAST_UNKNOWN, _LEAST_OUTSIDE = 0.1, 1.0
_VARY = (*ascii_lowercase, *("0" * digits for digits in range(1, 16)))  # tokens that say nothing of a kind of prompt
_ALIKE = 0.05  # standard deviation, on a logarithmic scale


@dataclass(frozen=True)
class Familiarity:
    """Plain data: read from and written to JSON.

    words         words and signs of the training prompts, in lower case, without single letters
    most_unknown  largest share of a familiar prompt's different words, signs and numbers that are no known words
    form          by name of a feature in ``features.FORM``, the least and the largest value of a familiar prompt
    tasks         names of the tasks that training prompts had; "" is the bundle's first one
    prompts       how many training prompts there were
    false_alarms  share of them that were unfamiliar out of fold
    """

    __pydantic_config__ = {"extra": "forbid"}  # where JSON is checked by pydantic  # noqa: RUF012

    words: tuple[str, ...]
    most_unknown: float
    form: Mapping[str, tuple[float, float]]
    tasks: tuple[str, ...] = ("",)
    prompts: int = 0
    false_alarms: float = 0.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.form) - set(FORM)):
            raise ValueError(f"form: unknown feature {unknown[0]!r}; known: {', '.join(FORM)}")

    def knows(self, prompt: str) -> bool:
        """Whether the prompt is like those of training."""
        values = description(prompt)
        for column, low, high in self._bounds:
            if not low <= values[column] <= high:
                return False
        return self._knows(tokens(prompt))

    def _knows(self, found: Sequence[str]) -> bool:
        words = set(found)
        unknown = words - self._known
        return not unknown or len(_words(unknown)) <= self.most_unknown * len(words)

    def knows_many(self, prompts: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) the same of many prompts, in arrays."""
        alike = np.fromiter(map(self._knows, tokens_of_many(tuple(prompts))), dtype=bool, count=len(prompts))
        columns, low, high = (np.array(each) for each in zip(*self._bounds, strict=True))
        forms = describe(prompts)[:, columns]
        return np.asarray(alike & ((low <= forms) & (forms <= high)).all(axis=1))

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.words, *_VARY))

    @cached_property
    def _bounds(self) -> list[tuple[int, float, float]]:
        return [(FORM[name], low, high) for name, (low, high) in self.form.items()]

    @classmethod
    def of(cls, prompts: Sequence[str], *, tasks: Sequence[str] = ("",), folds: int = 5, seed: int = 0) -> Self:
        """Learn from training prompts, at least two different ones, else ValueError."""
        texts = sorted(set(prompts))
        if len(texts) < 2:
            raise ValueError("familiarity needs at least two different prompts")
        fold = np.random.default_rng(seed).permutation(len(texts)) % min(folds, len(texts))
        forms = _forms(texts)
        different = [set(tokens(text)) for text in texts]
        words = [_words(each) for each in different]
        unknown, outside = np.zeros(len(texts)), np.zeros(len(texts))
        for each in range(fold.max() + 1):
            known = frozenset().union(*(words[i] for i in np.flatnonzero(fold != each)))
            for i in np.flatnonzero(fold == each):
                unknown[i] = len(words[i] - known) / max(1, len(different[i]))
            outside[fold == each] = _outside(forms[fold == each], forms[fold != each])
        most_unknown = max(_LEAST_UNKNOWN, float(np.quantile(unknown, _QUANTILE)))
        margin = max(_LEAST_OUTSIDE, float(np.quantile(outside, _QUANTILE)))
        low, high, scale = forms.min(axis=0), forms.max(axis=0), _scale(forms)
        return cls(
            words=tuple(sorted(frozenset().union(*words))),
            most_unknown=round(most_unknown, 4),
            form={
                name: (round(float(low[i] - margin * scale[i]), 4), round(float(high[i] + margin * scale[i]), 4))
                for i, name in enumerate(FORM)
            },
            tasks=tuple(tasks),
            prompts=len(texts),
            false_alarms=round(float(((unknown > most_unknown) | (outside > margin)).mean()), 4),
        )


def _words(found: Collection[str]) -> set[str]:
    """Of masked tokens, without numbers and single letters: those vary."""
    return {token for token in found if token[0] != "0" and (len(token) > 1 or not token.isalpha())}


def _forms(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, features) those of FORM."""
    return np.asarray(describe(prompts)[:, list(FORM.values())])


def _scale(forms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(features,) what one step is: a standard deviation; where prompts are all alike, one more or a double."""
    spread = forms.std(axis=0)
    return np.where(spread < _ALIKE, math.log(2), spread + _ALIKE)


def _outside(forms: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how many steps each lies outside the range ``of`` others, in the feature where it is farthest."""
    beyond = np.maximum(of.min(axis=0) - forms, forms - of.max(axis=0)) / _scale(of)
    return np.asarray(beyond.clip(min=0).max(axis=1))
