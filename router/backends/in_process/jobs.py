"""Jobs for the thread that owns a model."""

import random
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from router.backends import Usage
from router.backends.in_process.kv import PrefixKey
from router.backends.steps import StepText, Writing
from strategies import Candidate, Earlier


@dataclass(eq=False, slots=True)
class ExtendJob:
    """One call to extend. ``open`` are its candidates being written; ``done`` resolves to all of its candidates, in
    order.

    prefixes  token ids of the rendered prompt, by the earlier attempts that it shows
    longest   most tokens of one candidate
    text      finds the ends of steps; None: the engine's own
    """

    prefixes: dict[tuple[Earlier, ...], tuple[int, ...]]
    candidates: list[Candidate]
    steps: int | None
    temperature: float
    longest: int
    tokens_left: int | None
    deadline: float | None
    seed: int
    usage: Usage
    text: StepText | None = None
    open: list["Open"] = field(default_factory=list)
    cancelled: bool = False
    done: "Future[list[Candidate]]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class CallJob:
    """Any other work for the thread that owns the model.

    call      answers a list of arguments at once: all those that wait for this call. A generator that yields after
              each piece of work, so that other calls' tokens are computed in between
    argument  this job's
    size      tokens of the argument; limits how many arguments are answered at once
    """

    call: Callable[[list[Any]], Generator[None, None, list[Any]]]
    argument: Any
    size: int = 1
    cancelled: bool = False
    done: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class Open:
    """One candidate being written."""

    job: ExtendJob
    index: int
    writing: Writing
    steps_left: float
    tokens_left: int
    rng: random.Random
    since: float  # when it began to wait, by time.monotonic()
    done: bool = False
    key: PrefixKey | None = None  # while no token is added

    @property
    def prefix(self) -> tuple[int, ...]:
        """Return the tokens of its prompt and of its thought."""
        candidate = self.writing.candidate
        prompt = self.job.prefixes[candidate.earlier]
        return prompt + candidate.thought if candidate.thought else prompt

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prefix + self.writing.tokens

    @property
    def last(self) -> int:
        """Return its last token."""
        return (self.writing.new or self.writing.candidate.tokens or self.prefix)[-1]

    @property
    def longest(self) -> int:
        """Return how many tokens it may have in the end, its prompt's included."""
        written = len(self.writing.candidate.tokens) + len(self.writing.new)
        return len(self.prefix) + written + self.tokens_left

    @property
    def cache_key(self) -> PrefixKey:
        """Return the key of all its tokens but the last, whose keys and values are computed with the next token."""
        if self.key is None:
            self.key = id(self.job.usage), self.tokens[:-1]
        return self.key


Row = list[Open]  # candidates of one search at one temperature, with the same tokens so far
