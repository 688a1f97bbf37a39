"""What is done with a sandbox that gives no verdict."""

import pytest

from router.tasks.judging import judge
from router.tasks.sandbox import Sandbox, SandboxUnavailable

PASSED = {"solution": 0, "error": "", "said": "", "behaviour": "", "returned": True}


class Scripted(Sandbox):
    """A sandbox that gives these verdicts, one list a start."""

    def __init__(self, *found):
        self.found = list(found)

    async def judge(self, job, limits, wall_seconds):
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
