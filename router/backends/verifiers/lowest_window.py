"""Token confidence where it was lowest (DeepConf, arXiv 2508.15260): one unsure passage tells more than the mean.

How sure a model is of a token is the mean negative log-probability of the likeliest ones: the more the first stands
out, the less likely the others are. The score is the mean over the window of tokens where that is least.
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

_SCALE = 10.0  # nats: a confidence, 0 to 20 or so, becomes a score in [0, 1)


@dataclass(frozen=True, slots=True)
class Options:
    """``window``: tokens whose confidences are averaged. The paper's 2048 are for thoughts of tens of thousands.

    top     likeliest tokens that are looked at; vLLM gives 20 unless it is told otherwise
    """

    __pydantic_config__ = STRICT

    window: Positive = 64
    top: Annotated[int, Field(ge=1, le=100)] = 20


class LowestWindow:
    """It costs nothing: the probabilities were computed while sampling. Without them there is no score.

    A step's score is 1 - exp(-c / 10), c the lowest mean of a window that ends within the solution so far, in nats; of
    the whole while it is shorter than a window. Only the order means something, until it is calibrated.
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
        # Windows that are not full count only as long as there is no full one.
        lowest = list(accumulate(means[self._window - 1 :], min))
        found = [means[end - 1] if end < self._window else lowest[end - self._window] for end in ends]
        return tuple(1 - exp(-max(0.0, each) / _SCALE) for each in found)

    async def close(self) -> None:
        return None


def load(spec: Any, options: Options, generator: None) -> LowestWindow:
    return LowestWindow(options)
