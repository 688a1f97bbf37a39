"""Engines behind two small protocols.

Implementations: ``fake`` (scripted), ``transformers`` (in process), ``vllm`` (over HTTP).
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import exp, log
from typing import NamedTuple, Protocol

from router.backends.template import Template
from strategies import Path

EMBEDDED = "smollm2-135m-instruct"  # the model that comes out of a wheel


@dataclass(slots=True)
class Usage:
    """What an engine has spent. It is added to while the engine works, so it is right also when a call is cancelled.

    prompt_tokens     tokens the generator prefilled; a prefix that many samples share is prefilled, and counted, once
    generated_tokens  tokens sampled, end-of-sequence tokens included
    scored_tokens     tokens the verifier read
    calls             requests to an engine
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    calls: int = 0

    def add(self, *, calls: int = 0, prompt_tokens: int = 0, generated_tokens: int = 0, scored_tokens: int = 0) -> None:
        self.calls += calls
        self.prompt_tokens += prompt_tokens
        self.generated_tokens += generated_tokens
        self.scored_tokens += scored_tokens


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """A generator, as a bundle's manifest describes the one it was measured on.

    model        "smollm2-135m-instruct" for the embedded model, else a folder or hub id that transformers loads
    adapter      folder in the bundle with a LoRA adapter; None without one
    parameters   weights that a token passes through
    temperature  of sampling
    max_tokens   longest solution
    reviser      another adapter, which writes an attempt in sight of earlier ones; None: the generator's own does
    """

    model: str
    adapter: str | None
    parameters: int
    template: Template
    temperature: float
    max_tokens: int
    reviser: str | None = None


def times_larger(larger: int, parameters: int) -> int:
    """The n of the arm ``larger_model(n=...)``: how many times the generator's parameters, rounded up."""
    return -(-larger // parameters)


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """A verifier, as a bundle's manifest describes the one it was measured with.

    kind     "prm": ``adapter`` is a LoRA and step-scoring head on the generator's base; "likelihood": ``adapter`` makes
             it a language model that knows the task better than the generator; "log_prob": the generator's own
             log-probability; or a published format (``router.backends.prm.FORMATS``), whose weights are ``model``
    model    folder or hub id of a published process reward model; None for the other kinds
    slope, intercept  of the log-odds of its raw scores (Platt, 1999): 1 and 0 leave them as they are. Votes are weighed
             by scores, so they should be probabilities; `router calibrate` fits both
    """

    kind: str
    adapter: str | None
    parameters: int
    model: str | None = None
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the engines answer: a matter of the deployment, never of a bundle. Base URLs, one a replica."""

    generator: tuple[str, ...] = ()
    verifier: tuple[str, ...] = ()
    larger: tuple[str, ...] = ()
    api_key: str | None = None


class Generator(Protocol):
    """``parameters`` is the number of weights that a token passes through, for FLOPs."""

    parameters: int

    async def extend(
        self,
        prompt: str,
        paths: Sequence[Path],
        *,
        steps: int | None,
        temperature: float | None,
        max_tokens: int | None,
        deadline: float | None,
        seed: int,
        usage: Usage,
    ) -> list[Path]:
        """Continue each open path by ``steps`` steps (None: to its end), independently, in order.

        max_tokens   new tokens at most, over all paths together; None for no cap
        deadline     on time.monotonic's clock: come back by then with what there is
        temperature  None is the generator's own, 0 is greedy
        seed         equal seeds give equal samples, as far as batching leaves floating point equal

        A path that one of these two limits stops short comes back with end "cut", one that meets the generator's own
        longest solution with end "length". Cancelling the call frees the engine within one token.

        Raises InvalidRequest where the prompt is longer than the model's context.

        Raises EngineUnavailable.
        """

    async def embed(self, prompts: Sequence[str], *, usage: Usage) -> list[list[float]]:
        """One hidden-state vector a prompt, for difficulty models that want it."""

    async def close(self) -> None: ...


class Verifier(Protocol):
    parameters: int

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        """The same paths with ``scores``, one a step.

        Paths that would pass ``max_tokens`` read tokens come back unscored, and so does one without steps.
        Raises EngineUnavailable.
        """

    async def close(self) -> None: ...


class Engines(NamedTuple):
    """What solves prompts; ``larger`` writes what the arm larger_model asks for, where there is one."""

    generator: Generator
    verifier: Verifier
    larger: Generator | None = None

    async def close(self) -> None:
        await asyncio.gather(*(engine.close() for engine in self if engine))


class Calibrated:
    """A verifier whose scores are scaled by :func:`platt`; their order, and what they cost, stay."""

    def __init__(self, verifier: Verifier, slope: float, intercept: float):
        self.verifier = verifier
        self.parameters = verifier.parameters
        self.slope, self.intercept = slope, intercept

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        scored = await self.verifier.score(prompt, paths, max_tokens=max_tokens, usage=usage)
        return [
            replace(path, scores=tuple(platt(raw, self.slope, self.intercept) for raw in path.scores))
            if path.scores
            else path
            for path in scored
        ]

    async def close(self) -> None:
        await self.verifier.close()


def log_odds(score: float) -> float:
    """Of a score in [0, 1], whose ends count as a millionth from them."""
    score = min(max(score, 1e-6), 1 - 1e-6)
    return log(score / (1 - score))


def platt(raw: float, slope: float, intercept: float) -> float:
    """The probability whose log-odds are ``slope`` * those of the raw score + ``intercept`` (Platt, 1999)."""
    return 1 / (1 + exp(-(slope * log_odds(raw) + intercept)))


class LogProbability:
    """The baseline verifier: the generator's own mean token log-probability, exponentiated, up to each step.

    It costs nothing: the log-probabilities were computed while sampling.
    """

    parameters = 0

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        return [replace(path, scores=tuple(self._scores(path)) or None) for path in paths]

    @staticmethod
    def _scores(path: Path) -> Iterator[float]:
        for log_prob, tokens in zip(accumulate(path.log_probs), accumulate(path.token_counts), strict=True):
            yield exp(log_prob / tokens)

    async def close(self) -> None:
        return None
