"""How a candidate's tokens are cut into steps while it is written, and how verifiers find the steps' tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, chain
from typing import Any, Literal

from strategies import Candidate

End = Literal["stop", "length", "cut"] | None  # see Candidate.end


class StepText:
    """A tokenizer and the delimiter that ends a step."""

    def __init__(self, tokenizer: Any, delimiter: str):
        self.delimiter = delimiter
        self.decode: Callable[[Sequence[int]], str] = tokenizer.decode
        self._encode: Callable[[str], Sequence[int]] = lambda text: tokenizer.encode(text, add_special_tokens=False)
        # Most tokens can't end a step. After those, the step need not be decoded again.
        self.may_end: Callable[[int], bool] = cache(lambda token: delimiter[-1] in tokenizer.decode([token]))

    def split(self, text: str) -> tuple[str, ...]:
        """Return the steps of a whole solution, cut where they would be cut while it is written."""
        writing = Writing(self, Candidate())
        for token in self._encode(text):
            writing.append(token, None)
        return writing.ended("stop").steps


def split_text(text: str, delimiter: str) -> tuple[str, ...]:
    """Cut a text into steps, each with its delimiter at the end. A blank line belongs to the step after it."""
    steps: list[str] = []
    begun, start = 0, 0  # where the step begins, and its last line
    while start < len(text):
        found = text.find(delimiter, start)
        end = len(text) if found < 0 else found + len(delimiter)
        if text[start:end].strip():
            steps.append(text[begun:end])
            begun = end
        start = end
    if begun < len(text) and steps:
        steps[-1] += text[begun:]
    return tuple(steps)


@dataclass(eq=False, slots=True)
class Writing:
    """A candidate while it is written, token by token.

    new                      tokens since the last closed step
    log_probs, confidences   one for each new token, or none at all
    """

    text: StepText
    candidate: Candidate
    new: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.candidate.tokens + tuple(self.new)

    def append(self, token: int, log_prob: float | None, confidence: float | None = None) -> bool:
        """Add a sampled token; return whether it closes a step. A step has whole tokens, and is never a blank line."""
        self.new.append(token)
        if log_prob is not None:
            self.log_probs.append(log_prob)
        if confidence is not None:
            self.confidences.append(confidence)
        if not self.text.may_end(token):
            return False
        text = self.text.decode(self.new)
        if self.text.delimiter not in text or not text.strip():
            return False
        self._close(text)
        return True

    def ended(self, end: End) -> Candidate:
        """Return the candidate with all that was written, an unfinished step included."""
        if self.new:
            text = self.text.decode(self.new)
            if text.strip():
                self._close(text)
            elif self.candidate.steps:
                self._lengthen(text)
        return replace(self.candidate, end=end)

    def _close(self, text: str) -> None:
        candidate = self.candidate
        self.candidate = replace(
            candidate,
            steps=(*candidate.steps, text),
            tokens=self.tokens,
            log_probs=(*candidate.log_probs, sum(self.log_probs)) if self.log_probs else candidate.log_probs,
            confidences=(*candidate.confidences, *self.confidences),
            token_counts=(*candidate.token_counts, len(self.new)),
            scores=None,
        )
        self.new, self.log_probs, self.confidences = [], [], []

    def _lengthen(self, text: str) -> None:
        """Add blank lines at the end of a solution to its last step: they are no step, but they are billed."""
        candidate = self.candidate
        self.candidate = replace(
            candidate,
            steps=(*candidate.steps[:-1], candidate.steps[-1] + text),
            tokens=self.tokens,
            log_probs=(*candidate.log_probs[:-1], candidate.log_probs[-1] + sum(self.log_probs))
            if self.log_probs
            else (),
            confidences=(*candidate.confidences, *self.confidences),
            token_counts=(*candidate.token_counts[:-1], candidate.token_counts[-1] + len(self.new)),
            scores=None,
        )
        self.new, self.log_probs, self.confidences = [], [], []


def encoded(tokenizer: Any, candidate: Candidate, model: str | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a candidate's tokens, and the number of tokens up to the end of each step.

    A candidate that ``model``, the model of this tokenizer, wrote has the sampled tokens. The text of any other is
    encoded.
    """
    if candidate.tokens and candidate.model == model:
        return candidate.tokens, tuple(accumulate(candidate.token_counts))
    steps = [tokenizer.encode(step, add_special_tokens=False, split_special_tokens=True) for step in candidate.steps]
    return tuple(chain.from_iterable(steps)), tuple(accumulate(map(len, steps)))
