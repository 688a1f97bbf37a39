"""A verifier whose scores are made probabilities (Platt, 1999)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log
from typing import Any

from router.backends import Asked, Usage, Verifier, asks, check_room, prepared
from router.prompt import Prompt
from strategies import Candidate


class Calibrated:
    """A verifier whose scores are scaled by :func:`platt`. The order of the scores and their cost stay the same."""

    def __init__(
        self,
        verifier: Verifier,
        slope: float,
        intercept: float,
        by_task: Mapping[str, tuple[float, float]] | None = None,
    ):
        """by_task: slope and intercept by task name; tasks not in it use ``slope`` and ``intercept``."""
        self.verifier = verifier
        self.parameters = verifier.parameters
        self.model = asks(verifier)
        self.slope, self.intercept = slope, intercept
        self.by_task = by_task or {}

    async def prepared(self, asked: Asked, usage: Usage) -> tuple["Calibrated", Any]:
        verifier, task = await prepared(self.verifier, asked, usage)
        slope, intercept = self.by_task.get(asked.name, (self.slope, self.intercept))
        return Calibrated(verifier, slope, intercept), task

    async def check_room(self, prompt: Prompt, longest: int) -> None:
        await check_room(self.verifier, prompt, longest)

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        scored = await self.verifier.score(prompt, candidates, max_tokens=max_tokens, usage=usage)
        return [
            replace(candidate, scores=tuple(platt(raw, self.slope, self.intercept) for raw in candidate.scores))
            if candidate.scores
            else candidate
            for candidate in scored
        ]

    async def close(self) -> None:
        await self.verifier.close()


def log_odds(score: float) -> float:
    """Return the log-odds of a score in [0, 1], moved at least a millionth away from 0 and 1."""
    score = min(max(score, 1e-6), 1 - 1e-6)
    return log(score / (1 - score))


def platt(raw: float, slope: float, intercept: float) -> float:
    """Return the probability whose log-odds are ``slope`` * log_odds(raw) + ``intercept`` (Platt, 1999)."""
    return 1 / (1 + exp(-(slope * log_odds(raw) + intercept)))
