"""What a search asks of the engines, and what it gets back.

A search is a generator. It yields an :class:`Extend`, a :class:`Score` or a :class:`Believe`, receives the same
candidates back, extended, scored or believed, in the same order, and returns a :class:`Result`. It never does I/O,
counts tokens or looks at a clock: one driver does that for every strategy. When a cap or the deadline ends the search
early, requests are answered at once with the candidates as they are; a search copes, since an unfinished or unscored
candidate is an ordinary thing.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from strategies.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution, or the beginning of one.

    steps      text of each step, delimiter included; joined they are the text
    tokens     the model's token ids after the rendered prompt, as sampled, so that a prefix continues exactly; () where
               its engine gives none
    log_probs  one a step: the sum of its tokens' log-probabilities under the model, in nats; () where unknown
    confidences  one a token of the steps: how far the likeliest tokens stood out there, see
               ``backends.verifiers.lowest_window``; () where nobody asked
    token_counts  one a step: how many tokens it took
    scores     one a step from the verifier, in [0, 1]; None until scored, and an unscored candidate is not one scored 0
    end        None while open; "stop": the model ended it, only then it is finished; "length": it met the model's
               longest solution; "cut": a limit of the request (tokens, deadline) ended it
    answer     final answer, as the task's ``key`` spells it; None when there is none
    no_answer  why there is none, once it has ended
    earlier    earlier attempts that the model was shown, oldest first (sequential revision)
    model      name of the model that writes it, whose ``tokens`` they are; None: the bundle's reference model
    reasoning  what the model thought before it answered; it is no part of the text, and no verifier reads it
    thought    that as token ids between the rendered prompt and ``tokens``, where the engine continues exact prefixes
    thinking_tokens  tokens that were generated to think
    confidence probability that its answer is right, by all that was known when that was asked; None: not asked, or
               nobody can say
    """

    steps: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    token_counts: tuple[int, ...] = ()
    confidences: tuple[float, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] | None = None
    end: Literal["stop", "length", "cut"] | None = None
    answer: str | None = None
    no_answer: str = ""
    earlier: tuple[str, ...] = ()
    model: str | None = None
    reasoning: str = ""
    thought: tuple[int, ...] = ()
    thinking_tokens: int = 0
    confidence: float | None = None

    @property
    def text(self) -> str:
        return "".join(self.steps)

    @property
    def length(self) -> int:
        """Tokens of its text."""
        return len(self.tokens) or sum(self.token_counts)

    @property
    def cost(self) -> int:
        """Tokens that were generated to write it, thoughts and its end-of-sequence token included."""
        return self.length + self.thinking_tokens + self.finished

    @property
    def finished(self) -> bool:
        return self.end == "stop"

    @property
    def score(self) -> float | None:
        """The last step's score: Snell et al. found it to beat the minimum and the product (section 5.1)."""
        return self.scores[-1] if self.scores else None


@dataclass(frozen=True, slots=True)
class Extend:
    """Continue every open candidate by ``steps`` steps, or to its end. Equal candidates are continued independently.

    Candidates that have ended come back as they are. All are written by one model, which each of them names.
    ``temperature`` None is that model's own setting; 0 is greedy.
    """

    candidates: tuple[Candidate, ...]
    steps: int | None = None
    temperature: float | None = None

    @property
    def model(self) -> str | None:
        return self.candidates[0].model if self.candidates else None


@dataclass(frozen=True, slots=True)
class Score:
    """Give every candidate one score a step."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """An arm that has run, alone or in a cascade.

    confidence  probability that ``result`` is right, as it was believed when the stage ended; None: nobody can say
    """

    arm: "Strategy"
    result: "Result"
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Believe:
    """Say of the answer of every stage how likely it is right, in the light of all of them: no model is asked.

    threshold  the confidence that ends the search; None: the last stage has run
    """

    stages: tuple[Stage, ...]
    threshold: float | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """One a stage: the solution that it would return, an empty one where it has none."""
        return tuple(stage.result.best or Candidate() for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found.

    best        the returned solution; None when no candidate gave an answer
    weight      the winning answer's summed vote, in the units of the selection that made it
    share       the winning answer's share of all votes, in [0, 1]
    candidates  every solution that was weighed, answered or not
    unanswered  where there is no best one, the best text that there is all the same: the driver looks for it
    stages      of a cascade: what each stage found that was run
    """

    best: Candidate | None = None
    weight: float = 0.0
    share: float = 0.0
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    unanswered: Candidate | None = field(default=None, repr=False)
    stages: tuple[Stage, ...] = field(default=(), repr=False)

    @property
    def shown(self) -> Candidate | None:
        """The solution whose text is returned, answer or not; None: nothing was written."""
        return self.best or self.unanswered

    @property
    def answer(self) -> str | None:
        return self.best.answer if self.best else None


Search = Generator[Extend | Score | Believe, Sequence[Candidate], Result]
