"""What a reviser is worth: sample chains of attempts, and see how being right moves along them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from router.attempts.prompts import Prompt
from router.backends import Engines, Generator, LogProbability
from router.errors import InvalidFile
from router.solving.driver import Bill, Request, drive
from router.tasks import math as answers
from strategies import Arm, Outcome

PROMPTS_AT_ONCE = 16


async def sample_chains(
    prompts: Sequence[Prompt], generator: Generator, *, chains: int, length: int, seed: int = 0
) -> list[list[bool]]:
    """Whether each attempt is right: ``chains`` rows of ``length`` for each prompt.

    Raises InvalidFile where a prompt has no reference, EngineUnavailable.
    """
    references = {prompt.id: prompt.reference for prompt in prompts if prompt.reference is not None}
    if unknown := next((prompt.id for prompt in prompts if prompt.id not in references), None):
        raise InvalidFile(f"prompt {unknown!r} has no reference; without it no attempt can be called right")
    free = asyncio.Semaphore(PROMPTS_AT_ONCE)

    async def one(prompt: Prompt) -> list[list[bool]]:
        outcome = Outcome()
        async with free:
            arm = Arm("revision", chains * length, chains=chains)
            request = Request(prompt.prompt, seed=seed)
            async for event in drive(arm, request, Engines(generator, LogProbability()), Bill()):
                if isinstance(event, tuple):
                    outcome, _ = event
        right = [await answers.same(path.answer, references[prompt.id]) for path in outcome.candidates]
        return [right[i : i + length] for i in range(0, len(right), length)]

    return [chain for found in await asyncio.gather(*map(one, prompts)) for chain in found]


def judge_chains(chains: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """What Snell et al. show in section 6.1.

    pass_rate       by position in the chain; the first attempt sees no other
    right_to_wrong  of the right attempts that have a next one, the share whose next one is wrong
    wrong_to_right  of the wrong ones, the share whose next one is right
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
