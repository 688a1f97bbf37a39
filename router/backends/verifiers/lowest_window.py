"""The lowest token confidence within a solution (DeepConf, arXiv 2508.15260, section 3): tells more than the mean.

A token's confidence is the mean negative log-probability of the likeliest tokens at its place. It is high where one
token stands out, since the others are then unlikely. A solution's score comes from the window of tokens with the lowest
mean confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import exp
from typing import Annotated, Any

from pydantic import Field

from router.backends import Usage
from router.prompt import Prompt
from router.schema import STRICT, Positive
from strategies import Candidate

_SCALE = 10.0  # nats: turns a confidence, about 0 to 20, into a score in [0, 1)


@dataclass(frozen=True, slots=True)
class Options:
    """The verifier's settings in models.json.

    window  tokens whose confidences are averaged; the paper's 2048 are for thoughts of tens of thousands
    top     number of likeliest tokens that a confidence is computed from; vLLM gives at most 20 by default
    """

    __pydantic_config__ = STRICT

    window: Positive = 64
    top: Annotated[int, Field(ge=1, le=100)] = 20


class LowestWindow:
    """Scores steps by lowest confidence. Costs nothing, since the engine computed the probabilities while sampling.

    A step's score is 1 - exp(-c / 10). c is the lowest mean confidence, in nats, of a window that ends by the step's
    end, or the mean of all tokens so far where they fill no window. Until they are calibrated, scores only rank
    solutions. Solutions without probabilities stay unscored.
    """

    parameters = 0

    def __init__(self, options: Options):
        self._window = options.window

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        return [replace(candidate, scores=self._scores(candidate)) for candidate in candidates]

    def _scores(self, candidate: Candidate) -> tuple[float, ...] | None:
        ends = list(accumulate(candidate.token_counts))
        if not ends or len(candidate.confidences) != ends[-1]:
            return None
        sums = list(accumulate(candidate.confidences, initial=0.0))
        means = [(sums[end] - sums[max(0, end - self._window)]) / min(end, self._window) for end in range(1, len(sums))]
        # A window that is not full counts only where there is no full one.
        lowest = list(accumulate(means[self._window - 1 :], min))
        found = [means[end - 1] if end < self._window else lowest[end - self._window] for end in ends]
        return tuple(1 - exp(-max(0.0, each) / _SCALE) for each in found)

    async def close(self) -> None:
        return None


def load(spec: Any, options: Options, generator: None) -> LowestWindow:
    return LowestWindow(options)
