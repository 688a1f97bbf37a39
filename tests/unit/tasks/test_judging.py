"""What is done with a sandbox that gives no verdict."""

import pytest

from router.tasks.judging import judge
from router.tasks.sandbox import Limits, Sandbox, SandboxUnavailable

PASSED = {"solution": 0, "error": "", "said": "", "behaviour": "", "returned": True}


class Scripted(Sandbox):
    """A sandbox that gives these verdicts, one list a start."""

    def __init__(self, *found):
        self.found = list(found)

    async def judge(self, job, limits, wall_seconds):
        self.jobs = [*getattr(self, "jobs", ()), (job, wall_seconds)]
        return self.found.pop(0)


async def test_a_sandbox_without_a_verdict_is_started_once_more():
    (verdicts,) = await judge(Scripted([], [PASSED]), ["def f(): ..."], ["f()"])
    assert [each.passed for each in verdicts] == [True]


async def test_each_sandbox_that_gave_a_verdict_allows_another_in_vain():
    (verdicts,) = await judge(Scripted([], [PASSED], [], [PASSED]), ["def f(): ..."], ["f()", "f()"])
    assert len(verdicts) == 2


async def test_no_verdict_twice_is_an_error():
    with pytest.raises(SandboxUnavailable, match="ended 2 times without a verdict"):
        await judge(Scripted([], [], [PASSED]), ["def f(): ..."], ["f()"])


async def test_no_sandbox_is_held_for_longer_than_a_turn_and_a_test():
    slow = Scripted(*[[PASSED]] * 100)  # one verdict a turn
    (verdicts,) = await judge(slow, ["def f(): ..."], ["f()"] * 100)
    assert len(verdicts) == len(slow.jobs) == 100
    assert {job["seconds"] for job, _ in slow.jobs} == {5}
    assert max(seconds for _, seconds in slow.jobs) <= 20 + 5 + Limits().wall_seconds  # and 20 s to start
