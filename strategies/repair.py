"""Repair: the model is shown a wrong solution and what the verifier found wrong with it, and writes the next.

This is sequential revision with a reason for each revision, as in Self-Debug (Chen et al., arXiv 2304.05128), where the
reasons are failed tests.
"""

from dataclasses import dataclass
from typing import ClassVar

from strategies.requests import Candidate, Earlier, Extend, Score, Search
from strategies.selection import best
from strategies.strategy import Strategy


@dataclass(frozen=True)
class Repair(Strategy):
    """Up to ``n`` solutions one after the other, until the verifier finds nothing wrong with one.

    The model is shown the latest wrong attempt and the verifier's finding. An attempt that was cut is never shown: the
    attempt after it is shown what the cut one was shown. The search ends when the verifier reports nothing wrong, or
    has nothing to test with. The best scored attempt is returned, the earliest of equals.
    """

    name: ClassVar[str] = "repair"
    needs_scores: ClassVar[bool] = True
    needs_findings: ClassVar[bool] = True
    revises: ClassVar[bool] = True

    n: int = 1

    @property
    def rows(self) -> int:
        return 1

    def search(self) -> Search:
        attempts: list[Candidate] = []
        shown: tuple[Earlier, ...] = ()
        while len(attempts) < self.n:
            written = yield Extend((Candidate(earlier=shown, model=self.model),))
            (attempt,) = yield Score(tuple(written))
            attempts.append(attempt)
            if not attempt.finished:
                continue
            if not attempt.finding:
                break
            shown = (Earlier(attempt.text, attempt.finding),)
        return best(attempts)
