"""A generator on vLLM's OpenAI-compatible server, which does the batching, prefix caching and parallel computing.

Prefixes are sent as token ids, and sampled token ids come back, so that a candidate continues exactly. Candidates with
equal prefixes are samples of one request. Answers are streamed, so that the tokens of a cancelled or lost request are
known and billed. Closing the connection makes vLLM abort.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

from router.backends import Usage
from router.backends.chat import ChatEndpoint
from router.backends.preference import label_tokens, within_cap
from router.backends.prm import ROWS, Reading
from router.backends.prompt_length import check_length, too_long
from router.backends.replicas import Broken, Lost, Replicas, understood
from router.backends.specs import ModelSpec
from router.backends.states import State
from router.backends.steps import End, StepText, Writing
from router.backends.template import encode, resolved
from router.backends.thinking import Thinker, thoughts_of
from router.backends.vllm.server import PLAIN, Served, look, token_count
from router.backends.vllm.verifiers import VllmLabels
from router.errors import InvalidRequest
from router.prompt import Prompt
from strategies import Candidate, Earlier

LOSSES = 3  # a call is given up when its answers have broken off this many times
LARGEST_TOKEN = 2**31  # a larger token id is an error, since vocabularies are far smaller
PIECE = 16  # tokens of a row in one event of a streamed answer; a row that is cut loses those after its last event


@dataclass(eq=False, slots=True)
class _Row:
    """One candidate being written. ``room``: tokens it may still get; ``cap``: tokens the present request may add."""

    index: int
    writing: Writing
    steps_left: float
    room: int
    cap: int = 0
    end: End = None
    open: bool = True

    def append(self, token: int, log_prob: float | None, confidence: float | None) -> None:
        self.room -= 1
        self.cap -= 1
        if self.writing.append(token, log_prob, confidence):
            self.steps_left -= 1
        if self.steps_left <= 0:
            self.open = False
        elif self.room <= 0:
            self.finish("length")

    def finish(self, end: End) -> None:
        self.end, self.open = end, False


class VllmGenerator:
    """See :class:`router.backends.Generator`.

    ``log_probs``: whether to ask for log-probabilities. The engine has to compute them, and only the verifier of kind
    log_prob and some confidence models read them.
    """

    def __init__(self, replicas: Replicas, spec: ModelSpec, tokenizer: Any, *, log_probs: bool = True, top: int = 0):
        self.replicas = replicas
        self.spec = spec
        self.template = resolved(spec.template, tokenizer)
        self.parameters = spec.parameters
        self.tokenizer = tokenizer
        self.log_probs = log_probs
        self.top = top  # number of likeliest tokens that a token's confidence is computed from; 0: no confidences
        self.counted = Usage()  # what the servers reported, over all calls
        self._text = StepText(tokenizer, spec.template.delimiter)
        self._served: Served | None = None
        self.kept_free = 0  # tokens of the context to leave free besides the longest solution, such as for a thought
        self.thinker: Thinker | None = None
        if spec.thinking:
            thoughts = VllmGenerator(replicas, thoughts_of(spec), tokenizer, log_probs=False)
            thoughts.counted = self.counted
            self.thinker = Thinker(spec.thinking, self.template, tokenizer, thoughts.extend)
            self.kept_free = self.thinker.longest
            thoughts.kept_free = self.kept_free + spec.max_tokens - thoughts.spec.max_tokens
        self.chat = ChatEndpoint(replicas, "/v1/chat/completions", self._name)

    async def extend(self, prompt: Prompt, candidates: Sequence[Candidate], **options: Any) -> list[Candidate]:
        """See ``backends.Generator``. Greedy candidates with equal prefixes are written, and billed, once."""
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
        rows = [
            _Row(
                index,
                Writing(self._text, candidate),
                steps_left=float("inf") if steps is None else steps,
                room=self.spec.longest_of(longest) - len(candidate.tokens),
            )
            for index, candidate in enumerate(candidates)
            if candidate.end is None
        ]
        for row in rows:
            if row.room <= 0:
                row.finish("length")
        round_ = _Round(
            prompt,
            steps_only=steps is not None,
            temperature=self.spec.temperature_of(temperature),
            tokens_left=max_tokens,
            seed=seed,
            usage=usage,
        )
        loop = asyncio.get_running_loop()
        until = None if deadline is None else loop.time() + deadline - time.monotonic()
        try:
            async with asyncio.timeout_at(until):
                await self._write(round_, rows)
        except TimeoutError:
            pass  # candidates that are still open are cut
        result = list(candidates)
        for row in rows:
            result[row.index] = row.writing.ended("cut" if row.open else row.end)
        return result

    async def _name(self) -> str:
        """Return the server's name for the model."""
        self._served = self._served or await look(self.replicas, self.spec.adapter, self.spec.reviser)
        return self.spec.adapter or self._served.base

    async def _write(self, round_: "_Round", rows: Sequence[_Row]) -> None:
        """Send requests until no row is open or no token is left. Repeat a lost request at another server."""
        losses = 0
        while writing := round_.share([row for row in rows if row.open]):
            self._served = served = self._served or await look(self.replicas, self.spec.adapter, self.spec.reviser)
            prefixes: dict[tuple[Earlier, ...], tuple[int, ...]] = {}
            groups: dict[tuple[str, tuple[int, ...], int], list[_Row]] = {}
            for row in writing:
                earlier = row.writing.candidate.earlier
                if earlier not in prefixes:
                    prefixes[earlier] = self._encode(round_.prompt, earlier, served.context)
                # The reviser learned to write without being told what was wrong.
                revised = earlier and not earlier[-1].finding
                model = (self.spec.reviser if revised else None) or self.spec.adapter or served.base
                prefix = prefixes[earlier] + row.writing.candidate.thought + row.writing.tokens
                groups.setdefault((model, prefix, row.cap), []).append(row)
            asks = [self._ask(round_, model, prefix, group) for (model, prefix, _), group in groups.items()]
            answers = await asyncio.gather(*asks, return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, BaseException)]
            losses += bool(errors)  # one loss, even if several requests were lost: they may have had the same server
            for error in errors:
                if not isinstance(error, Lost) or losses > LOSSES:
                    raise error

    async def _ask(self, round_: "_Round", model: str, prefix: tuple[int, ...], rows: Sequence[_Row]) -> None:
        """Send one request for rows with equal prefixes and caps; read its answer. Raises Lost, EngineUnavailable."""
        greedy = round_.temperature == 0
        unfinished = set(range(1 if greedy else len(rows)))
        body: dict[str, Any] = {
            **PLAIN,
            "model": model,
            "prompt": prefix,
            "n": len(unfinished),
            "max_tokens": rows[0].cap,
            "temperature": round_.temperature,
            "seed": round_.draw(rows[0].index),
            "logprobs": self.top if self.log_probs or self.top else None,
            "return_tokens_as_token_ids": self.top > 0,  # different tokens may have the same text
            "return_token_ids": True,
            "stream": True,
            "stream_interval": PIECE,
            "stream_options": {"include_usage": True},
        }
        if round_.steps_only:
            body |= {"stop": [self.spec.template.delimiter], "include_stop_str_in_output": True}
        left = dict.fromkeys(unfinished, rows[0].cap)
        async with self.replicas.stream(
            "/v1/completions", body, load=len(rows), affinity=round_.prompt.question
        ) as events:
            self.count(round_.usage, calls=1, prompt_tokens=len(prefix))
            async for event in events:
                with understood():
                    pieces = [_Piece.of(choice, self.log_probs, self.top) for choice in event["choices"]]
                    cached = _cached(event)
                for piece in pieces:
                    left[piece.index] = left.get(piece.index, -1) - len(piece.tokens)
                    if left[piece.index] < 0:
                        raise Broken("the answer has more tokens or samples than were asked for")
                    self._take(round_, piece, rows if greedy else [rows[piece.index]])
                    if piece.reason:
                        unfinished.discard(piece.index)
                # Tokens in the server's prefix cache were not prefilled.
                self.count(round_.usage, prompt_tokens=-min(cached, len(prefix)))
        if unfinished:
            raise Lost(f"an engine of {self.replicas.model} left {len(unfinished)} of {len(rows)} samples unfinished")

    def _take(self, round_: "_Round", piece: "_Piece", rows: Sequence[_Row]) -> None:
        """Add a piece of a sample to its row (to all rows where they are greedy)."""
        tokens, reason = piece.tokens, piece.reason
        self.count(round_.usage, generated_tokens=len(tokens))
        if round_.tokens_left is not None:
            round_.tokens_left -= len(tokens)
        if reason not in (None, "stop", "length"):
            raise Lost(f"an engine of {self.replicas.model} ended a sample with {reason!r}")
        # "stop" is also the reason at a step's delimiter; only then does the server name the text that stopped it.
        # "length" means that the request's tokens are used up, not that the solution is too long.
        ended = reason == "stop" and not piece.at_delimiter
        for row in rows:
            written = tokens[: len(tokens) - ended]
            for token, log_prob, sure in zip(written, piece.log_probs, piece.confidences, strict=False):
                if row.open:
                    row.append(token, log_prob, sure)
            if ended and row.open:
                row.finish("stop")

    def count(self, usage: Usage, *, calls: int = 0, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.add(calls=calls, prompt_tokens=prompt_tokens, generated_tokens=generated_tokens)

    def _encode(self, prompt: Prompt, earlier: Sequence[Earlier], context: int) -> tuple[int, ...]:
        """Return token ids of the prompt and as many of the latest ``earlier`` attempts as the context has room for."""
        room = context - self.spec.max_tokens - self.kept_free
        check_length(prompt, room)
        for first in range(len(earlier) + 1):
            tokens = encode(self.tokenizer, self.template.parts(prompt, earlier[first:]))
            if len(tokens) <= room:
                return tokens
        raise too_long(len(tokens), room)

    async def prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        """See :class:`router.backends.Prefers`."""
        labels = label_tokens(self.tokenizer, answers)
        encoded = [encode(self.tokenizer, self.template.parts(prompt)) for prompt in prompts]
        reader = VllmLabels(self.replicas, labels, self.spec.adapter)
        fits = within_cap(encoded, 1 + await reader.room(), max_tokens)
        readings = [Reading(ids, (len(ids) - 1,)) for ids, fit in zip(encoded, fits, strict=True) if fit]
        found: list[float] = []
        for start in range(0, len(readings), ROWS):
            spent = Usage()
            found += [score for (score,) in await reader.scores(readings[start : start + ROWS], spent)]
            for tally in (usage, self.counted):
                tally.add(calls=spent.calls, scored_tokens=spent.scored_tokens)
        rest = iter(found)
        return [next(rest) if fit else None for fit in fits]

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """Raises InvalidRequest: a generating vLLM server gives no hidden states."""
        raise InvalidRequest(
            "backend",
            "vLLM gives no hidden states, which this bundle predicts levels from; train one on text features",
            reason="UNSPECIFIED",
        )

    async def close(self) -> None:
        await self.replicas.close()


@dataclass(eq=False, slots=True)
class _Round:
    """What all rows of one call have in common.

    tokens_left  tokens that all rows together may still write; None: no cap
    """

    prompt: Prompt
    steps_only: bool
    temperature: float
    tokens_left: int | None
    seed: int
    usage: Usage
    requests: int = 0

    def share(self, rows: Sequence[_Row]) -> list[_Row]:
        """Return the rows that may go on. Their ``cap`` is an equal part of the tokens left."""
        if self.tokens_left is None:
            shares: Iterator[int] = iter([row.room for row in rows])
        else:
            each, extra = divmod(self.tokens_left, len(rows) or 1)
            shares = iter([each + (i < extra) for i in range(len(rows))])
        for row, share in zip(rows, shares, strict=True):
            row.cap = min(row.room, share)
        return [row for row in rows if row.cap > 0]

    def draw(self, index: int) -> int:
        """Return a seed for the next request."""
        self.requests += 1
        return Random(f"{self.seed}/{self.requests}/{index}").getrandbits(62)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one event adds to one sample.

    tokens       ids
    log_probs, confidences  one for each token, or None
    reason       why the sample ended; None where it goes on
    at_delimiter whether it ended at a step's delimiter
    """

    index: int
    tokens: list[int]
    log_probs: Sequence[float | None]
    confidences: Sequence[float | None]
    reason: str | None
    at_delimiter: bool

    @classmethod
    def of(cls, choice: dict[str, Any], with_log_probs: bool, top: int) -> "_Piece":
        """Read a piece from a choice in an event. Raises LookupError, TypeError or ValueError where it is malformed."""
        index, tokens = choice["index"], choice["token_ids"]
        if not all(isinstance(each, int) and 0 <= each < LARGEST_TOKEN for each in (index, *tokens)):
            raise ValueError(f"tokens {tokens} of sample {index}")
        log_probs = confidences = [None] * len(tokens)
        if tokens and top:
            likeliest = [sorted(each.values(), reverse=True)[:top] for each in choice["logprobs"]["top_logprobs"]]
            if len(likeliest) != len(tokens) or not all(likeliest):
                raise ValueError(f"{len(tokens)} tokens have {len(likeliest)} lists of the likeliest")
            confidences = [-sum(each) / len(each) for each in likeliest]
        if tokens and with_log_probs:
            log_probs = choice["logprobs"]["token_logprobs"]
            if len(log_probs) != len(tokens) or not all(-inf < each < 0.01 for each in log_probs):  # 0, with rounding
                raise ValueError(f"{len(tokens)} tokens have the log-probabilities {log_probs}")
        stopped_by = choice.get("stop_reason")
        return cls(index, tokens, log_probs, confidences, choice["finish_reason"], isinstance(stopped_by, str))


def _cached(event: dict[str, Any]) -> int:
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    return token_count(details.get("cached_tokens") or 0)
