"""Records decisions and their outcomes in the database, from a thread of its own.

Decisions are queued and written a moment later, so that a slow or missing database never delays a call. When the queue
is full, decisions are dropped and counted. An outcome is acknowledged once it and every decision queued before it are
on disk, so that what was acknowledged is not lost with the process.
"""

import logging
import queue
import sys
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

_BATCH = 500  # most rows of one transaction
_IDLE_SECONDS = 0.2  # that the thread waits for rows before it checks whether to stop
_LEAST_BYTES = 2000  # that a row takes besides its values
_log = logging.getLogger(__name__)


class Recorder:
    """Records finished calls, given to ``record_decision``, and outcomes, given to ``record``.

    dropped   number of decisions not recorded: the queue was full, or the database refused them or was away at the end
    failures  number of attempts to write that the database did not answer
    """

    def __init__(
        self,
        url: str,
        *,
        prompts: bool = False,
        queue_size: int = 10_000,
        queue_bytes: int = 1 << 28,
        retry_seconds: float = 1.0,
        close_seconds: float = 10.0,
        write: Callable[[sql.Connection, Outcome | Mapping[str, Any]], Recorded] = rows.write,
    ):
        """Bring the database's tables up to date, and start. Raises InvalidRequest.

        prompts        record prompts and solutions, not only the prompts' digests
        queue_size     decisions and outcomes that may wait to be written
        queue_bytes    of memory that these may take, those being written included
        retry_seconds  between attempts while the database does not answer
        close_seconds  to write what is queued when the server stops
        write          writes one row in a transaction
        """
        self.dropped = 0
        self.failures = 0
        self._prompts = prompts
        self._retry_seconds, self._close_seconds, self._write_row = retry_seconds, close_seconds, write
        self._engine = connect(url)
        self._queue: queue.Queue[_Item] = queue.Queue(queue_size)
        self._most_bytes, self._bytes, self._counting = queue_bytes, 0, threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="outcomes", daemon=True)
        self._thread.start()

    def record_decision(self, call: CallRecord) -> None:
        """Queue the decision of a call, or of each prompt in a batch, if there is one. Never waits, never fails."""
        for part in call.parts:
            own = replace(call, id=part.id, request=part.request, decision=part.decision, bill=Bill(), parts=())
            self.record_decision(own)
        if not (call.decision and call.request and call.bill):
            return
        if not self._queued(_Item(rows.decision_row(call, prompts=self._prompts))):
            self.dropped += 1

    @property
    def waiting(self) -> int:
        """The number of decisions and outcomes that are queued to be written."""
        return self._queue.qsize()

    def record(self, outcome: Outcome) -> "Future[Recorded]":
        """Queue an outcome; the future is done once it is on disk.

        Raises OutcomesUnavailable, here or from the future.
        """
        item = _Item(outcome)
        if not self._queued(item):
            raise OutcomesUnavailable("the outcome database does not keep up; try again later")
        return item.done

    def _queued(self, item: "_Item") -> bool:
        """Queue a row if there is room for it."""
        with self._counting:
            if self._bytes + item.size > self._most_bytes:
                return False
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                return False
            self._bytes += item.size
            return True

    def _make_room(self, items: "Sequence[_Item]") -> None:
        """Stop counting rows that are written or given up."""
        with self._counting:
            self._bytes -= sum(item.size for item in items)

    def newest(self, most: int, *, caller: str | None = None, before: Place | None = None) -> list[dict[str, Any]]:
        """Return the newest recorded calls, as :func:`router.outcomes.newest.newest`. Not for the event loop."""
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
            ending = self._stopping.is_set()  # read first, so that all rows queued before it are still taken
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
        """Take up to ``most`` rows from the queue; wait a moment where it is empty."""
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
        except IntegrityError:  # another server wrote the same row at the same time: a second attempt will find it
            with self._engine.begin() as connection:
                recorded = [self._write_row(connection, item.content) for item in items]
        self._make_room(items)
        for item, each in zip(items, recorded, strict=True):
            item.done.set_result(each)

    def _write_apart(self, items: "list[_Item]") -> "list[_Item]":
        """Write all rows at once; where the database refuses one, write them in halves, and so on, until it is found.

        So a refused row costs the others a few transactions, not one each. Returns the rows that are left when the
        database does not answer.
        """
        parts = [items]
        while parts:
            part = parts.pop()
            try:
                self._write(part)
            except (OperationalError, InterfaceError) as error:
                _log.error("the outcome database does not answer: %s", type(error).__name__)
                return [*part, *chain.from_iterable(reversed(parts))]
            except Exception as error:  # the thread must live on, whatever it is
                if len(part) == 1:
                    _log.error("the outcome database refuses a row: %s", type(error).__name__)
                    decisions = self._refuse_outcomes(part)
                    self._make_room(decisions)
                    self.dropped += len(decisions)
                else:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
        return []

    def _refuse_outcomes(self, items: "Sequence[_Item]") -> "list[_Item]":
        """Fail the outcomes among the rows, whose callers wait for an acknowledgement; return the decisions."""
        outcomes = [item for item in items if isinstance(item.content, Outcome)]
        self._make_room(outcomes)
        for item in outcomes:
            item.done.set_exception(OutcomesUnavailable("the outcome database does not answer; try again later"))
        return [item for item in items if not isinstance(item.content, Outcome)]


class _Item:
    """A row to be written. ``size``: bytes of memory that it takes; ``done``: resolves to the result."""

    __slots__ = ("content", "done", "size")

    def __init__(self, content: "Outcome | Mapping[str, Any]"):
        self.content = content
        self.size = _LEAST_BYTES if isinstance(content, Outcome) else _LEAST_BYTES + sum(map(_bytes, content.values()))
        self.done: Future[Recorded] = Future()
        self.done.set_running_or_notify_cancel()  # from now on it can't be cancelled by a caller who goes away

    @property
    def order(self) -> tuple[bool, str, str]:
        """The key by which rows are written: decisions before outcomes, then in one order on every server.

        Outcomes are compared with decisions. Two servers that locked the same rows in different orders would wait for
        each other.
        """
        if isinstance(self.content, Outcome):
            return True, self.content.caller, self.content.call_id
        return False, self.content["caller"], self.content["call_id"]


def _bytes(value: Any) -> int:
    """Return the bytes of memory that a value of a row takes, with all that it holds."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(map(_bytes, value)) + sum(map(_bytes, value.values()))
    return size + sum(map(_bytes, value)) if isinstance(value, list) else size
