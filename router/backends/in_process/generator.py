"""A causal model in this process as a generator."""

import asyncio
from bisect import bisect_left
from collections.abc import Generator as IteratorGenerator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from router.backends import Usage
from router.backends.in_process.batching import Batcher
from router.backends.in_process.hidden import read_hidden
from router.backends.in_process.jobs import CallJob, ExtendJob
from router.backends.in_process.prefill import PIECE, extended
from router.backends.preference import label_tokens, within_cap
from router.backends.prompt_length import check_length, too_long
from router.backends.specs import ModelSpec
from router.backends.states import State
from router.backends.steps import StepText
from router.backends.template import encode, resolved
from router.backends.thinking import Thinker, thoughts_of
from router.prompt import Prompt
from strategies import Candidate, Earlier

_ENCODED = 256  # prefixes whose token ids are kept


class TransformersGenerator:
    """See :class:`router.backends.Generator`. ``reviser``, if given, writes the candidates with earlier attempts."""

    def __init__(self, batcher: Batcher, spec: ModelSpec, reviser: Batcher | None = None, *, kept_free: int = 0):
        """kept_free: tokens of the context to leave free besides the longest solution, such as for a thought."""
        self.batcher = batcher
        self.reviser = reviser or batcher
        self.spec = spec
        self.template = resolved(spec.template, batcher.tokenizer)
        self.parameters = spec.parameters
        self.context = batcher.context
        # A search asks for the same prefixes round after round.
        self._encode = lru_cache(_ENCODED)(self._encode_now)
        self.kept_free = kept_free
        self._text = StepText(batcher.tokenizer, spec.template.delimiter)
        self.thinker: Thinker | None = None
        if spec.thinking:
            thoughts = TransformersGenerator(batcher, thoughts_of(spec), reviser)
            self.thinker = Thinker(spec.thinking, self.template, batcher.tokenizer, thoughts.extend)
            self.kept_free = self.thinker.longest
            thoughts.kept_free = self.kept_free + spec.max_tokens - thoughts.spec.max_tokens

    async def extend(self, prompt: Prompt, candidates: Sequence[Candidate], **options: Any) -> list[Candidate]:
        """See ``backends.Generator``."""
        if self.thinker:
            return await self.thinker.extend(self._extend, prompt, candidates, **options)
        return await self._extend(prompt, candidates, **options)

    async def _extend(
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
        # Candidates differ in their rendered prefix only when they were shown different earlier attempts.
        shown = {candidate.earlier for candidate in candidates}
        job = ExtendJob(
            prefixes={earlier: self._ids(prompt, earlier) for earlier in shown},
            candidates=list(candidates),
            steps=steps,
            temperature=self.spec.temperature_of(temperature),
            longest=self.spec.longest_of(longest),
            tokens_left=max_tokens,
            deadline=deadline,
            seed=seed,
            usage=usage,
            text=self._text,
        )
        # The chains of a revision grow together: all of a round's candidates have earlier attempts, or none.
        # The reviser learned to write without being told what was wrong.
        revised = any(candidate.earlier and not candidate.earlier[-1].finding for candidate in candidates)
        written: list[Candidate] = await submit(self.reviser if revised else self.batcher, job)
        return written

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """See ``backends.Generator``. The bill counts each prompt as read by the whole model, not by some layers."""
        encoded = [self._ids(prompt) for prompt in prompts]
        job = CallJob(self._embed, (encoded, tuple(states), usage), sum(map(len, encoded)))
        vectors: list[list[float]] = await submit(self.batcher, job)
        return vectors

    def _embed(
        self, asks: list[tuple[list[tuple[int, ...]], tuple[State, ...], Usage]]
    ) -> IteratorGenerator[None, None, list[list[list[float]]]]:
        found = []
        for prompts, states, usage in asks:
            self.batcher.count(usage, calls=1, prompt_tokens=sum(map(len, prompts)))
            vectors = []
            for ids in prompts:
                for vector in read_hidden(self.batcher.model.base_model, ids, states):
                    if vector is None:
                        yield
                    else:
                        vectors.append(vector)
            found.append(vectors)
        return found

    async def prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        """See :class:`router.backends.Prefers`."""
        labels = label_tokens(self.batcher.tokenizer, answers)
        encoded = [encode(self.batcher.tokenizer, self.template.parts(prompt)) for prompt in prompts]
        fits = within_cap(encoded, self.batcher.longest, max_tokens)
        read = [ids for ids, fit in zip(encoded, fits, strict=True) if fit]
        if not read:
            return [None] * len(prompts)
        job = CallJob(self._prefer, (read, labels, usage), sum(map(len, read)))
        found: list[float] = await submit(self.batcher, job)
        rest = iter(found)
        return [next(rest) if fit else None for fit in fits]

    def _prefer(
        self, asks: list[tuple[list[tuple[int, ...]], tuple[int, int], Usage]]
    ) -> IteratorGenerator[None, None, list[list[float]]]:
        found = []
        for prompts, labels, usage in asks:
            scores = []
            for ids in prompts:
                for tally in (usage, self.batcher.counted):
                    tally.add(calls=1, scored_tokens=len(ids))
                scores.append((yield from self._preference(ids, labels)))
            found.append(scores)
        return found

    def _preference(self, ids: tuple[int, ...], labels: tuple[int, int]) -> IteratorGenerator[None, None, float]:
        cache = None
        for start in range(0, len(ids), PIECE):
            cache, output = extended(self.batcher.model.base_model, cache, ids[start : start + PIECE])
            yield
        # In 32 bits: in 16 there are a dozen different scores, and most solutions of a prompt would tie.
        head = self.batcher.model.get_output_embeddings().weight[list(labels)].float()
        return float((head @ output.last_hidden_state[0, -1].float()).softmax(-1)[0])

    def _ids(self, prompt: Prompt, earlier: tuple[Earlier, ...] = ()) -> tuple[int, ...]:
        """Return token ids of the prompt and as many of the latest ``earlier`` attempts as the context has room for."""
        room = self.batcher.longest - self.spec.max_tokens - self.kept_free
        check_length(prompt, room)
        return self._encode(prompt, earlier, room)

    def _encode_now(self, prompt: Prompt, earlier: tuple[Earlier, ...], room: int) -> tuple[int, ...]:
        def ids(first: int) -> tuple[int, ...]:
            return encode(self.batcher.tokenizer, self.template.parts(prompt, earlier[first:]))

        if len(whole := ids(0)) <= room:
            return whole
        first = bisect_left(range(len(earlier)), True, key=lambda first: len(ids(first)) <= room)
        if len(some := ids(first)) <= room:
            return some
        raise too_long(len(some), room)

    async def close(self) -> None:
        for batcher in {self.batcher, self.reviser}:
            await asyncio.to_thread(batcher.close)


async def submit(batcher: Batcher, job: Any) -> Any:
    """Run a job on the worker thread. When cancelled, waits for the thread to let go, so that the bill is final."""
    batcher.submit(job)
    future = asyncio.wrap_future(job.done)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        job.cancelled = True
        await asyncio.wait([future])
        raise
