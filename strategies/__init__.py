"""Test-time strategies as pure generators, and the arms they become with a budget.

Standard library only; nothing here generates, scores, waits or counts. To add a strategy: write a function, add a line
to :data:`STRATEGIES`, an enum value to the proto and a row to the tests' table.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from strategies.requests import Extend, Outcome, Path, Score, Search
from strategies.revision import revision
from strategies.sampling import larger_model, sample
from strategies.selection import best, majority, weighted
from strategies.tree_search import beam_search, dvts, lookahead

__all__ = ["STRATEGIES", "Arm", "Extend", "InvalidArm", "Outcome", "Path", "Score", "Search"]

STRATEGIES: Mapping[str, Callable[..., Search]] = {
    "single": partial(sample, select=majority, scored=False, temperature=0),  # one greedy solution
    "majority": partial(sample, select=majority, scored=False),
    "best_of_n": partial(sample, select=best, scored=True),
    "weighted_best_of_n": partial(sample, select=weighted, scored=True),
    "beam_search": beam_search,
    "dvts": dvts,
    "lookahead": lookahead,
    "revision": revision,
    "larger_model": larger_model,
}
# Which of them can be replayed from a pool of independent attempts, and how each chooses; the others must be run.
SELECTIONS = {"majority": majority, "best_of_n": best, "weighted_best_of_n": weighted}
LARGEST = 4096  # solutions' worth of sampling: far beyond any measured budget, well within memory
_OPTIONS = {"beam_search": {"m"}, "dvts": {"m"}, "lookahead": {"m", "k"}, "revision": {"chains"}}
# Which of them may stop early, see ``stopping``.
STOPPING = ("majority", "best_of_n", "weighted_best_of_n", "dvts")
# Parameters as an arm's text gives them, in the order in which it does.
_WHOLE: tuple[str, Callable[[str], float]] = (r"\d{1,9}", int)
_READ = dict.fromkeys(("n", "m", "k", "chains"), _WHOLE) | {"stop": (r"\d(\.\d{1,17})?", float)}


class InvalidArm(ValueError):
    """An arm that can't be run; ``field`` names the part that is wrong."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True, order=True)
class Arm:
    """A strategy with its parameters and budget.

    n       solutions' worth of sampling the strategy spends at most, before lookahead; of larger_model, how many times
            the generator's parameters its own model has, rounded up
    m       beam width: continuations of each kept path (beam_search, dvts, lookahead)
    k       steps of lookahead (lookahead)
    chains  parallel chains (revision)
    stop    stop sampling once this sure, above 0.5 and below 1: that the leading answer keeps its lead (majority,
            weighted_best_of_n), or that a solution is right, by the verifier (best_of_n, dvts). 0, the default: take
            all n

    Raises InvalidArm where the parameters don't fit the strategy. ``str`` and :meth:`parse` are inverses.
    """

    strategy: str
    n: int = 1
    m: int = 0
    k: int = 0
    chains: int = 0
    stop: float = 0.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidArm("strategy", f"unknown strategy {self.strategy!r}; known: {', '.join(STRATEGIES)}")
        if self.n > LARGEST or self.budget > LARGEST:
            raise InvalidArm("n", f"{self.strategy} may spend at most {LARGEST} solutions, got {self.budget}")
        if self.n < 1:
            raise InvalidArm("n", f"{self.strategy} needs n of at least 1, got {self.n}")
        if self.strategy == "single" and self.n != 1:
            raise InvalidArm("n", f"single is one solution, got n={self.n}; majority takes more")
        for option in ("m", "k", "chains"):
            value, wanted = getattr(self, option), option in _OPTIONS.get(self.strategy, ())
            if wanted and value < 1:
                raise InvalidArm(option, f"{self.strategy} needs {option} of at least 1, got {value}")
            if value and not wanted:
                raise InvalidArm(option, f"{self.strategy} takes no {option}")
        for option in ("m", "chains"):
            value = getattr(self, option)
            if value and self.n % value:
                raise InvalidArm(
                    "n", f"{self.strategy} needs n divisible by {option}, got n={self.n}, {option}={value}"
                )
        if self.stop and self.strategy not in STOPPING:
            raise InvalidArm("stop", f"{self.strategy} takes no stop; only {', '.join(STOPPING)} can stop early")
        if self.stop and not 0.5 < self.stop < 1:
            raise InvalidArm(
                "stop",
                f"stop is a probability above 0.5 and below 1, got {self.stop}; leave it out to take all n samples",
            )

    @property
    def larger(self) -> bool:
        """Whether the larger model writes, and not the generator."""
        return self.strategy == "larger_model"

    @property
    def budget(self) -> int:
        """The most it samples, in complete solutions' worth: n, or n * (k + 1) with lookahead."""
        return self.n * (self.k + 1)

    def search(self) -> Search:
        """A fresh search, to be driven."""
        wanted = _OPTIONS.get(self.strategy, set()) | ({"stop"} if self.stop else set())
        return STRATEGIES[self.strategy](n=self.n, **{option: getattr(self, option) for option in wanted})

    def __str__(self) -> str:
        options = [f"{name}={getattr(self, name)}" for name in _READ if getattr(self, name)]
        return f"{self.strategy}({', '.join(options)})"

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read ``beam_search(n=16, m=4)``; raises InvalidArm."""
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*(.*?)\s*\))?\s*", text)
        if not match:
            raise InvalidArm("strategy", f"can't read arm {text!r}; write it like beam_search(n=16, m=4)")
        options: dict[str, Any] = {}
        for part in filter(None, re.split(r"\s*,\s*", match[2] or "")):
            name, _, value = (word.strip() for word in part.partition("="))
            pattern, read = _READ.get(name, _WHOLE)
            if name not in _READ or name in options or not re.fullmatch(pattern, value):
                raise InvalidArm(
                    "strategy", f"can't read {part!r} in arm {text!r}; write it like {match[1]}(n=16, m=4)"
                )
            options[name] = read(value)
        return cls(match[1], **options)
