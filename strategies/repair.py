"""Repair: a wrong solution is written once more in sight of what the verifier found wrong with it.

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

    Each is written in sight of the latest one with which something was wrong, and of what that was. After a solution
    that was cut, the next one is written in sight of no more than this one was. Where the verifier says nothing, since
    the prompt has no tests, there is nothing to repair, and the search ends. The best scored is returned, the earliest
    of equals.
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
