"""Continuous batching for a causal model in process: one worker thread, one batch that rows join and leave every token.

transformers' own continuous batching is made for GPUs: on a CPU it reached a third of this loop's speed
(benchmarks/batching.py). Rows are left-padded, so that all of them grow at the same column of the cache.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import torch
from transformers import Cache

from router.backends import Usage
from router.backends.kv import (
    ROOM,
    GrowingLayer,
    KeyValues,
    PrefixCache,
    PrefixKey,
    join,
    prefill,
    prefill_chunks,
    take,
)
from router.errors import EngineUnavailable
from strategies import Path

MAX_ROWS = 128  # rows decoded at once: throughput levels off there on two cores
GATHER = ROOM  # tokens between two changes of the batch: each one copies its whole cache

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class ExtendJob:
    """One call to extend. ``rows`` are its open paths; ``done`` resolves to all of its paths, in order.

    prefixes  token ids of the rendered prompt, by the earlier attempts that it shows
    """

    prefixes: dict[tuple[str, ...], tuple[int, ...]]
    paths: list[Path]
    steps: int | None
    temperature: float
    tokens_left: int | None
    deadline: float | None
    seed: int
    usage: Usage
    rows: list["_Row"] = field(default_factory=list)
    cancelled: bool = False
    done: "Future[list[Path]]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class CallJob:
    """Any other work for the thread that owns the models."""

    call: Callable[[], Any]
    cancelled: bool = False
    done: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class _Row:
    """One path being written. ``new`` are its tokens since the last finished step, ``log_prob`` the sum of theirs.

    A row that is ``done`` stays in the batch, ignored, until the batch is next changed.
    """

    job: ExtendJob
    index: int
    path: Path
    steps_left: float
    tokens_left: int
    rng: random.Random
    new: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    done: bool = False

    @property
    def prefix(self) -> tuple[int, ...]:
        return self.job.prefixes[self.path.earlier] + self.path.tokens + tuple(self.new)


class Batcher:
    """Extends paths with ``model``. Thread-safe: submit from anywhere, results come through the job's future."""

    def __init__(self, model: Any, tokenizer: Any, delimiter: str, max_tokens: int):
        self.model = model
        self.tokenizer = tokenizer
        self.delimiter = delimiter
        self.max_tokens = max_tokens
        self.context: int = model.config.max_position_embeddings
        self.counted = Usage()  # the engine's own count, over all jobs
        eos = model.generation_config.eos_token_id
        self._eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self._decode: Callable[[int], str] = cache(lambda token: str(tokenizer.decode([token])))
        self._jobs: queue.SimpleQueue[ExtendJob | CallJob | None] = queue.SimpleQueue()
        self._waiting: list[_Row] = []
        self._rows: list[_Row] = []
        self._layers: list[GrowingLayer] = []
        self._since_change = 0
        self._step_seconds = 0.0
        self._prefixes = PrefixCache()
        self._open = threading.Lock()  # held to add a job, and to stop adding jobs
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, job: ExtendJob | CallJob) -> None:
        """Raises EngineUnavailable when the worker has ended."""
        with self._open:
            if self._closed:
                raise EngineUnavailable("the in-process engine has stopped; see its log, then restart the server")
            self._jobs.put(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    # The worker thread from here on.

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._receive():
                started = time.monotonic()
                try:
                    self._drop_stopped()
                    if self._since_change >= GATHER or all(row.done for row in self._rows):
                        self._change_batch()
                    if self._rows:
                        self._step()
                except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # what torch raises
                    log.exception("a batch failed")
                    self._fail_batch(f"the in-process engine failed on this batch: {error}")
                self._step_seconds = time.monotonic() - started
        finally:  # whatever ended the thread: nobody waits for it for ever
            with self._open:
                self._closed = True
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.done.set_exception(EngineUnavailable("the in-process engine stopped before this call"))
            self._fail_batch("the in-process engine stopped while it worked on this call")

    def _receive(self) -> bool:
        """Take in new jobs; wait for one when there is nothing to do. False to end."""
        idle = not self._rows and not self._waiting
        while True:
            try:
                job = self._jobs.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if job is None:
                return False
            if isinstance(job, CallJob):
                _call(job)
                continue
            self.count(job.usage, calls=1)
            for index, path in enumerate(job.paths):
                if path.end is None:
                    room = self.max_tokens - len(path.tokens)
                    rng = random.Random(job.seed * 65_537 + index)
                    steps = float("inf") if job.steps is None else job.steps
                    job.rows.append(_Row(job, index, path, steps, room, rng))
            self._waiting += job.rows
            if not job.rows:
                job.done.set_result(job.paths)

    def _drop_stopped(self) -> None:
        """Cut the rows of jobs that were cancelled, or can't afford one more token in time or in tokens."""
        next_token = time.monotonic() + self._step_seconds
        cut: set[_Row] = set()
        for job in {row.job for row in (*self._waiting, *self._rows)}:
            if job.cancelled or (job.deadline is not None and next_token >= job.deadline):
                cut.update(job.rows)
            elif job.tokens_left is not None:
                cut.update(job.rows[job.tokens_left :])
        for row in cut:
            self._finish(row, "cut")
        for row in self._waiting:
            if not row.done and row.tokens_left <= 0:
                self._finish(row, "length")
        self._waiting = [row for row in self._waiting if not row.done]

    def _change_batch(self) -> None:
        """Rows that are done leave, waiting ones join: prefill what is not cached, all but the last token, once."""
        self._since_change = 0
        staying = [i for i, row in enumerate(self._rows) if not row.done]
        joining = self._waiting[: MAX_ROWS - len(staying)]
        if len(staying) < len(self._rows):
            self._rows = [self._rows[i] for i in staying]
            longest = max((len(row.prefix) - 1 for row in self._rows), default=0)
            self._layers = [GrowingLayer(*kv) for kv in take(self._layers, staying, longest)]
        if not joining:
            return
        batch = [[(layer.keys, layer.values) for layer in self._layers]] if staying else []
        self._layers = [GrowingLayer(*kv) for kv in join(batch + self._prefixes_of(joining))]
        self._rows += joining
        del self._waiting[: len(joining)]

    def _prefixes_of(self, rows: list[_Row]) -> list[KeyValues]:
        """Keys and values of each row's tokens but the last. A search pays for each prefix once."""
        known: dict[PrefixKey, KeyValues] = {}
        missing: dict[PrefixKey, Usage] = {}
        keys = [(id(row.job.usage), row.prefix[:-1]) for row in rows]
        for key, row in zip(keys, rows, strict=True):
            found = self._prefixes.get(key)
            if found is None:
                missing[key] = row.job.usage
            else:
                known[key] = found
        for chunk in prefill_chunks(sorted(missing, key=lambda key: len(key[1]))):
            for key, kv in zip(chunk, prefill(self.model.base_model, [prefix for _, prefix in chunk]), strict=True):
                known[key] = kv
                self._prefixes.put(key, missing[key], kv)
                self.count(missing[key], prompt_tokens=len(key[1]) + 1)
        return [known[key] for key in keys]

    def _step(self) -> None:
        """One forward pass: a token for every row."""
        self._since_change += 1
        lengths = torch.tensor([len(row.prefix) - 1 for row in self._rows])
        columns = self._layers[0].keys.shape[2]
        mask = torch.arange(columns + 1)[None] >= (columns - lengths)[:, None]
        logits = self.model(
            input_ids=torch.tensor([[row.prefix[-1]] for row in self._rows]),
            attention_mask=mask.long(),
            position_ids=lengths[:, None],
            past_key_values=Cache(layers=self._layers),
        ).logits[:, -1]
        tokens, log_probs = _sample(logits, self._rows)
        for i, row in enumerate(self._rows):
            if not row.done:
                self._append(i, row, tokens[i], log_probs[i])

    def _append(self, i: int, row: _Row, token: int, log_prob: float) -> None:
        """Add a token to a row, and hand the row's path back where that ends it."""
        job = row.job
        self.count(job.usage, generated_tokens=1)
        row.tokens_left -= 1
        if job.tokens_left is not None:
            job.tokens_left -= 1
        if token in self._eos:
            self._finish(row, "stop")
            return
        row.new.append(token)
        row.log_prob += log_prob
        if self.delimiter[-1] in self._decode(token):
            text = self.tokenizer.decode(row.new)
            if self.delimiter in text and text.strip():  # a blank line is no step
                self._close_step(row, text)
                row.steps_left -= 1
        if row.steps_left <= 0:
            kv = take(self._layers, [i], len(row.prefix) - 1)
            self._prefixes.put((id(job.usage), row.prefix[:-1]), job.usage, kv)
            self._finish(row, None)
        elif row.tokens_left <= 0:
            self._finish(row, "length")

    def _close_step(self, row: _Row, text: str) -> None:
        path = row.path
        row.path = replace(
            path,
            steps=(*path.steps, text),
            tokens=path.tokens + tuple(row.new),
            log_probs=(*path.log_probs, row.log_prob),
            token_counts=(*path.token_counts, len(row.new)),
            scores=None,
        )
        row.new, row.log_prob = [], 0.0

    def _finish(self, row: _Row, end: Literal["stop", "length", "cut"] | None) -> None:
        """Hand the row's path back; the job is done with its last row."""
        row.done = True
        text = self.tokenizer.decode(row.new)
        if text.strip():
            self._close_step(row, text)
        elif row.new and row.path.steps:
            row.path = _lengthen_last_step(row.path, text, row.new, row.log_prob)
        job = row.job
        job.paths[row.index] = replace(row.path, end=end)
        job.rows.remove(row)
        if not job.rows:
            job.done.set_result(job.paths)

    def count(self, usage: Usage, *, calls: int = 0, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.calls += calls
            tally.prompt_tokens += prompt_tokens
            tally.generated_tokens += generated_tokens

    def _fail_batch(self, message: str) -> None:
        for job in {row.job for row in (*self._waiting, *self._rows)}:
            if not job.done.done():
                job.done.set_exception(EngineUnavailable(message))
        self._waiting, self._rows, self._layers = [], [], []


def _lengthen_last_step(path: Path, text: str, tokens: list[int], log_prob: float) -> Path:
    """Blank lines at the end of a solution are no step of their own, but they were written and are billed."""
    return replace(
        path,
        steps=(*path.steps[:-1], path.steps[-1] + text),
        tokens=path.tokens + tuple(tokens),
        log_probs=(*path.log_probs[:-1], path.log_probs[-1] + log_prob),
        token_counts=(*path.token_counts[:-1], path.token_counts[-1] + len(tokens)),
        scores=None,
    )


def _sample(logits: torch.Tensor, rows: list[_Row]) -> tuple[list[int], list[float]]:
    """One token a row by inverse transform, with the row's own random numbers; log-probabilities at temperature 1."""
    temperatures = torch.tensor([row.job.temperature for row in rows])
    greedy = temperatures == 0
    scaled = logits / torch.where(greedy, 1.0, temperatures)[:, None]
    cumulative = scaled.softmax(-1).cumsum(-1)
    draws = torch.tensor([row.rng.random() for row in rows])[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, draws, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return tokens.tolist(), log_probs.tolist()


def _call(job: CallJob) -> None:
    try:
        job.done.set_result(None if job.cancelled else job.call())
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # what torch raises
        log.exception("a call failed")
        job.done.set_exception(EngineUnavailable(f"the in-process engine failed: {error}"))
    finally:
        if not job.done.done():  # anything else is a bug and ends the thread, but leaves no one waiting
            job.done.set_exception(EngineUnavailable("the in-process engine stopped while it worked on this call"))
