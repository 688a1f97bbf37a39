"""Runs work that may never end, in worker processes and within limits.

``await run("module:function", argument)`` returns what the function returns, or raises LimitReached. One job has
SECONDS of processor time and MEMORY bytes; the jobs of one call together have what its Allowance says. Cancelling
``run`` ends its job at once. A job that reached a limit is not cached: the next call may have the time.

The processes are forked from a server process that has imported sympy, jsonschema and little of ours. So these are
imported once, and a killed worker is replaced in milliseconds. A timer interrupts a job at its limits, and the worker
lives on; a worker that can't be interrupted, inside one long operation, is killed.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import os
import pickle
import signal
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from router.tasks.turns import caller

SECONDS = 1.0  # processor time of one job
CALL_SECONDS = 3.0  # processor time of all jobs of one call, unless its Allowance says otherwise
MEMORY = 1 << 30  # bytes per worker
_HARD = 5.0  # wall seconds beyond a job's own until a worker that does not react is killed
_BRIEFLY = 0.15  # processor seconds for a job's first try; nearly all answers need less
_FRESH = 0.5  # a call that used at most this many seconds may have the last free worker
_TICK = 0.02  # processor seconds between checks of the limits
_REMEMBERED = 4096  # cached results
_MOST_OF_A_RESULT = 4096  # bytes: a larger one is not cached

_log = logging.getLogger(__name__)
_lock = threading.RLock()
_results: "OrderedDict[bytes, bytes]" = OrderedDict()  # both pickled, by the digest of what was asked
_startups: "list[Future[_Pool]]" = []  # at most one: the pool, running or being started
_allowance: "ContextVar[Allowance | None]" = ContextVar("allowance", default=None)


class LimitReached(Exception):
    """A job took too long or too much memory, or no worker was available: its result is unknown."""


class NoWorkers(LimitReached):
    """There are no worker processes."""


@dataclass
class Allowance:
    """Limits what the jobs of one call may cost together. See :func:`within`.

    seconds  processor seconds that are left; at 0 no job is begun
    used     processor seconds used so far
    running  jobs that are running now
    as_text  number of answers compared as text, since a limit was reached or they are too large to compute
    """

    seconds: float = CALL_SECONDS
    used: float = field(default=0.0, init=False)
    running: int = field(default=0, init=False)
    as_text: int = field(default=0, init=False)


@contextlib.contextmanager
def within(allowance: Allowance) -> Iterator[None]:
    """Charge the jobs begun inside to this allowance: ``with within(allowance): await task.key(answer)``."""
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


def note_text() -> None:
    """Count a mathematical answer that was compared as text."""
    allowance = _allowance.get()
    if allowance is not None:
        allowance.as_text += 1


async def run(target: str, *arguments: Any) -> Any:
    """Call ``module:function`` in a worker process. Arguments and the result are pickled. Raises LimitReached."""
    # Their digest is kept and not the arguments, which may be a caller's megabytes.
    asked = hashlib.sha256(pickle.dumps((target, arguments))).digest()
    with _lock:
        if asked in _results:
            _results.move_to_end(asked)
            return pickle.loads(_results[asked])  # of our own process
    try:
        pool = await asyncio.shield(asyncio.wrap_future(_started()))
        result = await asyncio.wrap_future(pool.submit(_Job(target, arguments, _allowance.get() or Allowance())))
    except LimitReached:
        note_text()
        raise
    found = pickle.dumps(result)
    if len(found) <= _MOST_OF_A_RESULT:
        with _lock:
            _results[asked] = found
            while len(_results) > _REMEMBERED:
                _results.popitem(last=False)
    return result


def start() -> None:
    """Start the workers and wait until they run; otherwise the first job starts them. Raises LimitReached."""
    _started().result()


def close() -> None:
    """End the workers, even busy ones: a process started by multiprocessing waits for its children."""
    with _lock:
        startups = _startups[:]
        _startups.clear()
    for startup in startups:
        if startup.done():
            _close(startup)
        else:  # still starting: ended as soon as it runs
            startup.add_done_callback(_close)


def _close(startup: "Future[_Pool]") -> None:
    with contextlib.suppress(LimitReached):
        startup.result().close()


def _started() -> "Future[_Pool]":
    """Return the pool; if there is none, start it in a thread, since that takes seconds."""
    with _lock:
        if _startups and _startups[0].done() and (_startups[0].exception() or _startups[0].result().broken):
            _startups.clear()
        if not _startups:
            _startups.append(Future())
            threading.Thread(target=_start, args=_startups, name="start-workers", daemon=True).start()
        return _startups[0]


def _start(startup: "Future[_Pool]") -> None:
    try:
        _keep_from_interrupts()
        startup.set_result(_Pool(max(2, min(4, os.cpu_count() or 2))))
    except Exception as error:
        _log.warning("no worker processes could be started, answers are compared as text", exc_info=error)
        unavailable = NoWorkers("no worker processes could be started")
        unavailable.__cause__ = error
        startup.set_exception(unavailable)


def _keep_from_interrupts() -> None:
    """Have processes that this thread begins never see Ctrl-C, which a terminal sends to all: they end with ours."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # first, since it lets the signal through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
    forkserver.set_forkserver_preload(["router.tasks.warm"])
    forkserver.ensure_running()


@dataclass(eq=False)
class _Job:
    target: str
    arguments: tuple[Any, ...]
    allowance: Allowance
    caller: str = field(default_factory=caller)
    future: "Future[Any]" = field(default_factory=Future)
    number: int = field(default_factory=itertools.count().__next__)
    slot: int | None = None  # number of the worker that runs it
    tried: bool = False  # its first, brief try reached the limit


class _Pool:
    """pebble's pool, given one job per worker at a time, so that the next job is chosen when a worker is free."""

    def __init__(self, workers: int):
        from multiprocessing import get_context  # only needed where an answer needs a worker

        from pebble import CONSTS, ProcessPool

        CONSTS.term_timeout = 0.05  # seconds until a worker is killed, which holds nothing worth saving
        context = get_context("forkserver")
        self._stop = context.RawArray("b", workers)  # per worker: whether to interrupt its job
        self._free = list(range(workers))
        self._waiting: list[_Job] = []
        self._running: set[_Job] = set()
        self.broken = False
        self._pool = ProcessPool(workers, context=context, initializer=_prepare, initargs=[self._stop])
        self._pool.schedule(_do, args=[0, SECONDS, "builtins:len", ("",)]).result()

    def submit(self, job: _Job) -> "Future[Any]":
        job.future.add_done_callback(lambda _: self._settled(job))
        with _lock:
            self._waiting.append(job)
        self._next()
        return job.future

    def close(self) -> None:
        self.broken = True
        self._pool.stop()
        self._pool.join()
        why = "the workers were closed"
        self._fail_waiting(why)
        with _lock:
            running = list(self._running)
        for job in running:
            _settle(job.future, NoWorkers(why))

    def _fail_waiting(self, why: str) -> None:
        with _lock:
            jobs, self._waiting = self._waiting, []
        for job in jobs:
            _settle(job.future, NoWorkers(why))

    def _next(self) -> None:
        """Give free workers to callers that have the fewest, and of their calls to those that used the least time."""
        while True:
            with _lock:
                self._waiting = [job for job in self._waiting if not job.future.done()]
                if not self._free or not self._waiting:
                    return
                may = [job for job in self._waiting if len(self._free) > 1 or _fresh(job)]
                if not may:
                    return
                have = Counter(job.caller for job in self._running)
                job = min(may, key=lambda job: (job.tried, have[job.caller], *_turn(job)))
                self._waiting.remove(job)
                seconds = min(SECONDS if job.tried else _BRIEFLY, job.allowance.seconds)
                if seconds > 0:
                    job.slot = self._free.pop()
                    self._running.add(job)
                    job.allowance.running += 1
                    self._stop[job.slot] = 0
            if job.slot is None:
                _settle(job.future, LimitReached("the call's time for comparing answers is used up"))
                continue
            try:
                arguments = [job.slot, seconds, job.target, job.arguments]
                done = self._pool.schedule(_do, args=arguments, timeout=seconds + _HARD)
            except RuntimeError as error:  # a pool that broke, or was closed
                self.broken = True
                self._finished(job, seconds, None, error)
                self._fail_waiting("the workers are broken")
                return
            done.add_done_callback(partial(self._done, job, seconds))

    def _settled(self, job: _Job) -> None:
        with _lock:
            job.arguments = ()  # a job and its future hold each other until garbage is searched for
            if job.future.cancelled() and job.slot is not None:
                self._stop[job.slot] = 1

    def _done(self, job: _Job, seconds: float, done: "Future[Any]") -> None:
        error = None if done.cancelled() else done.exception()
        outcome = None if done.cancelled() or error else done.result()
        self._finished(job, seconds, outcome, error)
        self._next()

    def _finished(
        self, job: _Job, seconds: float, outcome: tuple[bool, Any, float] | None, error: BaseException | None
    ) -> None:
        spent = outcome[2] if outcome else seconds
        with _lock:
            if job.slot is not None:
                self._free.append(job.slot)
                self._running.discard(job)
                job.slot = None
                job.allowance.running -= 1
            job.allowance.seconds -= spent
            job.allowance.used += spent
            if outcome and not outcome[0] and not job.tried and not self.broken:
                job.tried = True
                self._waiting.append(job)
                return
        if outcome and outcome[0]:
            _settle(job.future, outcome[1])
            return
        limit = NoWorkers("the workers are broken") if self.broken else LimitReached("the job reached a limit")
        limit.__cause__ = error
        _settle(job.future, limit)


def _fresh(job: _Job) -> bool:
    """Whether a job may have the last free worker, which is kept for calls that have hardly had any."""
    return not (job.tried or job.allowance.running or job.allowance.used > _FRESH)


def _turn(job: _Job) -> tuple[int, float, int]:
    return job.allowance.running, job.allowance.used, job.number


def _settle(future: "Future[Any]", result: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled in the meantime
        if isinstance(result, LimitReached):
            future.set_exception(result)
        else:
            future.set_result(result)


# In the worker process.


class _Interrupted(BaseException):
    """No subclass of Exception, since libraries catch those."""


_stop: list[Any] = []  # the pool's array


def _prepare(stop: Any) -> None:
    import resource

    _stop[:] = [stop]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(5)  # serving has priority


def _do(slot: int, seconds: float, target: str, arguments: tuple[Any, ...]) -> tuple[bool, Any, float]:
    """Return whether a job was done within its limits, its result, and the processor seconds that it took."""
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    begun, running = time.process_time(), True

    def look(*_: object) -> None:
        if running and (_stop[0][slot] or time.process_time() - begun > seconds):
            raise _Interrupted

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, _TICK, _TICK)
    done, value = False, None
    try:
        value = function(*arguments)
        running, done = False, True
    except (_Interrupted, MemoryError):
        running = False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return done, value, time.process_time() - begun
