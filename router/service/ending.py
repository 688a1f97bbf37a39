"""Signals: SIGTERM and SIGINT ask the process to end, and it does in time, whatever is stuck; SIGHUP ends nothing."""

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TextIO

MARGIN_SECONDS = 15.0  # beyond the calls' grace, until the process ends itself


def on_hangup(read_again: Callable[[], object]) -> None:
    """At SIGHUP call ``read_again`` in the running event loop."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, read_again)


def on_signals(stop: Callable[[], None], seconds: float, report: TextIO | None = None) -> None:
    """At SIGTERM or SIGINT call ``stop`` in the running event loop. If the process still lives after ``seconds``, end
    it with status 1 and the stacks of its threads on ``report`` (standard error).

    The event loop's handlers call ``stop``: they wake a loop that was just falling asleep, which Python's own don't.
    The end is up to Python's own, since the loop's would wait for a callback that does not end; and it comes from a
    thread of faulthandler's, which needs no Python to run.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def end_in_time(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:  # asking twice gives no more time
            faulthandler.dump_traceback_later(seconds, exit=True, file=report or sys.stderr)
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)  # the loop reads of signals in a pipe, whoever handles them
        signal.signal(number, end_in_time)
