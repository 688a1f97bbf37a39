"""Runs programs in the sandbox that report what they tried and what happened, and finds processes left behind."""

import asyncio
import json
import uuid
from pathlib import Path

import psutil

from router.tasks.sandbox import Limits, Sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=120)  # much wall time, since the machine may be busy
MARK = f"# tried by {uuid.uuid4().hex}\n"  # in the arguments of each process, to find them by

# Each program calls attempt(name, function) and prints what happened at its end.
BEGIN = """
import ctypes, errno, json, os, sys
happened = {}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, deed):
    try:
        happened[name] = repr(deed())
    except BaseException as error:
        happened[name] = type(error).__name__ + " " + errno.errorcode.get(getattr(error, "errno", None), "")
def system_call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"
"""
END = "\nprint(json.dumps(happened))\n"


async def attempts(sandbox: Sandbox, code: str, limits: Limits = LIMITS) -> dict[str, str]:
    outcome = await sandbox.run(BEGIN + code + END, limits=limits)
    assert outcome.ended == "itself", outcome
    assert outcome.status == 0, outcome
    happened: dict[str, str] = json.loads(outcome.stdout)
    return happened


def left_behind() -> list[psutil.Process]:
    """Return the processes of these tests' sandboxes, bubblewrap's included, but not those of other tests."""
    return [each for each in psutil.process_iter(["cmdline"]) if MARK in " ".join(each.info["cmdline"] or ())]


async def something_runs() -> None:
    """Wait until the program runs. Before, bubblewrap has not yet asked to die with its parent."""
    while not any(Path(each.info["cmdline"][0]).name.startswith("python") for each in left_behind()):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def nothing_is_left() -> None:
    for _ in range(300):  # a killed process is soon gone, though on a busy machine it may take a while
        if not left_behind():
            return
        await asyncio.sleep(0.1)
    assert not left_behind()
