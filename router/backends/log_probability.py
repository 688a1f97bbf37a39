"""A verifier that costs nothing: how likely the model found its own solution."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from math import exp

from router.backends import Usage
from router.prompt import Prompt
from strategies import Candidate


class LogProbability:
    """The baseline verifier. A step's score is exp(mean log-probability) of the tokens up to the step's end.

    It costs nothing, since the generator computed the log-probabilities while sampling. A solution whose engine gave
    none stays unscored.
    """

    parameters = 0

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        return [replace(candidate, scores=tuple(self._scores(candidate)) or None) for candidate in candidates]

    @staticmethod
    def _scores(candidate: Candidate) -> Iterator[float]:
        if not candidate.log_probs:
            return
        for log_prob, tokens in zip(accumulate(candidate.log_probs), accumulate(candidate.token_counts), strict=True):
            yield exp(log_prob / tokens)

    async def close(self) -> None:
        return None
