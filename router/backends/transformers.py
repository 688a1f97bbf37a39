"""The in-process backend: a causal model as generator, a step-scoring head on the same base as verifier."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from math import exp
from pathlib import Path as FilePath
from typing import Any

import torch

from router.backends import Generator, GeneratorSpec, LogProbability, Usage, Verifier, VerifierSpec, prm_models
from router.backends.batching import Batcher, CallJob, ExtendJob
from router.backends.kv import KeyValues, PrefixCache, join, prefill, row_of
from router.backends.prm import FORMATS
from router.backends.steps import encoded
from router.backends.template import Template
from router.backends.weights import load_model
from router.errors import InvalidRequest, RouterError
from strategies import Path

ROWS = 16  # paths scored at once


def load(generator: GeneratorSpec, verifier: VerifierSpec, folder: FilePath) -> tuple[Generator, Verifier]:
    """The engines, each model on a worker thread; ``folder`` holds the adapters. Raises MissingWeights."""

    solver = _batcher(generator, generator.adapter, folder)
    reviser = _batcher(generator, generator.reviser, folder) if generator.reviser else None
    writer = TransformersGenerator(solver, generator, reviser)
    if verifier.kind == "log_prob":
        return writer, LogProbability()
    if verifier.kind in FORMATS:
        return writer, prm_models.load(verifier)
    if verifier.kind not in _JUDGES or verifier.adapter is None:
        known = ", ".join([*(f"{kind} (with an adapter)" for kind in _JUDGES), "log_prob", *FORMATS])
        raise RouterError(f"unknown verifier kind {verifier.kind!r}; known: {known}")
    scorer, _ = load_model(generator.model, folder / verifier.adapter, scores_steps=verifier.kind == "prm")
    return writer, StepVerifier(solver, scorer, generator.template, verifier)


def load_larger(spec: GeneratorSpec, folder: FilePath) -> Generator:
    """The larger model, on a worker thread of its own. Raises MissingWeights."""
    return TransformersGenerator(_batcher(spec, spec.adapter, folder), spec)


def _batcher(spec: GeneratorSpec, adapter: str | None, folder: FilePath) -> Batcher:
    model, tokenizer = load_model(spec.model, folder / adapter if adapter else None)
    return Batcher(model, tokenizer, spec.template.delimiter, spec.max_tokens)


class TransformersGenerator:
    """See :class:`router.backends.Generator`. ``reviser`` continues paths with earlier attempts, if there is one."""

    def __init__(self, batcher: Batcher, spec: GeneratorSpec, reviser: Batcher | None = None):
        self.batcher = batcher
        self.reviser = reviser or batcher
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
        job = ExtendJob(
            prefixes={earlier: self._encode(prompt, earlier) for earlier in {path.earlier for path in paths}},
            paths=result,
            steps=steps,
            temperature=self.spec.temperature if temperature is None else temperature,
            tokens_left=max_tokens,
            deadline=deadline,
            seed=seed,
            usage=usage,
        )
        # The chains of a revision grow together: all of a round's paths have earlier attempts, or none.
        revised = any(path.earlier for path in paths)
        paths_back: list[Path] = await _submit(self.reviser if revised else self.batcher, job)
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
        for batcher in {self.batcher, self.reviser}:
            await asyncio.to_thread(batcher.close)


class StepVerifier:
    """A fine-tuned model that scores steps. See :class:`router.backends.Verifier`; ``_JUDGES`` has the kinds.

    It shares the generator's tokenizer and worker thread. A search pays for each token once: the next round reads on
    from where the last one ended, and equal paths are read together.
    """

    def __init__(self, batcher: Batcher, model: Any, template: Template, spec: VerifierSpec):
        self.batcher = batcher
        self.model = model
        self.template = template
        self.parameters = spec.parameters
        self._judge = _JUDGES[spec.kind]
        self.counted = Usage()  # the engine's own count, over all calls
        self._read_before: PrefixCache[_Read] = PrefixCache()

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        prefix = tuple(self.batcher.tokenizer.encode(self.template.render(prompt)))
        steps = {path.steps: _Steps(*encoded(self.batcher.tokenizer, path)) for path in paths if path.steps}
        for each in steps.values():
            if len(prefix) + len(each.tokens) > self.batcher.context:
                raise _too_long(len(prefix), self.batcher.context - len(each.tokens))
        self._count(usage, 0, calls=1)
        found: dict[tuple[str, ...], tuple[float, ...]] = {}
        remaining, spent = iter(steps.items()), usage.scored_tokens
        # A few paths at a time: others' tokens come in between, and a cancelled call frees the thread soon.
        while chunk := dict(islice(remaining, ROWS)):
            room = None if max_tokens is None else max_tokens - (usage.scored_tokens - spent)
            call = partial(self._score, prefix, list(chunk.values()), room, usage)
            scores: list[tuple[float, ...]] = await _submit(self.batcher, CallJob(call))
            found |= dict(zip(chunk, scores, strict=False))  # shorter where the room ran out
            if len(scores) < len(chunk):
                break
        return [replace(path, scores=found.get(path.steps)) for path in paths]

    # On the worker thread from here on. Counted where the work is done: what is cancelled before that costs nothing.

    def _score(
        self, prompt: tuple[int, ...], paths: Sequence["_Steps"], room: int | None, usage: Usage
    ) -> list[tuple[float, ...]]:
        """Step scores of paths that continue one prompt, as many of the first ones as ``room`` tokens can read."""
        start = self._read_before.get((id(usage), prompt))
        known = [self._longest_read(prompt, path, usage) or start for path in paths]
        new = [path.tokens[read.length - len(prompt) if read else 0 :] for path, read in zip(paths, known, strict=True)]
        if room is not None:
            totals = accumulate(map(len, new), initial=0 if start else len(prompt))
            affordable = sum(total <= room for total in islice(totals, 1, None))
            paths, known, new = paths[:affordable], known[:affordable], new[:affordable]
        if not paths:
            return []
        if start is None:
            self._count(usage, len(prompt))
            (kv,), (last,) = prefill(self.model.base_model, [prompt])
            start = _Read(kv, last, ())
            self._read_before.put((id(usage), prompt), usage, start)
        self._count(usage, sum(map(len, new)))
        reads = [read or start for read in known]
        unread = [i for i, tokens in enumerate(new) if tokens]
        if unread:
            fresh = self._read([reads[i] for i in unread], [paths[i] for i in unread], [new[i] for i in unread])
            for i, read in zip(unread, fresh, strict=True):
                reads[i] = read
                self._read_before.put((id(usage), prompt + paths[i].tokens), usage, read)
        return [read.scores for read in reads]

    def _longest_read(self, prompt: tuple[int, ...], path: "_Steps", usage: Usage) -> "_Read | None":
        """The path's first steps, as many as this search has read before; None where it has read none."""
        found = (self._read_before.get((id(usage), prompt + path.tokens[:end])) for end in reversed(path.ends))
        return next(filter(None, found), None)

    def _read(
        self, known: Sequence["_Read"], paths: Sequence["_Steps"], new: Sequence[tuple[int, ...]]
    ) -> list["_Read"]:
        """Read the ``new`` tokens of each path after those that are ``known``: left-padded to right-padded."""
        before, after = max(read.length for read in known), max(map(len, new))
        masks = [
            [0] * (before - read.length) + [1] * (read.length + len(tokens)) + [0] * (after - len(tokens))
            for read, tokens in zip(known, new, strict=True)
        ]
        cache = join([read.kv for read in known])
        states = self.model.base_model(
            input_ids=torch.tensor([[*tokens, *[0] * (after - len(tokens))] for tokens in new]),
            attention_mask=torch.tensor(masks),
            position_ids=torch.tensor([list(range(read.length, read.length + after)) for read in known]),
            past_key_values=cache,
        ).last_hidden_state
        reads = []
        for i, (read, path, tokens) in enumerate(zip(known, paths, new, strict=True)):
            first = len(path.tokens) - len(tokens)
            ends = [end - first - 1 for end in path.ends[len(read.scores) :]]
            scores, log_prob = self._judge(self.model, read, states[i, : len(tokens)], torch.tensor(tokens), ends)
            kv = row_of(cache, i, slice(before - read.length, before + len(tokens)))
            last = states[i, len(tokens) - 1].clone()
            reads.append(_Read(kv, last, read.scores + scores, log_prob, read.written + len(tokens)))
        return reads

    def _count(self, usage: Usage, scored_tokens: int, calls: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.add(calls=calls, scored_tokens=scored_tokens)

    async def close(self) -> None:
        await asyncio.to_thread(self.batcher.close)  # shared with the generator; closing it twice is fine


@dataclass(frozen=True, slots=True)
class _Steps:
    """A path as the verifier reads it; ``ends``: how many of ``tokens`` come up to the end of each step."""

    tokens: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A prompt and the first steps of a path, as the verifier has read them.

    last      hidden state after the last token, [size];  scores  of the steps
    log_prob  of the steps' ``written`` tokens under the verifier, 0 where it does not look at that
    """

    kv: KeyValues
    last: torch.Tensor
    scores: tuple[float, ...]
    log_prob: float = 0.0
    written: int = 0

    @property
    def length(self) -> int:
        return self.kv.shape[-2]


def _head(
    model: Any, read: _Read, states: torch.Tensor, tokens: torch.Tensor, ends: list[int]
) -> tuple[tuple[float, ...], float]:
    """A process reward model's: one logit at the last token of each step."""
    return tuple(model.score(states[ends])[:, 0].float().sigmoid().tolist()), 0.0


def _likelihood(
    model: Any, read: _Read, states: torch.Tensor, tokens: torch.Tensor, ends: list[int]
) -> tuple[tuple[float, ...], float]:
    """A language model's that knows the task better than the generator: how likely it finds the tokens so far.

    The exponentiated mean log-probability, as :class:`router.backends.LogProbability` has it from the generator.
    """
    predicting = torch.cat([read.last[None], states[:-1]])
    log_probs = model.lm_head(predicting).float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].double()
    totals = (read.log_prob + log_probs.cumsum(0)).tolist()
    return tuple(exp(totals[end] / (read.written + end + 1)) for end in ends), totals[-1]


_JUDGES = {"prm": _head, "likelihood": _likelihood}


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
