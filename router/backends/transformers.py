"""The in-process backend: a causal model as generator, a step-scoring head on the same base as verifier."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain, islice
from pathlib import Path as FilePath
from typing import Any

import torch
from transformers import DynamicCache

from router.backends import Generator, GeneratorSpec, LogProbability, Usage, Verifier, VerifierSpec, prm_models
from router.backends.batching import Batcher, CallJob, ExtendJob
from router.backends.kv import KeyValues, join, prefill
from router.backends.prm import FORMATS
from router.backends.template import Template
from router.backends.weights import load_model
from router.errors import InvalidRequest, RouterError
from strategies import Path

ROWS = 16  # paths scored at once


def load(generator: GeneratorSpec, verifier: VerifierSpec, folder: FilePath) -> tuple[Generator, Verifier]:
    """Both engines on one worker thread; ``folder`` holds the adapters. Raises MissingWeights."""
    model, tokenizer = load_model(generator.model, folder / generator.adapter if generator.adapter else None)
    batcher = Batcher(model, tokenizer, generator.template.delimiter, generator.max_tokens)
    writer = TransformersGenerator(batcher, generator)
    if verifier.kind == "log_prob":
        return writer, LogProbability()
    if verifier.kind in FORMATS:
        return writer, prm_models.load(verifier)
    if verifier.kind != "prm" or verifier.adapter is None:
        known = ", ".join(["prm (with an adapter)", "log_prob", *FORMATS])
        raise RouterError(f"unknown verifier kind {verifier.kind!r}; known: {known}")
    scorer, _ = load_model(generator.model, folder / verifier.adapter, scores_steps=True)
    return writer, StepVerifier(batcher, scorer, generator.template, verifier.parameters)


class TransformersGenerator:
    """See :class:`router.backends.Generator`."""

    def __init__(self, batcher: Batcher, spec: GeneratorSpec):
        self.batcher = batcher
        self.spec = spec
        self.parameters = spec.parameters

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
        result: list[Path] = list(paths)
        # Paths differ in their rendered prefix only when they were shown different earlier attempts.
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, path in enumerate(paths):
            groups.setdefault(path.earlier, []).append(i)
        job = ExtendJob(
            prefixes={earlier: self._encode(prompt, earlier) for earlier in groups},
            paths=result,
            steps=steps,
            temperature=self.spec.temperature if temperature is None else temperature,
            tokens_left=max_tokens,
            deadline=deadline,
            seed=seed,
            usage=usage,
        )
        paths_back: list[Path] = await _submit(self.batcher, job)
        return paths_back

    async def embed(self, prompts: Sequence[str], *, usage: Usage) -> list[list[float]]:
        """Mean over the prompt's tokens of the hidden state three quarters up the model."""
        encoded = [self._encode(prompt) for prompt in prompts]

        def call() -> list[list[float]]:
            self.batcher.count(usage, calls=1, prompt_tokens=sum(map(len, encoded)))
            return [self._hidden(ids) for ids in encoded]

        vectors: list[list[float]] = await _submit(self.batcher, CallJob(call))
        return vectors

    def _hidden(self, ids: tuple[int, ...]) -> list[float]:
        states = self.batcher.model.base_model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        mean: list[float] = states[len(states) * 3 // 4][0].mean(0).tolist()
        return mean

    def _encode(self, prompt: str, earlier: Sequence[str] = ()) -> tuple[int, ...]:
        """Token ids of the rendered prompt with the latest ``earlier`` attempts that the context has room for."""
        render = self.spec.template.render
        for first in range(len(earlier) + 1):
            ids = self.batcher.tokenizer.encode(render(prompt, earlier[first:]))
            if len(ids) + self.spec.max_tokens <= self.batcher.context:
                return tuple(ids)
        raise _too_long(len(ids), self.batcher.context - self.spec.max_tokens)

    async def close(self) -> None:
        await asyncio.to_thread(self.batcher.close)


class StepVerifier:
    """A process reward model: one logit at the last token of each step. See :class:`router.backends.Verifier`.

    It shares the generator's tokenizer and worker thread. The prompt is read once a call, equal paths once together.
    """

    def __init__(self, batcher: Batcher, model: Any, template: Template, parameters: int):
        self.batcher = batcher
        self.model = model
        self.template = template
        self.parameters = parameters
        self.counted = Usage()  # the engine's own count, over all calls

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        prefix = tuple(self.batcher.tokenizer.encode(self.template.render(prompt)))
        read: dict[tuple[str, ...], _Steps] = {}
        cost = len(prefix)
        for path in paths:
            if path.steps and path.steps not in read:
                steps = self._encode(path)
                if len(prefix) + len(steps.tokens) > self.batcher.context:
                    raise _too_long(len(prefix), self.batcher.context - len(steps.tokens))
                if max_tokens is not None and cost + len(steps.tokens) > max_tokens:
                    break
                cost += len(steps.tokens)
                read[path.steps] = steps
        scores: list[tuple[float, ...]] = []
        if read:
            kv = await _submit(self.batcher, CallJob(partial(self._read_prompt, prefix, usage)))
            # A few paths at a time: others' tokens come in between, and a cancelled call frees the thread soon.
            remaining = iter(read.values())
            while chunk := list(islice(remaining, ROWS)):
                scores += await _submit(self.batcher, CallJob(partial(self._read, kv, chunk, usage)))
        found = dict(zip(read, scores, strict=True))
        return [replace(path, scores=found.get(path.steps)) for path in paths]

    # Counted where the work is done: what is cancelled before its turn costs nothing.

    def _read_prompt(self, prefix: tuple[int, ...], usage: Usage) -> KeyValues:
        self._count(usage, len(prefix), calls=1)
        (kv,) = prefill(self.model.base_model, [prefix])
        return kv

    def _read(self, prompt: KeyValues, paths: Sequence["_Steps"], usage: Usage) -> list[tuple[float, ...]]:
        """Step scores of paths that continue one prompt."""
        self._count(usage, sum(len(path.tokens) for path in paths))
        past = prompt[0][0].shape[2]
        longest = max(len(path.tokens) for path in paths)
        padding = [longest - len(path.tokens) for path in paths]
        logits = self.model(
            input_ids=torch.tensor([[*path.tokens, *[0] * pad] for path, pad in zip(paths, padding, strict=True)]),
            attention_mask=torch.tensor([[1] * (past + longest - pad) + [0] * pad for pad in padding]),
            past_key_values=DynamicCache(join([prompt] * len(paths))),
        ).logits[..., 0]
        return [
            tuple(row[[end - 1 for end in path.ends]].tolist())
            for row, path in zip(logits.sigmoid(), paths, strict=True)
        ]

    def _count(self, usage: Usage, scored_tokens: int, calls: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.calls += calls
            tally.scored_tokens += scored_tokens

    def _encode(self, path: Path) -> "_Steps":
        """The tokens as they were sampled; an attempt from elsewhere has only its text."""
        if path.tokens:
            return _Steps(path.tokens, tuple(accumulate(path.token_counts)))
        steps = [self.batcher.tokenizer.encode(step, add_special_tokens=False) for step in path.steps]
        return _Steps(tuple(chain.from_iterable(steps)), tuple(accumulate(map(len, steps))))

    async def close(self) -> None:
        await asyncio.to_thread(self.batcher.close)  # shared with the generator; closing it twice is fine


@dataclass(frozen=True, slots=True)
class _Steps:
    """A path as the verifier reads it; ``ends``: how many of ``tokens`` come up to the end of each step."""

    tokens: tuple[int, ...]
    ends: tuple[int, ...]


def _too_long(tokens: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        "prompt", f"prompt takes {tokens} tokens; this model has room for {room}", reason="PROMPT_TOO_LONG"
    )


async def _submit(batcher: Batcher, job: Any) -> Any:
    """Run a job on the worker thread. When cancelled, waits for the thread to let go, so that the bill is final."""
    batcher.submit(job)
    future = asyncio.wrap_future(job.done)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        job.cancelled = True
        await asyncio.wait([future])
        raise
