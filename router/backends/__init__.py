"""Models behind two small protocols: a generator writes, a verifier scores.

Each kind of engine that runs them is a subpackage or module here, and a line in ``registry``.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router.backends.states import State
from router.prompt import Prompt
from strategies import Candidate


@dataclass(slots=True, weakref_slot=True)
class Usage:
    """What a model has spent. It is added to while the model works, so it is right also when a call is cancelled.

    prompt_tokens     tokens that were prefilled; a prefix that many samples share is prefilled, and counted, once
    generated_tokens  tokens sampled, end-of-sequence tokens included
    scored_tokens     tokens the verifier read
    calls             requests to an engine
    thinking_tokens   those of the generated tokens that are thoughts before an answer
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
    """``parameters`` is the number of weights that a token passes through, for FLOPs."""

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
        """Continue each open candidate by ``steps`` steps (None: to its end), independently, in order.

        max_tokens   new tokens at most, over all candidates together; None for no cap
        deadline     on time.monotonic's clock: come back by then with what there is
        temperature  None is the generator's own, and so is any above it; 0 is greedy
        longest      tokens of a candidate in all; None is the generator's own, and so is anything above it
        seed         equal seeds give equal samples, as far as batching leaves floating point equal

        A candidate that one of these two limits stops short comes back with end "cut", one that meets the longest
        solution with end "length". Cancelling the call frees the engine within one token.

        Raises InvalidRequest where the prompt is longer than the model's context.

        Raises EngineUnavailable.
        """

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """One vector a prompt, for difficulty models that want it: its hidden states, one after the other.

        Raises InvalidRequest where the model has too few layers, or the engine gives no hidden states.
        """

    async def close(self) -> None: ...


class Prefers(Protocol):
    """What a generator has besides, where its engine gives the probabilities of the next token."""

    async def prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        """The probability that the model begins its reply with the first of two answers and not with the second.

        What is read counts as scored. None for prompts that would pass ``max_tokens`` read tokens together with those
        before, or the model's context. Raises EngineUnavailable.
        """


class Verifier(Protocol):
    parameters: int

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        """The same candidates with ``scores``, one a step.

        Paths that would pass ``max_tokens`` read tokens come back unscored, and so does one without steps.
        Raises EngineUnavailable.
        """

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompt whose solutions are about to be scored, for verifiers that want to know more than its text.

    task          of the prompt, given its inputs: a ``router.tasks.Task``
    name          of the task; "" where nobody knows
    may_generate  tokens that may still be written for this prompt; None: any number
    """

    prompt: Prompt
    task: Any
    name: str = ""
    may_generate: Callable[[], int | None] = lambda: None


async def prepared(verifier: Verifier, asked: Asked, usage: Usage) -> tuple[Verifier, Any]:
    """What scores the solutions of this prompt, and the task that finds and compares their answers.

    A verifier says so by a coroutine ``prepared(asked, usage)``; others score all prompts alike.
    """
    if hook := getattr(verifier, "prepared", None):
        found: tuple[Verifier, Any] = await hook(asked, usage)
        return found
    return verifier, asked.task


def asks(verifier: Verifier) -> str | None:
    """Name of the bundle's model that a verifier asks, and is billed as; None: it is none of them."""
    model = getattr(verifier, "model", None)
    return model if isinstance(model, str) else None  # others hold a model itself


@dataclass(frozen=True, slots=True)
class Engines:
    """The models that solve prompts.

    models     by name
    reference  name of the one that arms without a model mean
    verifier   scores what any of them wrote
    """

    models: Mapping[str, Generator]
    reference: str
    verifier: Verifier

    @property
    def main(self) -> Generator:
        """The reference model."""
        return self.models[self.reference]

    def of(self, model: str | None) -> Generator | None:
        return self.models.get(model or self.reference)

    async def close(self) -> None:
        closing = [model.close() for model in self.models.values()]
        await asyncio.gather(*closing, self.verifier.close())
