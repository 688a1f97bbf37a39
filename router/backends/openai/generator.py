"""A generator on a chat completions endpoint.

Samples of one prompt are one request where the server supports ``n``. Otherwise they are several requests, each with a
seed of its own. Answers are streamed, so that the tokens of a cancelled or lost request are known and billed.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from router.backends import Usage
from router.backends.chat import CHARACTERS, ESTIMATED, ChatEndpoint
from router.backends.openai import thoughts
from router.backends.openai.preference import prefer
from router.backends.openai.samples import Reported, Sample, candidates, counted
from router.backends.openai.slots import Slots
from router.backends.replicas import Lost, Replicas, Unfit, understood
from router.backends.specs import Endpoint, ModelSpec
from router.backends.states import State
from router.backends.template import OwnTemplate, conversation, with_system
from router.errors import InvalidRequest
from router.prompt import Prompt
from strategies import Candidate, Earlier

PATH = "/chat/completions"
LOSSES = 3  # a call is given up when its answers have broken off this many times
_TOO_LONG = re.compile(r"context|too long|maximum.{0,20}(length|tokens)", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Row:
    """One candidate to be written.

    cap      tokens that the present request may write
    capped   whether ``cap`` is below the tokens of the longest solution
    sample   what the present request has written so far
    thought  its thought, where that filled the whole answer: the model is then asked for the answer alone
    done     the finished candidate
    """

    index: int
    candidate: Candidate
    cap: int = 0
    capped: bool = True
    sample: Sample = field(default_factory=Sample)
    thought: Candidate | None = None
    done: Candidate | None = None


class OpenAIGenerator:
    """See :class:`router.backends.Generator`. It writes whole solutions only.

    ``log_probs``: whether to ask for log-probabilities.
    """

    def __init__(self, replicas: Replicas, spec: ModelSpec, template: OwnTemplate, *, log_probs: bool = True):
        self.replicas = replicas
        self.spec = spec
        self.template = template
        self.parameters = spec.parameters
        self.endpoint = spec.endpoint or Endpoint()
        self.log_probs = log_probs and self.endpoint.log_probs
        self.counted = Usage()  # what the servers reported, over all calls
        self.at_once: int | None = None  # most samples of one request; None: no limit is known
        self.slots = Slots(replicas)
        self._told: set[str] = set()  # warnings that were logged; each is logged once
        # See ``backends.Prefers``. The first token of a model that thinks is no answer.
        self.prefer = self._prefer if self.endpoint.log_probs and not spec.thinking else None
        self.chat = ChatEndpoint(replicas, PATH, self._name)

    async def _name(self) -> str:
        """Return the server's name for the model."""
        return self.spec.adapter or self.spec.model

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
        """See ``backends.Generator``. Equal greedy candidates are written, and billed, once.

        Raises InvalidRequest where ``steps`` is given or a candidate has steps: the endpoint can't continue them.
        """
        rows = [_Row(index, candidate) for index, candidate in enumerate(candidates) if candidate.end is None]
        if steps is not None or any(row.candidate.steps for row in rows):
            raise InvalidRequest(
                "options.arm",
                "a chat completions endpoint writes only whole solutions, not single steps; ask for another arm",
                reason="ARM_INVALID",
            )
        thinking = (self.spec.thinking.budget or 0) if self.spec.thinking else 0
        room = self.spec.longest_of(longest) + thinking
        call = _Call(prompt, self.spec.temperature_of(temperature), room, max_tokens, seed, usage)
        loop = asyncio.get_running_loop()
        until = None if deadline is None else loop.time() + deadline - time.monotonic()
        try:
            async with asyncio.timeout_at(until):
                await self._write(call, rows)
        except TimeoutError:
            pass  # candidates that are not done are cut
        result = list(candidates)
        for row in rows:
            made = row.done or self._made([row], None)[0]
            result[row.index] = thoughts.joined(row.thought, made) if row.thought else made
        return result

    async def _write(self, call: "_Call", rows: Sequence[_Row]) -> None:
        """Send requests until every row is done or no token is left. Repeat a lost request at another server."""
        losses = 0
        while writing := self._share(call, [row for row in rows if row.done is None]):
            groups: dict[tuple[tuple[Earlier, ...], str | None, int], list[_Row]] = {}
            for row in writing:
                thought = row.thought.reasoning if row.thought else None
                groups.setdefault((row.candidate.earlier, thought, row.cap), []).append(row)
            asks = [
                self._ask(call, group[i : i + at_once])
                for group in groups.values()
                for at_once in [len(group) if call.greedy or not self.at_once else self.at_once]
                for i in range(0, len(group), at_once)
            ]
            answers = await asyncio.gather(*asks, return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, BaseException)]
            losses += any(isinstance(error, Lost) for error in errors)
            for error in errors:
                if not isinstance(error, Lost | _TooMany) or losses > LOSSES:
                    raise error

    def _share(self, call: "_Call", rows: Sequence[_Row]) -> list[_Row]:
        """Return the rows that may be written. Their ``cap`` is an equal part of the tokens left."""
        left = call.tokens_left
        for i, row in enumerate(rows):
            share = call.longest if left is None else left // len(rows) + (i < left % len(rows))
            row.cap, row.capped = min(call.longest, share), share < call.longest
        return [row for row in rows if row.cap > 0]

    async def _ask(self, call: "_Call", rows: Sequence[_Row]) -> None:
        """Send one request, for rows with equal messages and caps, and read its answer.

        Raises Lost, _TooMany, InvalidRequest, EngineUnavailable.
        """
        samples = [Sample() for _ in (rows[:1] if call.greedy else rows)]
        for i, row in enumerate(rows):
            row.sample = samples[0 if call.greedy else i]
        body = self._body(call, rows[0], len(samples))
        spent = _Spent(prompt=sum(len(message["content"]) for message in body["messages"]) // CHARACTERS)
        try:
            stream = self.replicas.stream(PATH, body, load=len(samples), affinity=call.prompt.question)
            async with self.slots.take(len(samples)), stream as events:
                self.count(call.usage, calls=1, prompt_tokens=spent.prompt)
                reported = await self._read(call, events, samples, spent)
        except Unfit as error:
            raise self._understood(error, len(samples)) from error
        except BaseException:
            self.count(call.usage, thinking_tokens=sum(sample.thought_pieces for sample in samples))
            raise
        finally:
            call.spend(spent.generated)
        generated = sum(counted(samples, reported)) - spent.generated  # what no event showed
        call.spend(generated)
        self.count(call.usage, generated_tokens=generated)
        if reported:
            self.count(call.usage, prompt_tokens=reported.prompt - reported.cached - spent.prompt)
        else:
            self._tell(ESTIMATED)
        came = [sample for sample in samples if sample.reason or sample.seen]
        if unfinished := sum(not sample.reason for sample in came) or not came:
            raise Lost(f"an engine of {self.replicas.model} left {unfinished} of {len(samples)} samples unfinished")
        if self.log_probs and not any(sample.entries for sample in came):
            self._tell("it gives no log-probabilities, so a log_prob verifier scores nothing")
        if len(came) < len(samples):  # it ignores n
            self.at_once = len(came)
        done = [row for row in rows if row.sample in came]
        made = self._made(done[: len(samples)], reported)
        self.count(call.usage, thinking_tokens=sum(candidate.thinking_tokens for candidate in made))
        for row, candidate in zip(done, made * len(done), strict=False):
            if row.thought is None and self.spec.thinking and thoughts.was_cut(candidate):
                row.thought = candidate
            else:
                row.done = candidate

    async def _read(
        self, call: "_Call", events: AsyncIterator[Any], samples: Sequence[Sample], spent: "_Spent"
    ) -> Reported | None:
        with_usage: list[Any] = []
        async for event in events:
            with understood():
                for choice in event.get("choices") or ():
                    tokens = samples[_index(choice, len(samples))].take(choice)
                    spent.generated += tokens
                    self.count(call.usage, generated_tokens=tokens)
                if event.get("usage"):
                    with_usage.append(event)
        with understood():
            return Reported.of(with_usage)

    def _made(self, rows: Sequence[_Row], reported: Reported | None) -> list[Candidate]:
        parts = [(row.candidate, row.sample, row.capped) for row in rows]
        return candidates(parts, reported, self.template.delimiter)

    def _body(self, call: "_Call", row: _Row, n: int) -> dict[str, Any]:
        earlier = row.candidate.earlier
        messages = [
            {"role": message.role, "content": message.text}
            for message in with_system(call.prompt, self.template.default_system)
        ]
        messages += [
            {"role": role, "content": text}
            for role, text in conversation(earlier, self.template.retry, self.template.repair)
        ]
        if row.thought:
            messages += thoughts.hurry(row.thought)
        body: dict[str, Any] = {
            "model": (self.spec.reviser if earlier else None) or self.spec.adapter or self.spec.model,
            "messages": messages,
            self.endpoint.length_key: row.cap,
            "temperature": call.temperature,
            "top_p": 1.0,
            "seed": call.draw(row.index),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if n > 1:
            body["n"] = n
        if self.log_probs:
            body |= {
                "logprobs": True,
                "top_logprobs": 1,
            }  # none besides would do, but llama.cpp takes 0 for no logprobs
        thoughts.ask(body, self.spec.thinking, hurried=row.thought is not None)
        body |= self.endpoint.extra_body
        return {key: value for key, value in body.items() if value is not None}

    def _understood(self, error: Unfit, n: int) -> Exception:
        """Return the error that a refusal means: the prompt is too long, ``n`` is too large, or ``error`` itself."""
        if _TOO_LONG.search(error.said):
            return InvalidRequest("prompt", f"prompt is too long: {error.said}", reason="PROMPT_TOO_LONG")
        if n == 1:
            self.at_once = None  # that was not why
            return error
        self.at_once = min(self.at_once or n, n // 2 if (self.slots.each or n) >= n else self.slots.each or 1)
        return _TooMany(f"{n} samples in one request were refused")

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("engine %s: %s", self.replicas.urls, what)

    def count(self, usage: Usage, **spent: int) -> None:
        """See :meth:`Usage.add`."""
        usage.add(**spent)
        self.counted.add(**spent)

    async def _prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        spent = Usage()
        calls = [_Call(prompt, 0.0, 1, None, 0, usage) for prompt in prompts]
        asks = [(call.prompt, self._body(call, _Row(0, Candidate(), cap=1), 1)) for call in calls]
        try:
            return await prefer(self.replicas, PATH, asks, answers, max_tokens=max_tokens, usage=spent)
        finally:
            self.count(usage, calls=spent.calls, scored_tokens=spent.scored_tokens)

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """Raises InvalidRequest: a chat completions endpoint gives no hidden states."""
        raise InvalidRequest(
            "backend",
            "a chat completions endpoint gives no hidden states, which this bundle predicts levels from; train one on "
            "text features",
            reason="UNSPECIFIED",
        )

    async def close(self) -> None:
        await self.replicas.close()


class _TooMany(Exception):
    """A request wanted more samples than the server gives at once. ``at_once`` has been lowered; send it again."""


@dataclass(eq=False, slots=True)
class _Call:
    """What all rows of one call have in common.

    longest      tokens of the longest solution
    tokens_left  tokens that all rows together may still write; None: no cap
    """

    prompt: Prompt
    temperature: float
    longest: int
    tokens_left: int | None
    seed: int
    usage: Usage
    requests: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def spend(self, tokens: int) -> None:
        if self.tokens_left is not None:
            self.tokens_left = max(0, self.tokens_left - tokens)

    def draw(self, index: int) -> int:
        """Return a seed for the next request, of 31 bits, which every server takes."""
        self.requests += 1
        return Random(f"{self.seed}/{self.requests}/{index}").getrandbits(31)


@dataclass(eq=False, slots=True)
class _Spent:
    """Tokens of one request: an estimate of the prompt's, and those generated so far."""

    prompt: int
    generated: int = 0


def _index(choice: Any, wanted: int) -> int:
    index = choice.get("index", 0)
    if not isinstance(index, int) or not 0 <= index < wanted:
        raise ValueError(f"choice {index!r} of {wanted}")
    return index
