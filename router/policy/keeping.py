"""Keeps a caller's average budget: at one price harder prompts than the tuning prompts spend more, easier ones less.

What the calls so far spent beyond what they asked for, or less, moves the budget that the next arm is chosen for: a
controller that integrates. Its price follows ``budget * exp(-ahead / PATIENCE)``, so that a mix of prompts that spends
once and a half as much is ahead by ``PATIENCE * log(1.5)``, eight calls' worth, and stays there: the mean comes back to
what was asked. What is chosen counts at once as what it is expected to spend, and as what it spent when it has ended:
many calls at the same time don't all wait for each other's bills.
"""

import math
from dataclasses import dataclass

PATIENCE = 20.0  # calls' worth that move the budget by a factor of e: shorter is more exact, and more restless
MEMORY = 250.0  # calls' worth that are made up for, at most
LEAST, MOST = 1 / 3, 2.0  # of what was asked


@dataclass(slots=True)
class Ledger:
    """The calls of one caller that asked for one average budget.

    asked  solutions a call, on average
    ahead  what was spent beyond that, in calls' worth: 1 is as much as one call asked for
    """

    asked: float
    ahead: float = 0.0

    @property
    def factor(self) -> float:
        """What the next arm is chosen for, in units of what was asked."""
        return min(max(math.exp(-self.ahead / PATIENCE), LEAST), MOST)

    def begin(self, expected: float) -> None:
        """An arm was chosen that is expected to spend so many solutions."""
        self._move(expected / self.asked - 1)

    def end(self, expected: float, spent: float) -> None:
        """What it spent really. A call that spent nothing (it was refused, or failed at once) was none."""
        self._move((spent - expected) / self.asked + (spent == 0))

    def _move(self, calls: float) -> None:
        self.ahead = min(max(self.ahead + calls, -MEMORY), MEMORY)
