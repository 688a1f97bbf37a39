"""Records decisions and what became of them in the database. A thread of its own writes.

Decisions are queued and written a moment later: a slow or missing database never holds up a call, and when the queue is
full decisions are dropped and counted. Outcomes are acknowledged once they are on disk, and with them every decision
queued before: what was acknowledged survives the process.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError

from router.errors import OutcomesUnavailable
from router.outcomes.newest import Place, newest
from router.outcomes.tables import connect
from router.service import rows
from router.service.middleware.call import CallRecord
from router.service.rows import Outcome, Recorded
from router.solving.bill import Bill

_BATCH = 500  # rows of one transaction
_IDLE_SECONDS = 0.2  # between looks whether to stop
_log = logging.getLogger(__name__)


class Recorder:
    """``record_decision`` takes a finished call, ``record`` an outcome.

    dropped   decisions that were not recorded: no room, refused by the database, or it was away at the end
    failures  attempts to write that the database did not answer
    """

    def __init__(
        self,
        url: str,
        *,
        prompts: bool = False,
        queue_size: int = 10_000,
        retry_seconds: float = 1.0,
        close_seconds: float = 10.0,
        write: Callable[[sql.Connection, Outcome | Mapping[str, Any]], Recorded] = rows.write,
    ):
        """Brings the database's tables up to date. Raises InvalidRequest.

        prompts        keep prompts and solutions, too, not only the prompts' digests
        queue_size     decisions and outcomes that may wait to be written
        retry_seconds  between attempts, while the database is away
        close_seconds  for what is queued when the server stops
        write          writes one row in a transaction
        """
        self.dropped = 0
        self.failures = 0
        self._prompts = prompts
        self._retry_seconds, self._close_seconds, self._write_row = retry_seconds, close_seconds, write
        self._engine = connect(url)
        self._queue: queue.Queue[_Item] = queue.Queue(queue_size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="outcomes", daemon=True)
        self._thread.start()

    def record_decision(self, call: CallRecord) -> None:
        """Queue a call's decision, if it came to one; of a batch, one a prompt. Never waits, never fails."""
        for part in call.parts:
            own = replace(call, id=part.id, request=part.request, decision=part.decision, bill=Bill(), parts=())
            self.record_decision(own)
        if not (call.decision and call.request and call.bill):
            return
        try:
            self._queue.put_nowait(_Item(rows.decision_row(call, prompts=self._prompts)))
        except queue.Full:
            self.dropped += 1

    @property
    def waiting(self) -> int:
        """Decisions and outcomes that are queued to be written."""
        return self._queue.qsize()

    def record(self, outcome: Outcome) -> "Future[Recorded]":
        """Done once the outcome is on disk. Raises OutcomesUnavailable, here or from the future."""
        item = _Item(outcome)
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            raise OutcomesUnavailable("the outcome database does not keep up; try again later") from None
        return item.done

    def newest(self, most: int, *, caller: str | None = None, before: Place | None = None) -> list[dict[str, Any]]:
        """What was recorded, see :func:`router.outcomes.newest.newest`. Reads: not for the event loop."""
        return newest(self._engine, most, caller=caller, before=before)

    def close(self) -> None:
        """Write what is queued, if the database is there and answers."""
        self._stopping.set()
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            _log.error("the outcome database does not answer: at least %d decisions are lost", self._queue.qsize())
            return
        self._engine.dispose()

    def _write_all(self) -> None:
        items: list[_Item] = []
        while True:
            ending = self._stopping.is_set()  # looked at first: what was queued before is still taken
            items += self._take(_BATCH - len(items))
            items = self._write_apart(items)
            if items:
                self.failures += 1
                items = self._refuse_outcomes(items)
                if ending:
                    self.dropped += len(items) + self._queue.qsize()
                    _log.error("%d decisions are lost", len(items) + self._queue.qsize())
                    return
                self._stopping.wait(self._retry_seconds)
            if ending and not items and self._queue.empty():
                return

    def _take(self, most: int) -> "list[_Item]":
        """What is queued; waits a moment where nothing is."""
        taken: list[_Item] = []
        with suppress(queue.Empty):
            while len(taken) < most:
                taken.append(self._queue.get(timeout=0 if taken or self._stopping.is_set() else _IDLE_SECONDS))
        return taken

    def _write(self, items: "Sequence[_Item]") -> None:
        if not items:
            return
        items = sorted(items, key=lambda item: item.order)
        try:
            with self._engine.begin() as connection:
                recorded = [self._write_row(connection, item.content) for item in items]
        except IntegrityError:  # another server wrote the same row at the same time: now it is there to be found
            with self._engine.begin() as connection:
                recorded = [self._write_row(connection, item.content) for item in items]
        for item, each in zip(items, recorded, strict=True):
            item.done.set_result(each)

    def _write_apart(self, items: "list[_Item]") -> "list[_Item]":
        """Write all at once, or by halves where a row spoils it that the database does not take: such a row costs the
        others a few transactions, not one each. Returns what is left when the database does not answer."""
        parts = [items]
        while parts:
            part = parts.pop()
            try:
                self._write(part)
            except (OperationalError, InterfaceError) as error:
                _log.error("the outcome database does not answer: %s", type(error).__name__)
                return [*part, *chain.from_iterable(reversed(parts))]
            except Exception as error:  # whatever it is, the thread must live on
                if len(part) == 1:
                    _log.error("the outcome database refuses a row: %s", type(error).__name__)
                    self.dropped += len(self._refuse_outcomes(part))
                else:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
        return []

    def _refuse_outcomes(self, items: "Sequence[_Item]") -> "list[_Item]":
        """Tell callers who wait for an acknowledgement that there is none; what is left are decisions."""
        for item in items:
            if isinstance(item.content, Outcome):
                item.done.set_exception(OutcomesUnavailable("the outcome database does not answer; try again later"))
        return [item for item in items if not isinstance(item.content, Outcome)]


class _Item:
    """A row to be written, and what came of it."""

    __slots__ = ("content", "done")

    def __init__(self, content: "Outcome | Mapping[str, Any]"):
        self.content = content
        self.done: Future[Recorded] = Future()
        self.done.set_running_or_notify_cancel()  # a caller who goes away does not stop the writing

    @property
    def order(self) -> tuple[bool, str, str]:
        """Decisions before the outcomes that are compared with them, and rows in one order on every server: two that
        locked the same rows in different orders would wait for each other."""
        if isinstance(self.content, Outcome):
            return True, self.content.caller, self.content.call_id
        return False, self.content["caller"], self.content["call_id"]
