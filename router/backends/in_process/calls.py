"""Scoring and embedding on a model's thread: done in pieces, so that short calls need not wait for long ones."""

import logging
from collections.abc import Generator, Sequence
from typing import Any

from router.backends.in_process.jobs import CallJob
from router.errors import EngineUnavailable, RouterError

log = logging.getLogger(__name__)
TORCH_ERRORS = (RuntimeError, ValueError, IndexError, MemoryError)  # what torch raises
_Running = tuple[list[CallJob], Generator[None, None, list[Any]]]


class Calls:
    """Calls that wait or are in progress. One long and one short call are in progress at a time; they take turns.

    at_once  tokens that are worked on together: short calls are answered in groups of so many, a larger call is long
    """

    def __init__(self, at_once: int):
        self.at_once = at_once
        self._waiting: list[CallJob] = []
        self._running: dict[bool, _Running] = {}  # by whether it is long
        self._long_next = False

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, job: CallJob) -> None:
        self._waiting.append(job)

    def do_piece(self) -> None:
        """Do a piece of the oldest long call or of the oldest short ones, in turn."""
        self._drop_cancelled()
        for long in (False, True):
            if long not in self._running:
                self._begin(long)
        if not self._running:
            return
        long = self._long_next if self._long_next in self._running else not self._long_next
        self._long_next = not long
        together, work = self._running[long]
        if all(job.cancelled for job in together):
            work.close()
            self._end(long, [None] * len(together))
            return
        try:
            next(work)
        except StopIteration as done:
            self._end(long, done.value)
        except TORCH_ERRORS as error:
            log.exception("a call failed")
            self._end(long, error=EngineUnavailable(failed(error)))
        except RouterError as error:  # these calls can't be served; others can
            self._end(long, error=error)
        except BaseException:  # a bug: it ends the thread, but leaves no one waiting
            self._end(long, error=EngineUnavailable("the in-process engine stopped while it worked on this call"))
            raise

    def fail(self, message: str) -> None:
        """Fail all calls with this message."""
        for job in [*self._waiting, *(job for together, _ in self._running.values() for job in together)]:
            if not job.done.done():
                job.done.set_exception(EngineUnavailable(message))
        self._waiting, self._running = [], {}

    def _drop_cancelled(self) -> None:
        for job in self._waiting:
            if job.cancelled:
                job.done.set_result(None)
        self._waiting = [job for job in self._waiting if not job.cancelled]

    def _begin(self, long: bool) -> None:
        together: list[CallJob] = []
        room = self.at_once
        for job in self._waiting:
            if (job.size > self.at_once) != long:
                continue
            if not together or (not long and job.call == together[0].call and job.size <= room):
                together.append(job)
                room -= job.size
        if together:
            self._waiting = [job for job in self._waiting if job not in together]
            self._running[long] = together, together[0].call([job.argument for job in together])

    def _end(self, long: bool, results: Sequence[Any] = (), error: RouterError | None = None) -> None:
        together, _ = self._running.pop(long)
        for i, job in enumerate(together):
            if error:
                job.done.set_exception(error)
            else:
                job.done.set_result(results[i])


def failed(error: BaseException) -> str:
    """Return the message for the caller, to whom an allocator's own words would say nothing."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "the in-process engine ran out of memory on this batch; try again, or give it less (see serve --memory)"
    return "the in-process engine failed on this batch; its log says more"
