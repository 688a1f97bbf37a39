"""Shows finished calls to observers: the log, the metrics, the recorder."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from router.service.middleware.call import Call, CallRecord, ended_by
from router.service.middleware.chain import Handler

_log = logging.getLogger(__name__)

Observer = Callable[[CallRecord], None]
"""Called with every finished call. If it raises, that is logged, and affects neither the call nor other observers."""


class Observation:
    """Makes the record of every call, however it ends, and has it shown to the observers.

    refused_only  record only calls that end with a RouterError: for frequent calls that otherwise tell nothing
    """

    def __init__(self, *batches: "ObserverBatch", refused_only: bool = False):
        self._batches = batches
        self._refused_only = refused_only

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            code, reason = "OK", ""
            call.progress.show = self._show
            try:
                return await proceed(call)
            except BaseException as error:
                code, reason = ended_by(error, call)
                raise
            finally:
                if reason or not self._refused_only:
                    record = call.progress.record = _record(call, code, reason)
                    self._show(record)

        return handle

    def _show(self, record: CallRecord) -> None:
        for batch in self._batches:
            batch.add(record)


class ObserverBatch:
    """Shows finished calls to observers, several at a time, which takes a third of the time: the code is then still in
    the processor's caches.

    seconds  how long a call may wait for others; 0: only until its caller has the reply
    """

    def __init__(self, observers: Sequence[Observer], seconds: float = 0.0):
        self._observers = observers
        self._seconds = seconds
        self._records: list[CallRecord] = []

    def add(self, record: CallRecord) -> None:
        """Show a call within ``seconds``."""
        if not self._records:
            loop = asyncio.get_running_loop()
            if self._seconds:
                loop.call_later(self._seconds, self.flush)
            else:
                loop.call_soon(self.flush)  # runs before any call that comes in later, which a timer would not
        self._records.append(record)

    def flush(self) -> None:
        """Show all waiting calls at once."""
        records, self._records = self._records, []
        for observe in self._observers:
            for record in records:
                try:
                    observe(record)
                except Exception as error:
                    _log.error("a finished call could not be shown: %s", type(error).__name__)


def _record(call: Call, code: str, reason: str) -> CallRecord:
    progress = call.progress
    return CallRecord(
        call.id,
        call.service,
        call.method,
        progress.caller.name if progress.caller else None,
        code,
        reason,
        time.monotonic() - call.started,
        progress.queue_seconds,
        progress.request,
        progress.decision,
        progress.bill,
        progress.solution,
        progress.verdict,
        call.door,
        progress.parts,
        progress.kept,
    )
