"""Runs the searches of a batch. Each has its own place, and gets its arm when it begins, from the budget left then."""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from opentelemetry.trace import Tracer

from router.errors import DeadlineExceeded, InternalError, Overloaded, RouterError
from router.service.admission import Admission, Place
from router.service.tracing import traced_search
from router.solving.batch import Batch
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.solver import Decision, Solution, Solver

_MARGIN = 0.15  # seconds before the deadline at which searches end, to send their results in time
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of one prompt.

    outcome        None: the batch was left before its search had ended
    decision       None: its search did not begin
    seconds        from the request for a place to the end
    queue_seconds  how many of these it had no place
    """

    index: int
    outcome: Solution | RouterError | None
    bill: Bill
    decision: Decision | None = None
    seconds: float = 0.0
    queue_seconds: float = 0.0


class BatchSearches:
    """Runs a batch, and asks for one place at a time, as single calls do.

    So a batch fills an idle server, and where other callers wait, it gets only its caller's share.

    caller        caller to whom the places count
    seconds_left  returns the seconds left for the whole batch; None: no deadline
    read_ahead    number of results that may wait to be read, besides the searches that run
    """

    def __init__(
        self,
        solver: Solver,
        batch: Batch,
        admission: Admission,
        caller: str,
        *,
        seconds_left: Callable[[], float | None],
        tracer: Tracer | None = None,
        read_ahead: int = 16,
    ):
        self._solver, self._batch, self._tracer = solver, batch, tracer
        self._admission, self._caller, self._seconds_left = admission, caller, seconds_left
        self._room = asyncio.Semaphore(admission.concurrency + read_ahead)
        self._asking = asyncio.Lock()  # held while one search waits for a place
        self._ended: asyncio.Queue[Ended | RouterError] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def results(self) -> AsyncGenerator[Ended, None]:
        """Yield the results of all prompts as they end. Leaving early ends all searches, see :meth:`unread`.

        Raises Overloaded where even the first prompt gets no place.
        """
        self._start(self._begin_all()).add_done_callback(self._tell)
        try:
            for _ in self._batch.order:
                ended = await self._ended.get()
                if isinstance(ended, RouterError):
                    raise ended
                yield ended
                self._room.release()
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def unread(self) -> list[Ended]:
        """Return the results that :meth:`results` did not yield before it was left, once: these searches spent, too.

        Prompts whose search did not begin are not among them.
        """
        left = [self._ended.get_nowait() for _ in range(self._ended.qsize())]
        return [each for each in left if isinstance(each, Ended) and each.decision]

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin_all(self) -> None:
        for number, index in enumerate(self._batch.order):
            await self._room.acquire()
            asked = time.monotonic()
            try:
                place = await self._place(patient=number > 0)
            except Overloaded as error:
                self._ended.put_nowait(error)
                return
            except DeadlineExceeded as error:
                self._ended.put_nowait(Ended(index, error, self._solver.new_bill()))
                continue
            search = self._start(self._search(index, place, asked))
            search.add_done_callback(partial(_release, place))  # needed where it is cancelled before it has begun

    def _tell(self, begun: asyncio.Task[None]) -> None:
        """End the batch where starting its searches failed by a bug, since it would otherwise wait for ever."""
        if not begun.cancelled() and (error := begun.exception()):
            _log.error("a batch failed: %s", type(error).__name__)
            self._ended.put_nowait(InternalError("internal error; the server's log says more"))

    async def _place(self, *, patient: bool) -> Place:
        """Get a place. ``patient``: when refused, ask again until the deadline. Raises Overloaded, DeadlineExceeded."""
        error = DeadlineExceeded("the deadline passed before this prompt had its turn; give the batch more time")
        while True:
            left = self._seconds_left()
            left = None if left is None else left - _MARGIN
            if left is not None and left <= 0:
                raise error
            try:
                async with asyncio.timeout(left), self._asking:
                    return await self._admission.place(self._caller, left)
            except TimeoutError:
                raise error from None
            except Overloaded as refusal:
                if not patient:
                    raise
                await asyncio.sleep(min(refusal.retry_seconds or 1.0, 1.0 if left is None else left))

    async def _search(self, index: int, place: Place, asked: float) -> None:
        """Run one search. Where its place is taken away for another caller, begin again in the next free place."""
        waited, bill = time.monotonic() - asked, self._solver.new_bill()
        decision: Decision | None = None
        outcome: Solution | RouterError | None = None
        try:
            while outcome is None:
                decision = self._batch.begin(index, bill)
                outcome = await self._within(index, decision, place, bill)
                if outcome is None:
                    lost = time.monotonic()
                    place = await self._place(patient=True)
                    waited += time.monotonic() - lost
        except DeadlineExceeded as error:
            outcome = error
        except Exception as error:
            # Log where it was raised, but not its text, which could quote a prompt.
            lines = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a batch's search failed: %s", type(error).__name__, extra={"traceback": lines})
            outcome = InternalError("internal error; the server's log says more")
        finally:  # also where it is cancelled: what it spent counts all the same
            self._batch.ended(index, bill)
            self._ended.put_nowait(Ended(index, outcome, bill, decision, time.monotonic() - asked, waited))

    async def _within(self, index: int, decision: Decision, place: Place, bill: Bill) -> Solution | RouterError | None:
        """Run a search in a place; return its result. None: the place was taken away."""
        request = replace(self._batch.requests[index], seconds=self._seconds_left())
        loop = asyncio.get_running_loop()
        with place:
            try:
                async with asyncio.timeout(None) as limit:
                    place.on_end = lambda: limit.reschedule(loop.time())
                    return await self._solved(decision, request, bill)
            except TimeoutError:
                if not limit.expired():
                    raise
                return None
            except RouterError as error:
                return error

    async def _solved(self, decision: Decision, request: Request, bill: Bill) -> Solution:
        search = self._solver.run(decision, request, bill)
        async with aclosing(traced_search(self._tracer, search) if self._tracer else search) as events:
            async for event in events:
                if isinstance(event, Solution):
                    return event
        raise AssertionError("a search ends with its solution")


def _release(place: Place, search: asyncio.Task[None]) -> None:
    place.release()
