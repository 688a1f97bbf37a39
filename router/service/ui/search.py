"""Shows a search while it runs: turns its events into parts of a page, each of which replaces its earlier version."""

import time
from collections.abc import Iterator
from dataclasses import replace

from router.policy.fixed import best_fixed
from router.policy.table import Expectation
from router.policy.words import si
from router.service.ui.chart import HEIGHT, WIDTH, chart
from router.service.ui.pages import count, render, share
from router.service.ui.tree import Trees
from router.solving.driver import Round, StopReason
from router.solving.solver import Decision, Solution, Solver
from router.solving.stages import StageEnd
from strategies import Cascade, Strategy

Part = tuple[str, str]
"""The name of a part of the page, and its HTML."""
Row = tuple[str, list[str]]
"""A row of a table: its name, and its cells."""

_STATUS_SECONDS = 0.1  # between two updates of the status line
_TREE_SECONDS = 1.0  # between two updates of the trees, since rendering takes milliseconds that delay other calls
_ROUNDS = 500  # most rounds kept for the chart
_STOPS = {
    StopReason.TOKEN_CAP: "it reached the limit of tokens to write or read",
    StopReason.DEADLINE: "its deadline was about to pass",
    StopReason.LONGEST_SEARCH: "it took the longest time that a search may take here",
}


class Watched:
    """A search that somebody watches. ``solver``: runs the search."""

    def __init__(self, solver: Solver):
        self._solver = solver
        self._trees = Trees()
        self._rounds: list[Round] = []
        self._ends: list[StageEnd] = []
        self._decision: Decision | None = None
        self._told = self._drawn = 0.0

    def parts(self, event: Decision | Round | StageEnd | Solution) -> Iterator[Part]:
        """Yield the parts of the page that an event changes."""
        if isinstance(event, Decision):
            self._decision = event
            yield "decision", self._planned(event)
            yield "status", render("parts/status.html", round=None, stages=self._stages)
            yield "stages", self._staged()
        elif isinstance(event, Round):
            yield from self._went_on(event)
        elif isinstance(event, StageEnd):
            self._ends.append(event)
            yield "stages", self._staged()
            yield from self._pictures()
        else:
            self._trees.settle(event)
            yield "status", ""
            yield "solution", self._solved(event)
            yield "stages", self._staged(over=True)
            yield from self._pictures(event)

    def _went_on(self, event: Round) -> Iterator[Part]:
        self._trees.add(event.stage, event.candidates)
        if len(self._rounds) < _ROUNDS:
            self._rounds.append(replace(event, candidates=()))
        now = time.monotonic()
        if now - self._told >= _STATUS_SECONDS:
            self._told = now
            yield "status", render("parts/status.html", round=event, stages=self._stages)
        if now - self._drawn >= _TREE_SECONDS:
            yield from self._pictures()

    def _planned(self, decision: Decision) -> str:
        return render("parts/decision.html", decision=decision)

    def _staged(self, *, over: bool = False) -> str:
        assert self._decision
        arm = self._decision.arm
        stages = list(zip(arm.stages, (*arm.thresholds, None), strict=True)) if isinstance(arm, Cascade) else []
        return render("parts/stages.html", stages=stages, ends=self._ends, over=over)

    def _pictures(self, solution: Solution | None = None) -> Iterator[Part]:
        self._drawn = time.monotonic()
        if self._rounds:
            drawn = chart(self._rounds, self._ends, solution.confidence if solution else None)
            rounds = self._rounds if solution else []
            yield "rounds", render("parts/rounds.html", chart=drawn, width=WIDTH, height=HEIGHT, rounds=rounds)
        yield "tree", render("parts/tree.html", trees=self._trees, arms=self._arms)

    def _solved(self, solution: Solution) -> str:
        policy, decision = self._solver.policy, solution.decision
        column = best_fixed(policy, decision.objective or policy.default, self._solver.shares)
        table = policy.for_task(decision.task)
        fixed = table.promise(column, table.weights_of_one(decision.probabilities))
        return render(
            "parts/solution.html",
            solution=solution,
            why=why(solution),
            fixed=fixed,
            objective=decision.objective or policy.default,
            rows=_bill(solution, fixed),
            lines=[
                (model, role, usage.generated_tokens, usage.scored_tokens)
                for (model, role), usage in solution.bill.lines.items()
            ],
            times=_times(solution.bill.flops(), fixed.cost.flops),
        )

    @property
    def _stages(self) -> int:
        return len(self._arms)

    @property
    def _arms(self) -> tuple[Strategy, ...]:
        arm = self._decision.arm if self._decision else None
        return arm.stages if isinstance(arm, Cascade) else (arm,) if arm else ()


def why(solution: Solution) -> str:
    """Return why the search ended, as the end of a sentence."""
    if solution.stop is not StopReason.COMPLETE:
        return _STOPS[solution.stop]
    if solution.stages:
        last, arm = solution.stages[-1], solution.decision.arm
        of = len(arm.stages) if isinstance(arm, Cascade) else last.number
        if last.threshold is None:
            return f"the last of its {of} stages had run"
        return (
            f"the confidence of {last.confidence or 0:.2f} after stage {last.number} of {of} reaches the "
            f"{last.threshold:g} that ends the plan there"
        )
    sure, most = solution.decision.arm.parameters.get("stop"), solution.decision.arm.parameters.get("n")
    written = len(solution.result.candidates)
    if sure and most and written < most:
        return f"{written} of at most {most:g} solutions made it sure enough (it stops early at {sure:g})"
    return "its arm had run to the end"


def _bill(solution: Solution, fixed: Expectation) -> list[Row]:
    """Return rows comparing this search, its plan's measured average, and the best fixed arm's average."""
    bill, decision = solution.bill, solution.decision
    plan = [decision.expectation] if decision.expectation else []
    costs = [each.cost for each in (*plan, fixed)]
    right = [solution.confidence, *[decision.promised] * len(plan), fixed.accuracy]
    blank = [""] * len(costs)
    rows = [
        ("probability of a right answer", [share(each) or "not known" for each in right]),
        ("tokens that models wrote", _counts(bill.generated_tokens, *(cost.generated_tokens for cost in costs))),
        ("tokens that the verifier read", _counts(bill.scored_tokens, *(cost.scored_tokens for cost in costs))),
        ("FLOPs", [si(each) for each in (bill.flops(), *(cost.flops for cost in costs))]),
    ]
    if bill.money is not None:
        rows.append(("money", [f"{each or 0:.3g}" for each in (bill.money, *(cost.money for cost in costs))]))
    rows.append(("requests to models", [count(bill.calls), *blank]))
    rows.append(("seconds of work", [f"{sum(bill.seconds.values()):.2f}", *blank]))
    return rows


def _counts(*tokens: float) -> list[str]:
    return [count(each) for each in tokens]


def _times(spent: float, fixed: float) -> str:
    """Return the number for ``0.4 times the FLOPs of``; empty where there is nothing to compare with."""
    return f"{spent / fixed:.2g}" if fixed else ""
