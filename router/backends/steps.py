"""A path and its tokens: which of them closes a step, what is left at the end, and how others read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, chain
from typing import Any, Literal

from strategies import Path

End = Literal["stop", "length", "cut"] | None  # see Path.end


class StepText:
    """A tokenizer and the delimiter that ends a step."""

    def __init__(self, tokenizer: Any, delimiter: str):
        self.delimiter = delimiter
        self.decode: Callable[[Sequence[int]], str] = tokenizer.decode
        # Most tokens can't end a step, and then the step need not be decoded again.
        self.may_end: Callable[[int], bool] = cache(lambda token: delimiter[-1] in tokenizer.decode([token]))


@dataclass(eq=False, slots=True)
class Writing:
    """``new``: tokens since the last closed step, ``log_probs`` those of them that are known: all or none."""

    text: StepText
    path: Path
    new: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.path.tokens + tuple(self.new)

    def append(self, token: int, log_prob: float | None) -> bool:
        """Add a sampled token; true where it closes a step. A step is whole tokens, and a blank line is no step."""
        self.new.append(token)
        if log_prob is not None:
            self.log_probs.append(log_prob)
        if not self.text.may_end(token):
            return False
        text = self.text.decode(self.new)
        if self.text.delimiter not in text or not text.strip():
            return False
        self._close(text)
        return True

    def ended(self, end: End) -> Path:
        """The path with what was written, an unfinished step included."""
        if self.new:
            text = self.text.decode(self.new)
            if text.strip():
                self._close(text)
            elif self.path.steps:
                self._lengthen(text)
        return replace(self.path, end=end)

    def _close(self, text: str) -> None:
        path = self.path
        self.path = replace(
            path,
            steps=(*path.steps, text),
            tokens=self.tokens,
            log_probs=(*path.log_probs, sum(self.log_probs)) if self.log_probs else path.log_probs,
            token_counts=(*path.token_counts, len(self.new)),
            scores=None,
        )
        self.new, self.log_probs = [], []

    def _lengthen(self, text: str) -> None:
        """Blank lines at the end of a solution are no step of their own, but they were written and are billed."""
        path = self.path
        self.path = replace(
            path,
            steps=(*path.steps[:-1], path.steps[-1] + text),
            tokens=self.tokens,
            log_probs=(*path.log_probs[:-1], path.log_probs[-1] + sum(self.log_probs)) if self.log_probs else (),
            token_counts=(*path.token_counts[:-1], path.token_counts[-1] + len(self.new)),
            scores=None,
        )
        self.new, self.log_probs = [], []


def encoded(tokenizer: Any, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A path's tokens, and how many of them come up to the end of each step.

    They are the ones that were sampled; an attempt from elsewhere has only its text.
    """
    if path.tokens:
        return path.tokens, tuple(accumulate(path.token_counts))
    steps = [tokenizer.encode(step, add_special_tokens=False) for step in path.steps]
    return tuple(chain.from_iterable(steps)), tuple(accumulate(map(len, steps)))
