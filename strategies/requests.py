"""What a search says to its driver, and what it hears back.

A strategy is a generator. It yields an :class:`Extend` or a :class:`Score`, receives the same paths back, extended or
scored, in the same order, and returns an :class:`Outcome`. It never does I/O, counts tokens or looks at a clock: its
driver does, once for every strategy. When a budget or a deadline ends the search early, asks are answered at once with
the paths as they are; a strategy copes because an unfinished or unscored path is an ordinary thing to receive.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Path:
    """One solution, or the beginning of one.

    steps      text of each step, delimiter included; joined they are the text
    tokens     the generator's token ids after the rendered prompt, as sampled, so that a prefix continues exactly
    log_probs  one a step: the sum of its tokens' log-probabilities under the generator, in nats; () where unknown
    token_counts  one a step: how many of ``tokens`` it took
    scores     one a step from the verifier, in [0, 1]; None until scored, and an unscored path is not a path scored 0
    end        None while open; "stop": the generator ended it, only then it is finished; "length": it met the
               generator's longest solution; "cut": a limit of the request (tokens, deadline) ended it
    answer     canonical final answer; None when there is none
    earlier    earlier attempts the generator was shown, oldest first (sequential revision)
    """

    steps: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    token_counts: tuple[int, ...] = ()
    scores: tuple[float, ...] | None = None
    end: Literal["stop", "length", "cut"] | None = None
    answer: str | None = None
    earlier: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.steps)

    @property
    def cost(self) -> int:
        """Tokens that were generated to write it, its end-of-sequence token included."""
        return len(self.tokens) + self.finished

    @property
    def finished(self) -> bool:
        return self.end == "stop"

    @property
    def score(self) -> float | None:
        """The last step's score: Snell et al. found it to beat the minimum and the product (section 5.1)."""
        return self.scores[-1] if self.scores else None


@dataclass(frozen=True, slots=True)
class Extend:
    """Continue every open path by ``steps`` steps, or to its end. Equal paths are continued independently.

    Paths that have ended come back as they are. ``temperature`` None is the generator's own setting; 0 is greedy.
    """

    paths: tuple[Path, ...]
    steps: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Give every path one score a step."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search found.

    best        the returned solution; None when no candidate gave an answer
    weight      the winning answer's summed vote, in the units of the selection that made it
    share       the winning answer's share of all votes, in [0, 1]
    candidates  every solution that was weighed, answered or not
    """

    best: Path | None = None
    weight: float = 0.0
    share: float = 0.0
    candidates: tuple[Path, ...] = field(default=(), repr=False)

    @property
    def answer(self) -> str | None:
        return self.best.answer if self.best else None


Search = Generator[Extend | Score, Sequence[Path], Outcome]
