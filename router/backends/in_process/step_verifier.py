"""A fine-tuned model in this process that scores steps."""

import asyncio
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain, islice
from math import exp
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from router.backends import Usage
from router.backends.in_process.batching import Batcher
from router.backends.in_process.generator import submit
from router.backends.in_process.jobs import CallJob
from router.backends.in_process.kv import KeyValues, PrefixCache, PrefixKey, join, prefill, rows_of
from router.backends.in_process.prefill import PIECE, bytes_a_token, extended, whole
from router.backends.prompt_length import check_length, check_verifier
from router.backends.specs import VerifierSpec
from router.backends.steps import encoded
from router.backends.template import ChatTemplate, Template, encode
from router.prompt import Prompt
from strategies import Candidate

_ENCODED = 64  # prompts whose token ids are kept
_COPIES = 3  # copies of keys and values in memory, while more tokens are read after them
_SCORES = 12  # bytes of an attention score and its softmax, per head
LOGITS = 1024  # rows of the vocabulary's size computed at once


class StepVerifier:
    """A fine-tuned model that scores steps. See :class:`router.backends.Verifier`; ``HEADS`` has the kinds.

    It shares the generator's tokenizer and worker thread. A search pays for each token once: each round reads only what
    is new since the last one, and equal candidates are read together.
    """

    def __init__(self, batcher: Batcher, model: Any, template: Template | ChatTemplate, spec: VerifierSpec):
        self.batcher = batcher
        self.network = model
        self.template = template
        self.parameters = spec.parameters
        self.context: int = model.config.max_position_embeddings
        self._judge = HEADS[spec.kind]
        self.counted = Usage()  # the engine's own count, over all calls
        self._encode = lru_cache(_ENCODED)(lambda prompt: encode(batcher.tokenizer, template.parts(prompt)))
        self.share = batcher.pool.share(bytes_a_token(model))
        self._read_before: PrefixCache[_Read] = PrefixCache(lambda: min(batcher.sizes.cached, self.share.kept))
        self._columns_bytes: int = _SCORES * model.config.num_attention_heads  # of attention, per query and column

    @property
    def room(self) -> int:
        """Tokens of the longest prompt and solution: by the context and by the memory there is."""
        return min(self.context, self.share.most // _COPIES)

    async def check_room(self, prompt: Prompt, longest: int) -> None:
        """See ``backends.check_room``."""
        check_length(prompt, self.room)
        check_verifier(len(self._encode(prompt)), longest, self.room)

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        prefix = self._encode(prompt)
        steps = {
            candidate.steps: _Steps(*encoded(self.batcher.tokenizer, candidate))
            for candidate in candidates
            if candidate.steps
        }
        self._count(usage, 0, calls=1)
        fits = {key: len(prefix) + len(each.tokens) <= self.room for key, each in steps.items()}
        found: dict[tuple[str, ...], tuple[float, ...]] = {key: () for key, it_does in fits.items() if not it_does}
        remaining, spent = iter([each for each in steps.items() if fits[each[0]]]), usage.scored_tokens
        # A few candidates at a time: others' tokens come in between, and a cancelled call frees the thread soon.
        while chunk := dict(islice(remaining, self.batcher.sizes.scored)):
            room = None if max_tokens is None else max_tokens - (usage.scored_tokens - spent)
            ask = _Ask(prefix, list(chunk.values()), room, usage)
            size = sum(len(prefix) + len(each.tokens) for each in chunk.values())
            scores: list[tuple[float, ...]] = await submit(self.batcher, CallJob(self._score, ask, size))
            found |= dict(zip(chunk, scores, strict=False))  # shorter where the room ran out
            if len(scores) < len(chunk):
                break
        return [replace(candidate, scores=found.get(candidate.steps)) for candidate in candidates]

    # On the worker thread from here on. Counted where the work is done: what is cancelled before that costs nothing.

    def _score(self, asks: list["_Ask"]) -> Generator[None, None, list[list[tuple[float, ...]]]]:
        """Return for each ask the step scores of its first candidates, as many as its room allows to read."""
        known = [self._affordable(ask) for ask in asks]
        starts = yield from self._begin([ask for ask, reads in zip(asks, known, strict=True) if None in reads])
        scored = [
            [
                _Reading(ask, candidate, read or starts[ask.key()])
                for candidate, read in zip(ask.candidates, reads, strict=False)
            ]
            for ask, reads in zip(asks, known, strict=True)
        ]
        for together in self._parts([reading for readings in scored for reading in readings if reading.new]):
            used = self._bytes(together)
            self.share.used += used
            try:
                yield from self._read(together)
            finally:
                self.share.used -= used
        return [[reading.read.scores for reading in readings] for readings in scored]

    def _affordable(self, ask: "_Ask") -> "list[_Read | None]":
        """Return for each of the first candidates that the room allows what was read of it before, or None."""
        start = self._read_before.get(ask.key())
        known = [self._longest_read(ask, candidate) or start for candidate in ask.candidates]
        if ask.room is None:
            return known
        new = (
            len(candidate.tokens) - (read.written if read else 0)
            for candidate, read in zip(ask.candidates, known, strict=True)
        )
        totals = accumulate(new, initial=len(ask.prompt) if None in known else 0)
        return known[: sum(total <= ask.room for total in islice(totals, 1, None))]

    def _longest_read(self, ask: "_Ask", candidate: "_Steps") -> "_Read | None":
        """Return the longest beginning of the candidate that this search has read before; None where there is none."""
        found = (self._read_before.get(ask.key(candidate.tokens[:end])) for end in reversed(candidate.ends))
        return next(filter(None, found), None)

    def _begin(self, asks: list["_Ask"]) -> "Generator[None, None, dict[PrefixKey, _Read]]":
        """Read the prompts of searches that have read nothing yet: short ones together, a long one in pieces."""
        starts: dict[PrefixKey, _Read] = {}
        fresh = sorted({ask.key(): ask for ask in asks}.values(), key=lambda ask: len(ask.prompt))
        short = [ask for ask in fresh if len(ask.prompt) <= PIECE]
        at_once = max(1, min(self.batcher.sizes.prefill, self.share.tokens // _COPIES) // PIECE)
        for some in (short[i : i + at_once] for i in range(0, len(short), at_once)):
            kept, states = prefill(self.network.base_model, [ask.prompt for ask in some])
            for ask, kv, last in zip(some, kept, states, strict=True):
                self._count(ask.usage, len(ask.prompt))
                starts[ask.key()] = _Read(kv, last.clone(), ())
            yield
        for ask in fresh[len(short) :]:
            starts[ask.key()] = yield from self._begin_long(ask)
        for ask in fresh:
            self._read_before.put(ask.key(), ask.usage, starts[ask.key()])
        return starts

    def _begin_long(self, ask: "_Ask") -> "Generator[None, None, _Read]":
        cache = last = None
        for start in range(0, len(ask.prompt), PIECE):
            piece = ask.prompt[start : start + PIECE]
            cache, output = extended(self.network.base_model, cache, piece)
            last = output.last_hidden_state[0, -1].clone()
            self._count(ask.usage, len(piece))
            yield
        assert last is not None
        return _Read(whole(cache), last, ())

    def _parts(self, readings: list["_Reading"]) -> Iterator[list["_Reading"]]:
        """Split readings into parts that memory has room for, similar lengths together; each has at least one."""
        part: list[_Reading] = []
        for reading in sorted(readings, key=lambda each: each.read.length + len(each.new)):
            if part and self._bytes([*part, reading]) > self.share.tokens * self.share.bytes_a_token:
                yield part
                part = []
            part.append(reading)
        if part:
            yield part

    def _bytes(self, readings: list["_Reading"]) -> int:
        """Return the bytes that reading them together takes: copies of keys and values, and attention of a piece."""
        before, after = max(each.read.length for each in readings), max(len(each.new) for each in readings)
        columns = len(readings) * (before + after)
        return columns * (_COPIES * self.share.bytes_a_token + min(after, PIECE) * self._columns_bytes)

    def _read(self, readings: list["_Reading"]) -> Generator[None, None, None]:
        """Read each candidate's new tokens (right-padded) after those read before (left-padded)."""
        device = self.network.device
        known = [reading.read for reading in readings]
        before, after = max(read.length for read in known), max(len(reading.new) for reading in readings)
        masks = [
            [0] * (before - read.length) + [1] * (read.length + len(new)) + [0] * (after - len(new))
            for read, new in ((reading.read, reading.new) for reading in readings)
        ]
        ids = torch.tensor([[*reading.new, *[0] * (after - len(reading.new))] for reading in readings], device=device)
        cache = join([read.kv for read in known])
        mask = torch.tensor(masks, device=device)
        positions = torch.tensor([list(range(read.length, read.length + after)) for read in known], device=device)
        pieces = []
        for start in range(0, after, PIECE):
            piece = slice(start, start + PIECE)
            output = self.network.base_model(
                input_ids=ids[:, piece],
                attention_mask=mask[:, : before + min(after, start + PIECE)],
                position_ids=positions[:, piece],
                past_key_values=cache,
            )
            pieces.append(output.last_hidden_state)
            yield
        states = torch.cat(pieces, 1)
        judged = self._judge(self.network, readings, states, ids)
        kept = rows_of(cache, [slice(before - r.read.length, before + len(r.new)) for r in readings])
        for i, (reading, kv, (scores, log_prob)) in enumerate(zip(readings, kept, judged, strict=True)):
            read, new = reading.read, reading.new
            last = states[i, len(new) - 1].clone()
            self._count(reading.ask.usage, len(new))
            reading.read = _Read(kv, last, read.scores + scores, log_prob, read.written + len(new))
            self._read_before.put(reading.ask.key(reading.candidate.tokens), reading.ask.usage, reading.read)

    def _count(self, usage: Usage, scored_tokens: int, calls: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.add(calls=calls, scored_tokens=scored_tokens)

    async def close(self) -> None:
        self.share.close()
        await asyncio.to_thread(self.batcher.close)  # shared with the generator; closing it twice is fine


@dataclass(frozen=True, slots=True)
class _Steps:
    """A candidate as the verifier reads it. ``ends``: number of tokens up to the end of each step."""

    tokens: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Ask:
    """Candidates of one search to score. ``room``: most tokens that may be read for it; None: no cap."""

    prompt: tuple[int, ...]
    candidates: list[_Steps]
    room: int | None
    usage: Usage

    def key(self, written: tuple[int, ...] = ()) -> PrefixKey:
        """Return the cache key, for this search, of the prompt followed by ``written`` tokens."""
        return id(self.usage), self.prompt + written


@dataclass(frozen=True, slots=True)
class _Read:
    """A prompt and the first steps of a candidate, as the verifier has read them.

    last      hidden state after the last token, [size]
    scores    one for each step
    written   tokens of the steps
    log_prob  sum of these tokens' log-probabilities under the verifier; 0 where its kind does not use them
    """

    kv: KeyValues
    last: torch.Tensor
    scores: tuple[float, ...]
    log_prob: float = 0.0
    written: int = 0

    @property
    def length(self) -> int:
        return self.kv.shape[-2]


@dataclass(eq=False, slots=True)
class _Reading:
    """A candidate and how far it has been read."""

    ask: _Ask
    candidate: _Steps
    read: _Read

    @property
    def new(self) -> tuple[int, ...]:
        """Return its tokens that have not been read."""
        return self.candidate.tokens[self.read.written :]

    @property
    def ends(self) -> list[int]:
        """Return the indices of the new tokens that end a step."""
        return [end - self.read.written - 1 for end in self.candidate.ends[len(self.read.scores) :]]


_Judged = list[tuple[tuple[float, ...], float]]  # for each reading the scores of its new steps, and the log_prob of all


def _head(model: Any, readings: list[_Reading], states: torch.Tensor, ids: torch.Tensor) -> _Judged:
    """Score with a process reward model: the sigmoid of one logit at the last token of each step."""
    ends = [reading.ends for reading in readings]
    rows = [row for row, each in enumerate(ends) for _ in each]
    scores = iter(model.score(states[rows, list(chain(*ends))])[:, 0].float().sigmoid().tolist())
    return [(tuple(islice(scores, len(each))), 0.0) for each in ends]


def _likelihood(model: Any, readings: list[_Reading], states: torch.Tensor, ids: torch.Tensor) -> _Judged:
    """Score with a language model that knows the task better than the generator: how likely it finds the tokens so far.

    The score is the exponentiated mean log-probability. :class:`router.backends.log_probability.LogProbability`
    computes the same from the generator's own.
    """
    predicting = torch.cat([torch.stack([reading.read.last for reading in readings])[:, None], states[:, :-1]], 1)
    lengths = torch.tensor([len(reading.new) for reading in readings], device=states.device)
    new = torch.arange(ids.shape[1], device=states.device)[None] < lengths[:, None]
    log_probs = iter(
        chain.from_iterable(
            (-cross_entropy(model.lm_head(some).float(), tokens, reduction="none")).tolist()
            for some, tokens in zip(torch.split(predicting[new], LOGITS), torch.split(ids[new], LOGITS), strict=True)
        )
    )
    judged = []
    for reading in readings:
        read = reading.read
        totals = list(accumulate(islice(log_probs, len(reading.new)), initial=read.log_prob))[1:]
        judged.append((tuple(exp(totals[end] / (read.written + end + 1)) for end in reading.ends), totals[-1]))
    return judged


HEADS = {"prm": _head, "likelihood": _likelihood}
