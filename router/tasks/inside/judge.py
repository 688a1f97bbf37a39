"""The first process of a sandbox that judges solutions by tests. It starts processes that run them, and waits.

    the host ── solutions, tests ─→ judge ── a test and a code ─→ trial     (one process a test, forked from the judge)
                                      │                             │ what to call, with what        ↑ plain data
                                      └── who asks? ─→ forker ─→ solution   (one process a test, forked before any
                                                                             test was read)

A solution's process has one channel, to its trial. What it writes there counts as the result of the call, no more.
"""

import gc
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any

# What most solutions import, loaded once.
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, typing  # noqa: E401, F401  # isort: skip

from . import messages, solution
from .confine import confine
from .trial import Failed, Trial

_MOST_OF_A_JOB = 64 << 20
_MOST_OF_A_VERDICT = 3 << 10
_MOST_SAID = 200


def main() -> None:
    gc.freeze()  # less to copy for each process
    settings = messages.read(0)  # reads only this message: the tests come later
    limits, seccomp = settings["limits"], bytes.fromhex(settings["seccomp"])
    here, there = socket.socketpair()
    if not os.fork():
        here.close()
        _forget_streams()
        solution.fork_on_request(there, limits, seccomp)
    there.close()
    job = messages.read(0, _MOST_OF_A_JOB)
    began = time.monotonic()
    for number, code in enumerate(job["solutions"]):
        for place, test in enumerate(job["tests"]):
            verdict = _try(code, test, here, limits, seccomp)
            os.write(1, messages.pack({"solution": number, "test": place, **verdict}))
            if os.listdir():  # noqa: PTH208  # a folder that a solution may have made a mess of
                return  # the next process would find this one's files: the host continues in a new sandbox
            if time.monotonic() - began >= job["seconds"]:
                return  # the turn is over: the host continues in its next one
            if job["until_failure"] and verdict["error"]:
                break


def _try(code: str, test: str, forker: socket.socket, limits: dict[str, Any], seccomp: bytes) -> dict[str, Any]:
    mine, its = socket.socketpair()
    socket.send_fds(forker, [b"."], [its.fileno()])
    process = int.from_bytes(forker.recv(4), "big")
    its.close()
    handle = os.pidfd_open(process)
    verdicts, write = os.pipe()
    began = time.monotonic()
    trial = os.fork()
    if not trial:
        forker.close()
        os.close(verdicts)
        os.close(handle)
        _forget_streams()
        with suppress(BaseException):
            confine(limits, seccomp)
            os.write(write, messages.pack(_verdict(code, test, mine)))
        os._exit(0)
    os.close(write)
    mine.close()
    verdict = None
    if select.select([verdicts], [], [], limits["wall_seconds"])[0]:
        with suppress(messages.TooLarge, ValueError):
            verdict = messages.read(verdicts, _MOST_OF_A_VERDICT)
    os.close(verdicts)
    seconds = time.monotonic() - began
    for each in (trial, process):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    os.waitpid(trial, 0)
    select.select([handle], [], [])  # until the solution's process is gone as well
    os.close(handle)
    verdict = verdict if isinstance(verdict, dict) else {"error": "ended"}
    if verdict.get("error") == "ended" and seconds >= limits["cpu_seconds"]:
        verdict |= {"error": "time", "said": "it took too long"}
    # A test could have written anything: these fields, of these types, are passed on.
    return {
        "error": str(verdict.get("error", "ended")),
        "said": str(verdict.get("said", "")),
        "behaviour": str(verdict.get("behaviour", "")),
        "returned": bool(verdict.get("returned")),
    }


def _verdict(code: str, test: str, channel: socket.socket) -> dict[str, Any]:
    error = said = ""
    trial = None
    try:
        trial = Trial(channel, code)
        trial.run(test)
    except Failed as failed:
        error, said = failed.args
    except BaseException as raised:
        error = type(raised).__name__
        if not isinstance(raised, AssertionError):
            with suppress(BaseException):
                said = f"{error}: {raised}"
    return {
        "error": error[:100],
        "said": ((trial and trial.said) or said)[:_MOST_SAID],
        "behaviour": trial.behaviour if trial else "",
        "returned": trial.returned if trial else 0,
    }


def _forget_streams() -> None:
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.close(nowhere)
