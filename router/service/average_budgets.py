"""Keeps each caller's average budget: what its calls spent changes the budget of its next ones (``policy.keeping``)."""

from dataclasses import dataclass, replace

from cachetools import LRUCache

from router.policy.keeping import Ledger
from router.policy.objectives import AverageBudget
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.solver import Decision, Solver


@dataclass(frozen=True, slots=True)
class Kept:
    """A call under an average budget, in solutions of the reference model.

    asked       average budget that the call asked for
    chosen_for  average budget that its arm was chosen for
    spent       what the call spent
    """

    asked: float
    chosen_for: float
    spent: float


class AverageBudgets:
    """Ledgers by caller, bundle and average budget, one for all tasks. Each server counts its own calls only.

    callers  number of callers remembered; the least recent is forgotten first
    each     number of ledgers remembered for each caller
    """

    def __init__(self, *, callers: int = 1000, each: int = 8):
        self._each = each
        self._callers: LRUCache[str, LRUCache[tuple[str, float], Ledger]] = LRUCache(callers)

    def of(self, caller: str, request: Request, solver: Solver) -> Ledger | None:
        """Return the ledger of a request; None where it has another objective, or the caller pinned an arm.

        Raises InvalidRequest where the policy can't serve the budget.
        """
        objective = request.objective or solver.policy.default
        if not isinstance(objective, AverageBudget) or request.arm:
            return None
        solver.policy.check(objective)  # first, so that no ledger is kept for a budget that can't be served
        ledgers = self._callers.get(caller)
        if ledgers is None:
            ledgers = self._callers[caller] = LRUCache(self._each)
        key = solver.bundle.id, objective.value
        ledger = ledgers.get(key)
        if ledger is None:
            ledger = ledgers[key] = Ledger(objective.value)
        return ledger


def corrected(request: Request, ledger: Ledger | None) -> Request:
    """Return the request with the average budget that keeps the caller's average."""
    if ledger is None:
        return request
    return replace(request, objective=AverageBudget(ledger.asked, ledger.factor))


class Counting:
    """Counts a search in its caller's ledger. Call ``begin`` when its arm is chosen, ``end`` whenever it has ended."""

    def __init__(self, ledger: Ledger, solver: Solver, bill: Bill):
        self._ledger, self._solver, self._bill = ledger, solver, bill
        self._decision: Decision | None = None
        self._expected = 0.0

    def begin(self, decision: Decision) -> None:
        # An arm that its conversation keeps, or that was drawn to explore, has no expected cost.
        expected = decision.expectation.cost.generations if decision.expectation else self._ledger.asked
        self._decision, self._expected = decision, expected
        self._ledger.begin(expected)

    def end(self) -> Kept | None:
        """Count what the search spent, and return it; None where no arm was chosen."""
        if self._decision is None:
            return None
        spent = self._solver.generations(self._bill, self._decision.probabilities, self._decision.task)
        self._ledger.end(self._expected, spent)
        objective = self._decision.objective
        factor = objective.factor if isinstance(objective, AverageBudget) else 1.0
        return Kept(self._ledger.asked, self._ledger.asked * factor, spent)
