"""What a search asks of the engines, and what it gets back.

A search is a generator. It yields an :class:`Extend`, a :class:`Score` or an :class:`AskConfidence`, and receives the
same candidates back in the same order: extended, scored, or with their confidence. It returns a :class:`Result`. It
never does I/O, counts tokens or looks at a clock: one driver does that for every strategy. When a limit or the deadline
ends the search early, the driver answers at once with the candidates as they are, so every search must accept
unfinished and unscored candidates.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from strategies.strategy import Strategy


class Earlier(NamedTuple):
    """An attempt that the model is shown before it writes the next one.

    finding  what the verifier found wrong with it, which the model is told; "": it is only asked for another attempt
    """

    text: str
    finding: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution, or the beginning of one.

    steps      text of each step, delimiter included; joined they are the text
    tokens     token ids that the model sampled after the rendered prompt, so that a prefix continues exactly; () where
               the engine gives none
    log_probs  one per step: the sum of its tokens' log-probabilities under the model, in nats; () where unknown
    confidences  one per token of the steps: how far the likeliest tokens stood out there, see
               ``backends.verifiers.lowest_window``; () unless asked for
    token_counts  one per step: its number of tokens
    scores     one per step from the verifier, in [0, 1]; None until scored, () where the candidate is longer
               than the verifier can read; neither is a score of 0
    finding    what the verifier found wrong, for a model to read: text that may quote the solution, so it is as little
               trusted as the solution; "" where nothing is wrong, or the verifier does not say
    end        None while open; "stop": the model ended it, and only then it is finished; "length": it reached the
               model's longest solution; "cut": a limit of the request (tokens, deadline) ended it
    answer     final answer, as the task's ``key`` spells it; None when there is none
    no_answer  why a candidate that has ended has no answer
    earlier    earlier attempts that the model was shown, oldest first (sequential revision, repair)
    model      name of the model that writes it and whose token ids ``tokens`` are; None: the bundle's reference model
    reasoning  what the model thought before it answered; it is no part of the text, and no verifier reads it
    thought    token ids of the reasoning, between the rendered prompt and ``tokens``, where the engine continues exact
               prefixes
    thinking_tokens  number of tokens that were generated as reasoning
    confidence probability that the answer is right, by all that was known when it was computed; None: not computed, or
               unknown
    """

    steps: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    token_counts: tuple[int, ...] = ()
    confidences: tuple[float, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] | None = None
    finding: str = ""
    end: Literal["stop", "length", "cut"] | None = None
    answer: str | None = None
    no_answer: str = ""
    earlier: tuple[Earlier, ...] = ()
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
        """Length of the text in tokens."""
        return len(self.tokens) or sum(self.token_counts)

    @property
    def cost(self) -> int:
        """Number of tokens generated to write it, reasoning and end-of-sequence token included."""
        return self.length + self.thinking_tokens + self.finished

    @property
    def finished(self) -> bool:
        return self.end == "stop"

    @property
    def score(self) -> float | None:
        """The last step's score: Snell et al. found it to beat the minimum and the product (section 5.1)."""
        return self.scores[-1] if self.scores else None

    @property
    def log_prob(self) -> float | None:
        """Mean log-probability of a token under the model that wrote it, in nats; None where it is unknown."""
        tokens = sum(self.token_counts)
        return sum(self.log_probs) / tokens if self.log_probs and tokens else None


@dataclass(frozen=True, slots=True)
class Extend:
    """Continue every open candidate by ``steps`` steps, or to its end if that is None.

    Equal candidates are continued independently. Candidates that have ended come back as they are. All candidates name
    the same model, which continues them. A ``temperature`` of None is that model's own setting; 0 is greedy.
    """

    candidates: tuple[Candidate, ...]
    steps: int | None = None
    temperature: float | None = None

    @property
    def model(self) -> str | None:
        return self.candidates[0].model if self.candidates else None


@dataclass(frozen=True, slots=True)
class Score:
    """Give every candidate one score per step."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """An arm that has run, alone or in a cascade.

    confidence  probability that ``result`` is right, as computed when the stage ended; None: unknown
    """

    arm: "Strategy"
    result: "Result"
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class AskConfidence:
    """Give the confidence in the answer of every stage, considering all stages. This asks no language model.

    threshold  the confidence that ends the search; None: the last stage has run
    """

    stages: tuple[Stage, ...]
    threshold: float | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The solution that each stage would return; an empty candidate for a stage without one."""
        return tuple(stage.result.best or Candidate() for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found.

    best        the returned solution; None when no candidate gave an answer
    weight      the winning answer's summed votes, in the units of the selection that chose it
    share       the winning answer's share of all votes, in [0, 1]
    candidates  every solution that was considered, with an answer or without
    unanswered  where ``best`` is None, the best text without an answer; the driver fills it in
    stages      of a cascade: the stages that ran, with what each found
    """

    best: Candidate | None = None
    weight: float = 0.0
    share: float = 0.0
    candidates: tuple[Candidate, ...] = field(default=(), repr=False)
    unanswered: Candidate | None = field(default=None, repr=False)
    stages: tuple[Stage, ...] = field(default=(), repr=False)

    @property
    def shown(self) -> Candidate | None:
        """The solution whose text is returned, with an answer or without; None: nothing was written."""
        return self.best or self.unanswered

    @property
    def answer(self) -> str | None:
        return self.best.answer if self.best else None


Search = Generator[Extend | Score | AskConfidence, Sequence[Candidate], Result]
