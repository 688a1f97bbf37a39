"""Models behind two small protocols: a generator writes, a verifier scores.

Each kind of engine that runs models is a subpackage or module here, and a line in ``registry``.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from router.backends.states import State
from router.prompt import Prompt
from strategies import Candidate


@dataclass(slots=True, weakref_slot=True)
class Usage:
    """What a model has spent. The engine adds to it while the model works, so it is right also for a cancelled call.

    prompt_tokens     tokens that were prefilled; a prefix that many samples share is prefilled, and counted, once
    generated_tokens  tokens sampled, end-of-sequence tokens included
    scored_tokens     tokens the verifier read
    calls             requests to an engine
    thinking_tokens   how many of the generated tokens are thoughts before an answer
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    calls: int = 0
    thinking_tokens: int = 0

    def add(
        self,
        *,
        calls: int = 0,
        prompt_tokens: int = 0,
        generated_tokens: int = 0,
        scored_tokens: int = 0,
        thinking_tokens: int = 0,
    ) -> None:
        self.calls += calls
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += generated_tokens
        self.scored_tokens += scored_tokens
        self.thinking_tokens += thinking_tokens


class Generator(Protocol):
    """A language model that writes solutions.

    ``parameters`` is the number of weights that a token passes through; FLOPs are computed from it.
    """

    parameters: int

    async def extend(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        steps: int | None,
        temperature: float | None,
        max_tokens: int | None,
        deadline: float | None,
        seed: int,
        usage: Usage,
        longest: int | None = None,
    ) -> list[Candidate]:
        """Continue each open candidate by ``steps`` steps (None: to its end); return all candidates in their order.

        max_tokens   most new tokens of all candidates together; None: no cap
        deadline     time on time.monotonic's clock by which the call returns what is written so far
        temperature  0 is greedy; the generator's own is the default and the highest
        longest      most tokens of one candidate; the generator's own limit is the default and the highest
        seed         equal seeds give equal samples, as far as batching leaves floating point equal

        A candidate that ``max_tokens`` or ``deadline`` stops comes back with end "cut", one that ``longest`` stops with
        end "length". Cancelling the call frees the engine within one token.

        Raises InvalidRequest where the prompt is longer than the model's context, EngineUnavailable.
        """

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """Return one vector for each prompt, its hidden states one after the other: features for difficulty models.

        Raises InvalidRequest where the model has too few layers, or the engine gives no hidden states.
        """

    async def close(self) -> None: ...


class Prefers(Protocol):
    """A further method of generators whose engine gives the probabilities of the next token."""

    async def prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        """Return for each prompt the probability that the model's reply begins with the first of two answers.

        The probabilities of the two answers sum to 1. Tokens read count as scored tokens. A prompt is None where it is
        longer than the model's context, or the tokens read would exceed ``max_tokens``. Raises EngineUnavailable.
        """


class Verifier(Protocol):
    """Scores solutions. ``parameters``: weights that a token passes through; 0 where no model reads anything."""

    parameters: int

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        """Return the same candidates with ``scores``, one for each step.

        Candidates without steps, and those for which more than ``max_tokens`` tokens would have to be read, come back
        unscored. One that is longer than the verifier's context comes back with ``scores`` ().
        Raises EngineUnavailable.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompt whose solutions are about to be scored, and what verifiers may need to know besides its text.

    task          the prompt's task with its inputs: a ``router.tasks.Task``
    name          the task's name; "" where it is unknown
    may_generate  returns how many tokens may still be written for this prompt; None: any number
    """

    prompt: Prompt
    task: Any
    name: str = ""
    may_generate: Callable[[], int | None] = lambda: None


async def prepared(verifier: Verifier, asked: Asked, usage: Usage) -> tuple[Verifier, Any]:
    """Return the verifier for the solutions of this prompt, and the task that finds and compares their answers.

    A verifier that differs from prompt to prompt has a coroutine ``prepared(asked, usage)``, which decides. Others
    score all prompts alike.
    """
    if hook := getattr(verifier, "prepared", None):
        found: tuple[Verifier, Any] = await hook(asked, usage)
        return found
    return verifier, asked.task


async def check_room(verifier: Verifier, prompt: Prompt, longest: int) -> None:
    """Raises InvalidRequest where a verifier that reads solutions has no room for the prompt's longest ones.

    longest  tokens of a solution

    A verifier says so by a coroutine ``check_room(prompt, longest)``; others read nothing, or what there is room for.
    """
    if hook := getattr(verifier, "check_room", None):
        await hook(prompt, longest)


def asks(verifier: Verifier) -> str | None:
    """Return the name of the bundle's model that a verifier asks, and is billed as; None where it asks none."""
    model = getattr(verifier, "model", None)
    return model if isinstance(model, str) else None  # some verifiers keep their own model under this name


@dataclass(frozen=True, slots=True)
class Engines:
    """The models that solve prompts.

    models     generators by name
    reference  name of the model that solves where an arm names none
    verifier   scores the solutions of all models
    longest    tokens of each model's longest solution, by the model's name, where that is known
    """

    models: Mapping[str, Generator]
    reference: str
    verifier: Verifier
    longest: Mapping[str, int] = field(default_factory=dict)

    @property
    def main(self) -> Generator:
        """The reference model."""
        return self.models[self.reference]

    def of(self, model: str | None) -> Generator | None:
        return self.models.get(model or self.reference)

    async def close(self) -> None:
        closing = [model.close() for model in self.models.values()]
        await asyncio.gather(*closing, self.verifier.close())
