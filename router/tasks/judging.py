"""Judges many solutions of one prompt by its tests, in as few sandboxes as is safe."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.tasks.sandbox import Limits, Sandbox, SandboxUnavailable

_START_SECONDS = 20.0  # to start a sandbox on a busy machine
_TURN_SECONDS = 5.0  # after which the rest is judged in another sandbox: a caller that waits has its turn before
_VERDICT_BYTES = 4096  # at most
_MOST_OF_A_BATCH = 64
_TRIES = 2  # of a sandbox that gives no verdict: a machine that slept, or had no time for it


@dataclass(frozen=True)
class Verdict:
    """One solution on one test.

    error      why it did not pass: an exception's name, ``time``, or ``ended`` (its process ended); empty: it passed
    said       what the last call did, as text: ``returned 3``, ``raised ValueError: ...``
    behaviour  a digest of all that the solution did when the test called it
    returned   whether any call returned a value
    """

    error: str
    said: str
    behaviour: str
    returned: bool

    @property
    def passed(self) -> bool:
        return not self.error


async def judge(
    sandbox: Sandbox,
    answers: Sequence[str],
    tests: Sequence[str],
    limits: Limits | None = None,
    *,
    until_failure: bool = False,
) -> list[list[Verdict]]:
    """Judge each answer by each test, or only up to the first that it fails. Raises SandboxUnavailable.

    Every test of every answer has its own processes. They share a folder: if one leaves a file there, the rest is
    judged in a new sandbox. It is as well where all take longer than a turn.
    """
    limits = limits or Limits()
    verdicts: list[list[Verdict]] = [[] for _ in answers]
    in_vain = 0

    def lacks(i: int) -> bool:
        done = verdicts[i]
        return len(done) < len(tests) and not (until_failure and done and not done[-1].passed)

    while left := [i for i in range(len(answers)) if lacks(i)]:
        begun = len(verdicts[left[0]])  # not 0 where a sandbox ended early
        alike = [i for i in left if len(verdicts[i]) == begun]
        rest = list(tests[begun:])
        runs = len(alike) * len(rest)
        found = await sandbox.judge(
            {
                "solutions": [answers[i] for i in alike],
                "tests": rest,
                "until_failure": until_failure,
                "seconds": _TURN_SECONDS,
            },
            replace(limits, output_bytes=_VERDICT_BYTES * (runs + 1)),
            _START_SECONDS + min(limits.wall_seconds * runs, _TURN_SECONDS + limits.wall_seconds),
        )
        in_vain = 0 if found else in_vain + 1
        if in_vain == _TRIES:
            raise SandboxUnavailable(f"a sandbox ended {_TRIES} times without a verdict; is the machine overloaded?")
        for each in found:
            verdict = Verdict(each["error"], each["said"], each["behaviour"], each["returned"])
            verdicts[alike[each["solution"]]].append(verdict)
    return verdicts


class Batch:
    """Answers that arrive within one turn of the event loop and are judged together."""

    def __init__(self, sandbox: Sandbox, tests: tuple[str, ...], limits: Limits, *, until_failure: bool):
        self._sandbox = sandbox
        self._tests = tests
        self._limits = limits
        self._until_failure = until_failure
        self._answers: dict[str, int] = {}
        self._begun = False
        self._waiting = 0
        self._work: asyncio.Task[list[list[Verdict]]] | None = None

    def takes(self, tests: tuple[str, ...], until_failure: bool) -> bool:
        """Whether another answer that is judged by these tests may still be added."""
        same = (tests, until_failure) == (self._tests, self._until_failure)
        waits = not self._begun and not (self._work and self._work.done())
        return same and waits and len(self._answers) < _MOST_OF_A_BATCH

    async def of(self, answer: str) -> list[Verdict]:
        """Return the verdicts on an answer. The work is killed once no caller waits for it."""
        place = self._answers.setdefault(answer, len(self._answers))
        self._work = self._work or asyncio.create_task(self._judge())
        self._waiting += 1
        try:
            return (await asyncio.shield(self._work))[place]
        finally:
            self._waiting -= 1
            if not self._waiting and not self._work.done():
                self._begun = True
                self._work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._work

    async def _judge(self) -> list[list[Verdict]]:
        await asyncio.sleep(0)  # lets all callers that are ready add their answers
        self._begun = True
        answers = list(self._answers)
        return await judge(self._sandbox, answers, self._tests, self._limits, until_failure=self._until_failure)
