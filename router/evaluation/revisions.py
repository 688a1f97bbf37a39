"""Measures a reviser: samples chains of attempts, and counts how correctness changes along them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from router.attempts.prompts import Problem
from router.backends import Engines, Generator
from router.backends.log_probability import LogProbability
from router.errors import InvalidFile
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import Tasks
from strategies import Result, Revision

PROMPTS_AT_ONCE = 16


async def sample_chains(
    problems: Sequence[Problem], generator: Generator, tasks: Tasks, *, chains: int, length: int, seed: int = 0
) -> list[list[bool]]:
    """Sample chains; return whether each attempt is right, as ``chains`` rows of ``length`` for each prompt.

    Raises InvalidFile where a prompt has no reference, EngineUnavailable.
    """
    references = {each.id: each.reference for each in problems if each.reference is not None}
    if unknown := next((each.id for each in problems if each.id not in references), None):
        raise InvalidFile(f"prompt {unknown!r} has no reference; without it no attempt can be called right")
    engines = Engines({"writer": generator}, "writer", LogProbability())
    free = asyncio.Semaphore(PROMPTS_AT_ONCE)

    async def one(problem: Problem) -> list[list[bool]]:
        result, task = Result(), problem.bound(tasks)
        async with free:
            arm = Revision(n=chains * length, chains=chains)
            request = Request(problem.prompt, seed=seed)
            async for event in drive(arm, request, engines, task, Bill()):
                if isinstance(event, tuple):
                    result, _ = event
        reference = references[problem.id]
        stated = [task.extract(each.text) if each.answer else None for each in result.candidates]
        right = [each is not None and await task.right(each, reference) for each in stated]
        return [right[i : i + length] for i in range(0, len(right), length)]

    return [chain for found in await asyncio.gather(*map(one, problems)) for chain in found]


def judge_chains(chains: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Return the figures of Snell et al., section 6.1.

    pass_rate       by position in the chain; the first attempt sees no other
    right_to_wrong  share of right attempts, except last ones, whose next one is wrong
    wrong_to_right  share of wrong attempts, except last ones, whose next one is right
    """
    right = np.array(chains, dtype=bool)
    before, after = right[:, :-1].ravel(), right[:, 1:].ravel()

    def share(of: np.ndarray, turned: np.ndarray) -> float | None:
        return float((of & turned).sum() / of.sum()) if of.any() else None

    return {
        "chains": len(right),
        "pass_rate": [float(rate) for rate in right.mean(axis=0)],
        "right_to_wrong": share(before, ~after),
        "wrong_to_right": share(~before, after),
    }
