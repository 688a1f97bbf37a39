"""Whether a prompt is like the training prompts of a difficulty model, which knows nothing of other prompts.

Two things are checked. Words: the share of the prompt's different words and signs that no training prompt had. Form:
how far its length, structure, and counts of numbers and operators lie outside the range of the training prompts.
Another language, another kind of question and code all have other words, and most have another form. The size of
numbers is not checked: that is the difficulty model's subject. How far a prompt of the same kind may be off is learned
out of fold.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from string import ascii_lowercase
from typing import Self

import numpy as np
from numpy.typing import NDArray

from difficulty.features import FORM, describe, description, tokens, tokens_of_many

_QUANTILE = 0.995  # quantile of the out-of-fold distances up to which a prompt is familiar
# The least that a prompt may be off. Generated prompts are so alike that one new noun would make a prompt unfamiliar.
_LEAST_UNKNOWN, _LEAST_OUTSIDE = 0.1, 1.0
# Tokens that don't tell kinds of prompts apart: single letters and masked numbers. _words leaves all of these out.
# Listing the common ones saves calling it for most prompts.
_VARY = (*ascii_lowercase, *("0" * digits for digits in range(1, 16)))
_ALIKE = 0.05  # prompts whose feature has a smaller standard deviation, on its logarithmic scale, are all alike in it


@dataclass(frozen=True)
class Familiarity:
    """What was learned of the training prompts; plain data, read from and written to JSON.

    words         words and signs of the training prompts, in lower case, without single letters
    most_unknown  largest share of unknown words and signs among a familiar prompt's different words, signs and numbers
    form          by name of a feature in ``features.FORM``, the least and the largest value of a familiar prompt
    tasks         names of the tasks that training prompts had; "" is the bundle's first one
    prompts       number of training prompts
    false_alarms  share of the training prompts that were unfamiliar out of fold

    Raises ValueError where ``form`` names an unknown feature.
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
        """Whether the prompt is like the training prompts."""
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
        """(n,) whether each prompt is like the training prompts, computed in arrays."""
        found = tokens_of_many(tuple(prompts))
        strange = set(chain.from_iterable(found)) - self._known  # of all prompts at once, since mostly there are none
        alike = np.array([not strange or strange.isdisjoint(each) or self._knows(each) for each in found], dtype=bool)
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
        """Learn from the texts of training prompts. Raises ValueError if fewer than two of them differ.

        tasks  names of the tasks that the prompts had
        folds  how far off prompts are is measured in this many folds, each against the others
        seed   of the folds
        """
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
    """Return the masked tokens without numbers and single letters, which vary within a kind of prompt."""
    return {token for token in found if token[0] != "0" and (len(token) > 1 or not token.isalpha())}


def _forms(prompts: Sequence[str]) -> NDArray[np.float64]:
    """(n, features) values of the features in FORM."""
    return np.asarray(describe(prompts)[:, list(FORM.values())])


def _scale(forms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(features,) unit of distance: the standard deviation or, where prompts are all alike, log 2: a doubling."""
    spread = forms.std(axis=0)
    return np.where(spread < _ALIKE, math.log(2), spread + _ALIKE)


def _outside(forms: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how many units each lies outside the range of the prompts ``of``, in the feature where that is farthest."""
    beyond = np.maximum(of.min(axis=0) - forms, forms - of.max(axis=0)) / _scale(of)
    return np.asarray(beyond.clip(min=0).max(axis=1))
