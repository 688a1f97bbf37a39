"""Keeps a caller's average budget where the caller's prompts are harder or easier than the tuning prompts.

At one price per generation, harder prompts spend more than the tuning prompts and easier ones less. So the sum of what
earlier calls spent above or below what they asked for changes the budget that the next arm is chosen for: an integral
controller. It chooses for ``budget * exp(-ahead / PATIENCE)``. Prompts that spend one and a half times as much get
ahead by ``PATIENCE * log(1.5)``, eight calls' worth, and stay there: from then on the mean is what was asked.

A call counts at once with what it is expected to spend, and with what it really spent when it has ended. So many calls
at the same time don't wait for each other's bills.
"""

import math
from dataclasses import dataclass

PATIENCE = 20.0  # calls' worth that change the budget by a factor of e; a smaller value corrects sooner and varies more
MEMORY = 250.0  # calls' worth that are made up for at most
LEAST, MOST = 1 / 3, 2.0  # bounds of the factor


@dataclass(slots=True)
class Ledger:
    """The account of one caller's calls that asked for the same average budget.

    asked  solutions per call, on average
    ahead  what was spent beyond that, in calls' worth: 1 is as much as one call asked for
    """

    asked: float
    ahead: float = 0.0

    @property
    def factor(self) -> float:
        """The budget that the next arm is chosen for, in units of what was asked."""
        return min(max(math.exp(-self.ahead / PATIENCE), LEAST), MOST)

    def begin(self, expected: float) -> None:
        """Count a new call whose arm is expected to spend this many solutions."""
        self._move(expected / self.asked - 1)

    def end(self, expected: float, spent: float) -> None:
        """Replace the expected by the real spending. A call that spent nothing (it was refused) doesn't count."""
        self._move((spent - expected) / self.asked + (spent == 0))

    def _move(self, calls: float) -> None:
        self.ahead = min(max(self.ahead + calls, -MEMORY), MEMORY)
