"""A verifier whose scores are made probabilities (Platt, 1999)."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

from router.backends import Usage, Verifier
from router.prompt import Prompt
from strategies import Candidate


class Calibrated:
    """A verifier whose scores are scaled by :func:`platt`; their order, and what they cost, stay."""

    def __init__(self, verifier: Verifier, slope: float, intercept: float):
        self.verifier = verifier
        self.parameters = verifier.parameters
        self.slope, self.intercept = slope, intercept

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
    """Of a score in [0, 1], whose ends count as a millionth from them."""
    score = min(max(score, 1e-6), 1 - 1e-6)
    return log(score / (1 - score))


def platt(raw: float, slope: float, intercept: float) -> float:
    """The probability whose log-odds are ``slope`` * those of the raw score + ``intercept`` (Platt, 1999)."""
    return 1 / (1 + exp(-(slope * log_odds(raw) + intercept)))
