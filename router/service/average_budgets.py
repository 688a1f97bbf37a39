"""Average budgets by caller: what its calls spent moves what its next ones are chosen for, see ``policy.keeping``."""

from dataclasses import dataclass, replace

from cachetools import LRUCache

from router.policy.keeping import Ledger
from router.policy.objectives import AverageBudget
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.solver import Decision, Solver


@dataclass(frozen=True, slots=True)
class Kept:
    """A call under an average budget: what it asked for, what its arm was chosen for, what it spent; in solutions."""

    asked: float
    chosen_for: float
    spent: float


class AverageBudgets:
    """Ledgers by caller, and by what was asked of which bundle. Each server knows its own calls only.

    callers  that are remembered; the least recent goes first
    each     budgets of one caller
    """

    def __init__(self, *, callers: int = 1000, each: int = 8):
        self._each = each
        self._callers: LRUCache[str, LRUCache[tuple[str, float], Ledger]] = LRUCache(callers)

    def of(self, caller: str, request: Request, solver: Solver) -> Ledger | None:
        """None where no average is to be kept: another objective, or an arm that the caller pinned. Raises
        InvalidRequest where the policy can't serve the budget."""
        objective = request.objective or solver.policy.default
        if not isinstance(objective, AverageBudget) or request.arm:
            return None
        solver.policy.check(objective)  # nothing is remembered of nonsense
        ledgers = self._callers.get(caller)
        if ledgers is None:
            ledgers = self._callers[caller] = LRUCache(self._each)
        key = solver.bundle.id, objective.value
        ledger = ledgers.get(key)
        if ledger is None:
            ledger = ledgers[key] = Ledger(objective.value)
        return ledger


def corrected(request: Request, ledger: Ledger | None) -> Request:
    """The request, for what the caller's average leaves it."""
    if ledger is None:
        return request
    return replace(request, objective=AverageBudget(ledger.asked, ledger.factor))


class Counting:
    """Counts a search in its caller's ledger: ``begin`` when its arm is chosen, ``end`` when it has ended, however."""

    def __init__(self, ledger: Ledger, solver: Solver, bill: Bill):
        self._ledger, self._solver, self._bill = ledger, solver, bill
        self._decision: Decision | None = None
        self._expected = 0.0

    def begin(self, decision: Decision) -> None:
        # Of an arm that its conversation keeps, or that was drawn to explore, nothing is known.
        expected = decision.expectation.cost.generations if decision.expectation else self._ledger.asked
        self._decision, self._expected = decision, expected
        self._ledger.begin(expected)

    def end(self) -> Kept | None:
        """None where no arm was chosen."""
        if self._decision is None:
            return None
        spent = self._solver.generations(self._bill, self._decision.probabilities)
        self._ledger.end(self._expected, spent)
        objective = self._decision.objective
        factor = objective.factor if isinstance(objective, AverageBudget) else 1.0
        return Kept(self._ledger.asked, self._ledger.asked * factor, spent)
