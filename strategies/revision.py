"""Sequential revision: the model is shown its earlier attempts, and writes the next (Snell et al., section 6)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from strategies.requests import Candidate, Earlier, Extend, Score, Search
from strategies.selection import within_then_across
from strategies.strategy import Strategy

CONTEXT = 4  # the paper's reviser saw at most the last four attempts


@dataclass(frozen=True)
class Revision(Strategy):
    """``chains`` parallel chains of n/chains attempts each; chains=n is all parallel, chains=1 all sequential."""

    name: ClassVar[str] = "revision"
    revises: ClassVar[bool] = True

    n: int = 1
    chains: int = 0

    @property
    def rows(self) -> int:
        return self.chains

    def search(self) -> Search:
        chains: list[list[Candidate]] = [[] for _ in range(self.chains)]
        length = self.n // self.chains
        for _ in range(length):
            shown = [
                tuple(Earlier(attempt.text) for attempt in chain if attempt.finished)[-CONTEXT:] for chain in chains
            ]
            written = yield Extend(tuple(Candidate(earlier=earlier, model=self.model) for earlier in shown))
            for chain, attempt in zip(chains, written, strict=True):
                chain.append(attempt)
        # The verifier judges each attempt alone, without those before it: decision 7.
        flat = yield Score(tuple(replace(attempt, earlier=()) for chain in chains for attempt in chain))
        return within_then_across([flat[i : i + length] for i in range(0, self.n, length)])
