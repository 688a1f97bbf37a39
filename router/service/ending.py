"""Handles signals. At SIGTERM and SIGINT the process ends in bounded time, even if something is stuck."""

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TextIO

MARGIN_SECONDS = 15.0  # after the calls' grace, until the process ends itself by force


def on_hangup(read_again: Callable[[], object]) -> None:
    """Call ``read_again`` in the running event loop at each SIGHUP."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, read_again)


def on_signals(stop: Callable[[], None], seconds: float, report: TextIO | None = None) -> None:
    """Call ``stop`` in the running event loop at SIGTERM or SIGINT. If the process still lives after ``seconds``, end
    it with status 1 and write the stacks of its threads to ``report`` (standard error).

    The event loop's signal handlers call ``stop``, since they also wake a loop that is about to sleep. Python's own
    handlers start the timer for the end, since the loop's would wait behind a callback that is stuck. The timer is
    faulthandler's thread, which runs even if no Python code can.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def end_in_time(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:  # a second signal gives no more time
            faulthandler.dump_traceback_later(seconds, exit=True, file=report or sys.stderr)
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)  # the loop learns of signals by a pipe, even if another handler is set
        signal.signal(number, end_in_time)
