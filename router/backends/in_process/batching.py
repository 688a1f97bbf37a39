"""Continuous batching for a causal model in process: one worker thread, one batch that candidates join and leave any
time.

transformers' own continuous batching is made for GPUs: on a CPU it reached a third of this loop's speed
(benchmarks/batching.py). Candidates of one search that have the same tokens so far share a row of the batch, and part
where their samples differ: many samples of an easy prompt cost little more than one. Each draws its own random numbers,
so sharing changes no sample, and the bill counts every sample's tokens, as any other engine would.
"""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from router.backends import Usage
from router.backends.in_process.kv import SIZES, Batch, KeyValues, PrefixCache, PrefixKey
from router.backends.in_process.memory import budget
from router.backends.in_process.prefill import Reading, bytes_a_token, read_piece
from router.backends.in_process.sampling import confidences, sample
from router.backends.steps import End, StepText, Writing
from router.errors import EngineUnavailable
from strategies import Candidate

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class ExtendJob:
    """One call to extend. ``open`` are its candidates being written; ``done`` resolves to all of its candidates, in
    order.

    prefixes  token ids of the rendered prompt, by the earlier attempts that it shows
    longest   tokens of a candidate in all
    text      where its steps end; None: where the engine's do
    """

    prefixes: dict[tuple[str, ...], tuple[int, ...]]
    candidates: list[Candidate]
    steps: int | None
    temperature: float
    longest: int
    tokens_left: int | None
    deadline: float | None
    seed: int
    usage: Usage
    text: StepText | None = None
    open: list["_Open"] = field(default_factory=list)
    cancelled: bool = False
    done: "Future[list[Candidate]]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class CallJob:
    """Any other work for the thread that owns the models: ``call`` answers all arguments that wait for it at once.

    It is a generator that yields after each piece of work, so that others' tokens come in between.

    size  of its argument; together those of one call are not much larger than what the device computes at once
    """

    call: Callable[[list[Any]], Generator[None, None, list[Any]]]
    argument: Any
    size: int = 1
    cancelled: bool = False
    done: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class _Open:
    """One candidate being written."""

    job: ExtendJob
    index: int
    writing: Writing
    steps_left: float
    tokens_left: int
    rng: random.Random
    done: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        candidate = self.writing.candidate
        return self.job.prefixes[candidate.earlier] + candidate.thought + self.writing.tokens

    @property
    def longest(self) -> int:
        """Tokens that it may have in the end, its prompt's included."""
        candidate = self.writing.candidate
        prefix = len(self.job.prefixes[candidate.earlier]) + len(candidate.thought)
        return prefix + len(self.writing.tokens) + self.tokens_left

    @property
    def cache_key(self) -> PrefixKey:
        """All of its tokens but the last, whose keys and values are computed with the next token."""
        return id(self.job.usage), self.tokens[:-1]


_Row = list[_Open]  # candidates of one search at one temperature, with the same tokens so far


class Batcher:
    """Extends candidates with ``model``. Thread-safe: submit from anywhere, results come through the job's future."""

    def __init__(
        self, model: Any, tokenizer: Any, delimiter: str, max_tokens: int, memory: int | None = None, *, top: int = 0
    ):
        """memory: bytes that keys and values may take; None: see ``memory.budget``.

        top: likeliest tokens that candidates' confidences are about; 0: they have none
        """
        self.top = top
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.context: int = model.config.max_position_embeddings
        self.sizes = SIZES[model.device.type]
        self.counted = Usage()  # the engine's own count, over all jobs
        eos = model.generation_config.eos_token_id
        self._eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self._text = StepText(tokenizer, delimiter)
        self._jobs: queue.SimpleQueue[ExtendJob | CallJob | None] = queue.SimpleQueue()
        self._calls: list[CallJob] = []
        self._calling: tuple[list[CallJob], Generator[None, None, list[Any]]] | None = None  # the one in progress
        self._waiting: list[_Open] = []
        self._rows: list[_Row] = []
        self._batch = Batch()  # its rows are those of ``_rows``
        self._reading: dict[PrefixKey, Reading] = {}  # prefixes that candidates wait for
        self._turn = 0
        self._step_seconds = 0.0
        # Half for the batch, which is copied when it grows, and a quarter for prefixes that later rounds continue.
        room = (budget(None) if memory is None else memory) // bytes_a_token(model)
        self.room = max(self.context, room // 4)  # tokens of the batch: rows times the longest of them
        self._prefixes: PrefixCache[KeyValues] = PrefixCache(min(self.sizes.cached, room // 4))
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
                if self._calls or self._calling:
                    self._call()
                started = time.monotonic()
                try:
                    self._drop_stopped()
                    self._read()
                    self._join()
                    if self._rows:
                        self._step()
                except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # what torch raises
                    log.exception("a batch failed")
                    self._fail_batch(_failed(error))
                self._step_seconds = time.monotonic() - started
        finally:  # whatever ended the thread: nobody waits for it for ever
            with self._open:
                self._closed = True
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.done.set_exception(EngineUnavailable("the in-process engine stopped before this call"))
            for job in [*self._calls, *(self._calling[0] if self._calling else [])]:
                job.done.set_exception(EngineUnavailable("the in-process engine stopped before this call"))
            self._fail_batch("the in-process engine stopped while it worked on this call")

    def _receive(self) -> bool:
        """Take in new jobs; wait for one when there is nothing to do. False to end."""
        idle = not self._rows and not self._waiting and not self._calls and self._calling is None
        while True:
            try:
                job = self._jobs.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if job is None:
                return False
            if isinstance(job, CallJob):
                self._calls.append(job)
                continue
            self.count(job.usage, calls=1)
            for index, candidate in enumerate(job.candidates):
                if candidate.end is None:
                    room = job.longest - len(candidate.tokens)
                    rng = random.Random(job.seed * 65_537 + index)
                    steps = float("inf") if job.steps is None else job.steps
                    job.open.append(_Open(job, index, Writing(job.text or self._text, candidate), steps, room, rng))
            self._waiting += job.open
            if not job.open:
                job.done.set_result(job.candidates)

    def _call(self) -> None:
        """Do a piece of the oldest call, and of those that wait for the same, as many as are computed at once."""
        if self._calling is None:
            self._begin_call()
        if self._calling is None:
            return
        together, work = self._calling
        if all(job.cancelled for job in together):
            work.close()
            self._end_call([None] * len(together))
            return
        try:
            next(work)
        except StopIteration as done:
            self._end_call(done.value)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # what torch raises
            log.exception("a call failed")
            self._end_call(error=EngineUnavailable(_failed(error)))
        except BaseException:  # a bug: it ends the thread, but leaves no one waiting
            self._end_call(error=EngineUnavailable("the in-process engine stopped while it worked on this call"))
            raise

    def _begin_call(self) -> None:
        together: list[CallJob] = []
        waiting, self._calls = self._calls, []
        room = self.sizes.scored
        for job in waiting:
            if job.cancelled:
                job.done.set_result(None)
            elif not together or (job.call == together[0].call and job.size <= room):
                together.append(job)
                room -= job.size
            else:
                self._calls.append(job)
        if together:
            self._calling = together, together[0].call([job.argument for job in together])

    def _end_call(self, results: Sequence[Any] = (), error: EngineUnavailable | None = None) -> None:
        assert self._calling
        (together, _), self._calling = self._calling, None
        for i, job in enumerate(together):
            if error:
                job.done.set_exception(error)
            else:
                job.done.set_result(results[i])

    def _drop_stopped(self) -> None:
        """Cut the candidates of jobs that were cancelled, or can't afford one more token in time or in tokens."""
        next_token = time.monotonic() + self._step_seconds
        cut: set[_Open] = set()
        for job in {candidate.job for candidate in chain(self._waiting, *self._rows)}:
            if job.cancelled or (job.deadline is not None and next_token >= job.deadline):
                cut.update(job.open)
            elif job.tokens_left is not None:
                cut.update(job.open[job.tokens_left :])
        for candidate in cut:
            self._finish(candidate, "cut")
        for candidate in self._waiting:
            if not candidate.done and candidate.tokens_left <= 0:
                self._finish(candidate, "length")
        self._waiting = [candidate for candidate in self._waiting if not candidate.done]
        if cut:
            self._rows = [[candidate for candidate in row if not candidate.done] for row in self._rows]
            self._remove_empty_rows()

    def _read(self) -> None:
        """One piece of the prefixes that candidates wait for: short ones first, and every other time the oldest.

        In between others get their next token, and what nobody waits for any more is dropped.
        """
        wanted = {candidate.cache_key: candidate.job.usage for candidate in self._joining()}
        self._reading = {key: each for key, each in self._reading.items() if key in wanted}
        for key, usage in wanted.items():
            if key not in self._reading:
                found = self._prefixes.get(key)
                self._reading[key] = Reading(key[1], usage, found, done=found is not None)
        self._turn += 1
        unread = [each for each in self._reading.values() if not each.done]
        if self._turn % 2:
            unread.sort(key=lambda each: each.left)
        for reading, tokens in read_piece(self.model.base_model, unread, self.sizes.prefill):
            # The prefix's last token, which the first decoding step reads, is counted with the others.
            self.count(reading.usage, prompt_tokens=tokens + reading.done)

    def _joining(self) -> list[_Open]:
        """Waiting candidates that there is room for, in the order in which they came.

        Equal ones begin in one row, but each may need a row of its own in the end.
        """
        open_now = sum(map(len, self._rows))
        longest = max((candidate.longest for row in self._rows for candidate in row), default=0)
        taken: list[_Open] = []
        rows: set[tuple[PrefixKey, int]] = set()
        for candidate in self._waiting:
            longest = max(longest, candidate.longest)
            full = len(self._rows) + len(rows) >= self.sizes.rows or (open_now + len(taken) + 1) * longest > self.room
            if full and (taken or open_now):
                break
            taken.append(candidate)
            rows.add((candidate.cache_key, candidate.tokens[-1]))
        return taken

    def _join(self) -> None:
        """Waiting candidates whose prefix is read join, equal ones in one row."""
        joining: dict[tuple[float, PrefixKey, int], _Row] = {}
        for candidate in self._joining():
            if self._reading[candidate.cache_key].done:
                same = candidate.job.temperature, candidate.cache_key, candidate.tokens[-1]
                joining.setdefault(same, []).append(candidate)
        if not joining:
            return
        joined = {id(candidate) for row in joining.values() for candidate in row}
        self._waiting = [candidate for candidate in self._waiting if id(candidate) not in joined]
        for (_, key, _), row in joining.items():
            prefix = self._reading[key].kv
            assert prefix is not None
            self._prefixes.put(key, row[0].job.usage, prefix)
            self._batch.add(prefix)
            self._rows.append(row)

    def _remove_empty_rows(self) -> None:
        for i in reversed(range(len(self._rows))):
            if not self._rows[i]:
                self._batch.remove(i)
                self._rows[i] = self._rows[-1]
                self._rows.pop()
        if not self._rows:
            self._batch = Batch()  # its memory goes back, and its width changes nobody's floating point

    def _step(self) -> None:
        """One forward pass: a token for every candidate."""
        logits = self._batch.step(self.model, [row[0].tokens[-1] for row in self._rows])
        temperatures = [row[0].job.temperature for row in self._rows]
        numbers = [[candidate.rng.random() for candidate in row] for row in self._rows]
        sampled = sample(logits, temperatures, numbers, self.sizes.sampled)
        sure = confidences(logits, self.top, self.sizes.sampled) if self.top else [None] * len(self._rows)
        for i, (row, drawn) in enumerate(zip(list(self._rows), sampled, strict=True)):
            branches: dict[int, _Row] = {}
            for candidate, (token, log_prob) in zip(row, drawn, strict=True):
                self._append(i, candidate, token, log_prob, sure[i])
                if not candidate.done:
                    branches.setdefault(token, []).append(candidate)
            self._rows[i], *others = branches.values() or [[]]
            for other in others:
                self._batch.copy(i)
                self._rows.append(other)
        self._remove_empty_rows()

    def _append(self, i: int, candidate: _Open, token: int, log_prob: float, confidence: float | None) -> None:
        """Add a token to a candidate of row ``i``, and hand the candidate back where that ends it."""
        job = candidate.job
        self.count(job.usage, generated_tokens=1)
        candidate.tokens_left -= 1
        if job.tokens_left is not None:
            job.tokens_left -= 1
        if token in self._eos:
            self._finish(candidate, "stop")
            return
        if candidate.writing.append(token, log_prob, confidence):
            candidate.steps_left -= 1
        if candidate.steps_left <= 0:
            self._prefixes.put(candidate.cache_key, job.usage, self._batch.take(i).clone())
            self._finish(candidate, None)
        elif candidate.tokens_left <= 0:
            self._finish(candidate, "length")

    def _finish(self, candidate: _Open, end: End) -> None:
        """Hand the candidate back; the job is done with its last one."""
        candidate.done = True
        job = candidate.job
        job.candidates[candidate.index] = candidate.writing.ended(end)
        job.open.remove(candidate)
        if not job.open:
            job.done.set_result(job.candidates)

    def count(self, usage: Usage, *, calls: int = 0, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        for tally in (usage, self.counted):
            tally.add(calls=calls, prompt_tokens=prompt_tokens, generated_tokens=generated_tokens)

    def _fail_batch(self, message: str) -> None:
        for job in {candidate.job for candidate in chain(self._waiting, *self._rows)}:
            if not job.done.done():
                job.done.set_exception(EngineUnavailable(message))
        self._waiting, self._rows, self._batch, self._reading = [], [], Batch(), {}


def _failed(error: BaseException) -> str:
    """What a caller is told: an allocator's words say nothing to it."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "the in-process engine ran out of memory on this batch; try again, or give it less (see serve --memory)"
    return "the in-process engine failed on this batch; its log says more"
