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
from collections import Counter
from itertools import chain
from typing import Any

import torch

from router.backends import Usage
from router.backends.in_process.attention import GROUPED
from router.backends.in_process.batch import Batch
from router.backends.in_process.calls import TORCH_ERRORS, Calls, failed
from router.backends.in_process.jobs import CallJob, ExtendJob, Open, Row
from router.backends.in_process.kv import SIZES, KeyValues, PrefixCache, PrefixKey
from router.backends.in_process.memory import Pool, Share, trim
from router.backends.in_process.prefill import Reading, bytes_a_token, read_piece
from router.backends.in_process.sampling import confidences, sample
from router.backends.steps import End, StepText, Writing
from router.errors import EngineUnavailable

log = logging.getLogger(__name__)
_COPIES = 2  # copies of the batch in memory, while it grows
_READING = 3  # copies of a prefix in memory, while it is read
_MOST = 0.875  # share of the free room that one call may take: it leaves some for the next
_PATIENCE = 5.0  # seconds that a call waits for room; after them no later call joins before it
_TRIM_SECONDS = 1.0  # without work, after which freed memory goes back to the system


class Batcher:
    """Extends candidates with ``model``. Thread-safe: submit from anywhere, results come through the job's future."""

    def __init__(
        self, model: Any, tokenizer: Any, delimiter: str, max_tokens: int, pool: Pool | None = None, *, top: int = 0
    ):
        """pool: memory for keys and values; None: a pool of its own.

        top: number of likeliest tokens that a token's confidence is computed from; 0: no confidences
        """
        self.top = top
        model.set_attn_implementation(GROUPED)  # the one that reads a batch's blocks
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
        self._calls = Calls(self.sizes.prefill)
        self._waiting: list[Open] = []
        self._rows: list[Row] = []
        self._batch = Batch(self.sizes.spread)  # in the order of ``_rows``
        self._reading: dict[PrefixKey, Reading] = {}  # prefixes that candidates wait for
        self._turn = 0
        self._step_seconds = 0.0
        self.pool = pool or Pool(None, model.device)
        self.share: Share = self.pool.share(bytes_a_token(model))
        self._prefixes: PrefixCache[KeyValues] = PrefixCache(lambda: min(self.sizes.cached, self.share.kept))
        self._open = threading.Lock()  # held to add a job, and to stop adding jobs
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def longest(self) -> int:
        """Return the most tokens of a prompt with its solution: a limit of the model's context and of the memory."""
        return min(self.context, self.share.most // (_COPIES + _READING))

    def submit(self, job: ExtendJob | CallJob) -> None:
        """Raises EngineUnavailable when the worker has ended."""
        with self._open:
            if self._closed:
                raise EngineUnavailable("the in-process engine has stopped; see its log, then restart the server")
            self._jobs.put(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self.share.close()

    # The worker thread from here on.

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while self._receive():
                if self._calls:
                    self._calls.do_piece()
                started = time.monotonic()
                try:
                    self._drop_stopped()
                    # Decided once: what others leave of the memory changes at any time.
                    joining = self._joining()
                    self._read(joining)
                    self._join(joining)
                    if self._rows:
                        self._step()
                except TORCH_ERRORS as error:
                    log.exception("a batch failed")
                    self._fail_batch(failed(error))
                self._step_seconds = time.monotonic() - started
        finally:  # whatever ended the thread: nobody waits for it for ever
            with self._open:
                self._closed = True
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.done.set_exception(EngineUnavailable("the in-process engine stopped before this call"))
            self._calls.fail("the in-process engine stopped before this call")
            self._fail_batch("the in-process engine stopped while it worked on this call")

    def _receive(self) -> bool:
        """Take in new jobs; wait for one when there is nothing to do. Return False when the thread is to end."""
        idle = not self._rows and not self._waiting and not self._calls
        while True:
            try:
                job = self._next_job() if idle else self._jobs.get_nowait()
            except queue.Empty:
                return True
            idle = False
            if job is None:
                return False
            if isinstance(job, CallJob):
                self._calls.add(job)
                continue
            self.count(job.usage, calls=1)
            for index, candidate in enumerate(job.candidates):
                if candidate.end is None:
                    room = job.longest - len(candidate.tokens)
                    rng = random.Random(job.seed * 65_537 + index)
                    steps = float("inf") if job.steps is None else job.steps
                    writing = Writing(job.text or self._text, candidate)
                    job.open.append(Open(job, index, writing, steps, room, rng, time.monotonic()))
            self._waiting += job.open
            if not job.open:
                job.done.set_result(job.candidates)

    def _next_job(self) -> "ExtendJob | CallJob | None":
        """Wait for the next job and return it; None when the thread is to end."""
        self.share.use(0)
        try:
            return self._jobs.get(timeout=_TRIM_SECONDS)
        except queue.Empty:
            self._prefixes.drop_ended()
            trim()
            return self._jobs.get()

    def _drop_stopped(self) -> None:
        """Cut the candidates of jobs that were cancelled, or whose deadline or cap allows no further token."""
        next_token = time.monotonic() + self._step_seconds
        cut: set[Open] = set()
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

    def _read(self, joining: list[Open]) -> None:
        """Read one piece of the prefixes that ``joining`` wait for: the shortest, or every other time the oldest.

        Between pieces, other candidates get their next token. Prefixes that nobody waits for any more are dropped.
        """
        wanted = {candidate.cache_key: candidate.job.usage for candidate in joining}
        if not self._reading.keys() <= wanted.keys():  # in turn again soon, or nobody waits for it any more
            waited_for = {candidate.cache_key for candidate in self._waiting}
            self._reading = {key: each for key, each in self._reading.items() if key in waited_for}
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

    def _joining(self) -> list[Open]:
        """Return the waiting candidates that there is room for, first those of the call with the fewest in the batch.

        Equal candidates begin in one row, but each may need its own in the end, as long as the longest. One call never
        takes all of the room, so that the next call need not wait until it is done.
        """
        waiting: dict[int, list[Open]] = {}
        for candidate in self._waiting:
            waiting.setdefault(id(candidate.job.usage), []).append(candidate)
        own = Counter(id(candidate.job.usage) for row in self._rows for candidate in row)
        longest = max((candidate.longest for row in self._rows for candidate in row), default=0)
        room = self.share.tokens
        taken: list[Open] = []
        while waiting:
            call = min(waiting, key=lambda each: own[each])
            candidate = waiting[call][0]
            length = max(longest, candidate.longest)
            rows = min(self.sizes.rows, (room // length - _READING) // _COPIES)
            others = own.total() - own[call]
            if own.total() + 1 > max(1, rows) or own[call] + 1 > max(1, _MOST * (rows - others)):
                if not own[call] and time.monotonic() - candidate.since > _PATIENCE:
                    break  # a long one among many short ones
                del waiting[call]
                continue
            longest = length
            own[call] += 1
            taken.append(waiting[call].pop(0))
            if not waiting[call]:
                del waiting[call]
        self.share.use((_COPIES * own.total() + _READING) * longest)
        return taken

    def _join(self, joining: list[Open]) -> None:
        """Add to the batch the candidates of ``joining`` whose prefix is read, equal ones in one row."""
        rows: dict[tuple[float, PrefixKey, int], Row] = {}
        for candidate in joining:
            if self._reading[candidate.cache_key].done:
                same = candidate.job.temperature, candidate.cache_key, candidate.last
                rows.setdefault(same, []).append(candidate)
        if not rows:
            return
        for (_, key, _), row in rows.items():
            prefix = self._reading[key].kv
            assert prefix is not None
            self._prefixes.put(key, row[0].job.usage, prefix)
            self._batch.add(prefix)
            self._rows.append(row)
        # Last, since adding may run out of memory: a candidate that is in neither list would never be failed.
        joined = {id(candidate) for row in rows.values() for candidate in row}
        self._waiting = [candidate for candidate in self._waiting if id(candidate) not in joined]

    def _remove_empty_rows(self) -> None:
        for i in reversed(range(len(self._rows))):
            if not self._rows[i]:
                self._batch.remove(i)
                self._rows[i] = self._rows[-1]
                self._rows.pop()

    def _step(self) -> None:
        """Run one forward pass, which gives every candidate a token."""
        logits, order = self._batch.step(self.model, [row[0].last for row in self._rows])
        temperatures = [row[0].job.temperature for row in self._rows]
        numbers = [[candidate.rng.random() for candidate in row] for row in self._rows]
        sampled = sample(logits, temperatures, numbers, self.sizes.sampled, order)
        sure: list[float | None] = [None] * len(self._rows)
        if self.top:
            unordered = confidences(logits, self.top, self.sizes.sampled)
            sure = [unordered[place] for place in order]
        for i, (row, drawn) in enumerate(zip(list(self._rows), sampled, strict=True)):
            branches: dict[int, Row] = {}
            for candidate, (token, log_prob) in zip(row, drawn, strict=True):
                self._append(i, candidate, token, log_prob, sure[i])
                if not candidate.done:
                    branches.setdefault(token, []).append(candidate)
            self._rows[i], *others = branches.values() or [[]]
            for other in others:
                self._batch.copy(i)
                self._rows.append(other)
        self._remove_empty_rows()

    def _append(self, i: int, candidate: Open, token: int, log_prob: float, confidence: float | None) -> None:
        """Add a token to a candidate of row ``i``; where that ends the candidate, return it to its job."""
        job, candidate.key = candidate.job, None
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

    def _finish(self, candidate: Open, end: End) -> None:
        """Return the candidate to its job, which is done with its last candidate."""
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
        self._waiting, self._rows, self._batch, self._reading = [], [], Batch(self.sizes.spread), {}
        self._prefixes.clear()
        self.share.use(0)
