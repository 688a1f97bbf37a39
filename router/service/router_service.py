"""The RouterService: reads messages, calls the solver, and renders results. What all calls share is middleware."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from opentelemetry.trace import Tracer

from router.errors import OutcomesOff, OutcomesUnavailable, RouterError
from router.service import batch_conversion, conversion
from router.service.admission import Admission
from router.service.average_budgets import AverageBudgets, Counting, corrected
from router.service.batch_searches import BatchSearches, Ended
from router.service.bundle_manager import BundleManager
from router.service.conversations import Conversations
from router.service.middleware.call import Call, CallRecord, Part, part_id
from router.service.recorder import Recorder
from router.service.rows import Outcome, Recorded
from router.service.tracing import traced_search
from router.solving.batch import Batch, decide
from router.solving.bill import Bill
from router.solving.driver import Round
from router.solving.request import Request
from router.solving.solver import Decision, Solution, Solver
from router.solving.stages import StageEnd
from router.v1 import router_pb2 as pb

ROUTER = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
DIRECT_METHODS = frozenset({"Complete", "StreamComplete"})  # a model's own chat completions; over HTTP only
SEARCH_METHODS = frozenset({"Solve", "StreamSolve"}) | DIRECT_METHODS
_ACKNOWLEDGE_SECONDS = 10  # that a caller waits at most for an outcome to be on disk
_DECISION_SECONDS = 1.0  # within which another server that shares the database writes a decision


class RouterService:
    """Answers RouterService's calls. Cancelling a call also ends its search and the engine's work.

    admission        gives places to a batch's searches; other calls have their place before they come here
    recorder         records outcomes; None: they are refused
    tracer           makes the spans of searches; None: there are none
    conversations    the arms of conversations
    average_budgets  what callers under average budgets have spent
    longest_search   seconds that a search may take; None: no limit
    """

    def __init__(
        self,
        bundles: BundleManager,
        admission: Admission,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        *,
        longest_search: float | None = None,
    ):
        self.bundles = bundles
        self.admission = admission
        self.conversations = Conversations()
        self.average_budgets = AverageBudgets()
        self.recorder = recorder
        self.tracer = tracer
        self.longest_search = longest_search

    async def Route(self, message: pb.RouteRequest, call: Call) -> pb.RouteResponse:
        progress = call.progress
        request = progress.request = conversion.request(message, call.seconds_left)
        with self.bundles.solver() as solver:
            bill = progress.bill = solver.new_bill()
            started = time.monotonic()
            routed = self._routed(solver, request, call)
            decision = progress.decision = await solver.decide(routed, bill)
            bill.seconds["route"] = time.monotonic() - started
        self._decided(request, routed, call)
        return conversion.routed(decision, bill, call_id=call.id)

    async def Solve(self, message: pb.SolveRequest, call: Call) -> pb.SolveResponse:
        with self.bundles.solver() as solver:
            async with aclosing(self.search(solver, message, call)) as events:
                async for event in events:
                    if isinstance(event, Solution):
                        return pb.SolveResponse(solution=_rendered(event, solver, message, call.id))
        raise AssertionError("a search ends with its solution")

    async def StreamSolve(
        self, message: pb.StreamSolveRequest, call: Call
    ) -> AsyncGenerator[pb.StreamSolveResponse, None]:
        with self.bundles.solver() as solver:
            async with aclosing(self.search(solver, message, call)) as events:
                async for event in events:
                    if isinstance(event, Round):
                        yield pb.StreamSolveResponse(round=conversion.progress(event))
                    elif isinstance(event, StageEnd):
                        yield pb.StreamSolveResponse(stage=conversion.stage(event))
                    elif isinstance(event, Solution):
                        last = _rendered(event, solver, message, call.id)
                        if last.text:
                            yield pb.StreamSolveResponse(text=last.text)
                        yield pb.StreamSolveResponse(solution=last)

    async def RouteBatch(self, message: pb.RouteBatchRequest, call: Call) -> pb.RouteBatchResponse:
        progress = call.progress
        with self.bundles.solver() as solver:
            bill, batch = await self._batch(message, solver, call)
        decisions = batch.decisions
        ids = [part_id(call, index) for index in range(len(decisions))]
        progress.parts = list(map(Part, ids, batch.requests, decisions))
        return batch_conversion.routed(decisions, ids, batch.expected, bill)

    async def SolveBatch(
        self, message: pb.SolveBatchRequest, call: Call
    ) -> AsyncGenerator[pb.SolveBatchResponse, None]:
        assert call.progress.caller
        caller, count = call.progress.caller.name, Counter[bool]()
        with self.bundles.solver() as solver:
            bill, batch = await self._batch(message, solver, call)
            searches = BatchSearches(
                solver, batch, self.admission, caller, seconds_left=lambda: call.seconds_left, tracer=self.tracer
            )
            try:
                async with aclosing(searches.results()) as results:
                    async for ended in results:
                        bill.add(ended.bill)
                        solution = ended.outcome if isinstance(ended.outcome, Solution) else None
                        count[solution is not None] += 1
                        own = part_id(call, ended.index)
                        self._show(ended, own, batch, call)
                        if solution:
                            rendered = _rendered(solution, solver, message, own)
                            yield batch_conversion.solved(ended.index, own, rendered)
                        elif isinstance(ended.outcome, RouterError):
                            yield batch_conversion.failed(ended.index, own, ended.outcome, ended.bill)
            finally:  # where the caller left
                for ended in searches.unread():
                    bill.add(ended.bill)
                    self._show(ended, part_id(call, ended.index), batch, call)
            yield batch_conversion.summary(count[True], count[False], bill, batch.spent, batch.expected)

    async def GetBundle(self, message: pb.GetBundleRequest, call: Call) -> pb.GetBundleResponse:
        active = self.bundles.active
        return pb.GetBundleResponse(bundle=conversion.served(active.bundle, active.policy))

    async def RecordOutcome(self, message: pb.RecordOutcomeRequest, call: Call) -> pb.RecordOutcomeResponse:
        if self.recorder is None:
            raise OutcomesOff("this server records no outcomes; start it with --outcomes sqlite:///outcomes.db")
        conversion.check_outcome(message)
        assert call.progress.caller
        outcome = Outcome(
            call.progress.caller.name,
            message.call_id,
            correct=message.correct if message.HasField("correct") else None,
            score=message.score if message.HasField("score") else None,
        )
        recorded = await self._recorded(outcome)
        if not recorded.known:  # another server may be just about to write the decision
            await asyncio.sleep(_DECISION_SECONDS)
            recorded = await self._recorded(outcome)
        if not recorded.known:
            raise conversion.no_such_call(message.call_id)
        call.progress.verdict = recorded.verdict
        return pb.RecordOutcomeResponse(changed=recorded.changed)

    async def _recorded(self, outcome: Outcome) -> Recorded:
        assert self.recorder
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_SECONDS):
                return await asyncio.wrap_future(self.recorder.record(outcome))
        except TimeoutError:
            raise OutcomesUnavailable("the outcome database does not answer; try again later") from None

    async def _batch(
        self, message: pb.RouteBatchRequest | pb.SolveBatchRequest, solver: Solver, call: Call
    ) -> tuple[Bill, Batch]:
        """Decide the prompts of a batch; return the bill of deciding, and the batch."""
        bill = call.progress.bill = solver.new_bill()
        started = time.monotonic()
        requests, total = batch_conversion.requests(message), batch_conversion.total(message.budget)
        if self.longest_search and isinstance(message, pb.SolveBatchRequest):  # the other only decides
            requests = [replace(request, longest_search=self.longest_search) for request in requests]
        batch = await decide(solver, requests, total, bill)
        bill.seconds["route"] = time.monotonic() - started
        return bill, batch

    def _show(self, ended: Ended, own: str, batch: Batch, call: Call) -> None:
        """Show observers the record of one prompt of a SolveBatch call."""
        error = ended.outcome if isinstance(ended.outcome, RouterError) else None
        code = call.code_when_left if ended.outcome is None else "OK"
        record = CallRecord(
            own,
            call.service,
            f"{call.method}.prompt",  # a method of its own in metrics, apart from the batch
            _caller(call),
            code=error.status if error else code,
            reason=error.reason if error else "",
            seconds=ended.seconds,
            queue_seconds=ended.queue_seconds,
            request=batch.requests[ended.index],
            decision=ended.decision,
            bill=ended.bill,
            solution=ended.outcome if isinstance(ended.outcome, Solution) else None,
            door=call.door,
        )
        if call.progress.show:
            call.progress.show(record)

    async def search(
        self, solver: Solver, message: pb.SolveRequest | pb.StreamSolveRequest, call: Call
    ) -> AsyncGenerator[Decision | Round | StageEnd | Solution, None]:
        """Yield a search's events, and note each in the call's progress. Raises as :meth:`Solver.stream`."""
        progress = call.progress
        asked = conversion.request(message, call.seconds_left)
        request = progress.request = replace(asked, longest_search=self.longest_search)
        bill = progress.bill = solver.new_bill()
        routed = self._routed(solver, request, call)
        ledger = self.average_budgets.of(_caller(call), routed, solver)
        counting = None if ledger is None else Counting(ledger, solver, bill)
        search = solver.stream(routed, bill)
        try:
            async with aclosing(traced_search(self.tracer, search) if self.tracer else search) as events:
                async for event in events:
                    if isinstance(event, Decision):
                        progress.decision = event
                        self._decided(request, routed, call)
                        if counting:
                            counting.begin(event)
                    elif isinstance(event, Solution):
                        progress.solution = event
                        if progress.release_place:
                            progress.release_place()  # now, as the caller may take long to read the solution
                    yield event
        finally:
            progress.kept = counting.end() if counting else None

    def _routed(self, solver: Solver, request: Request, call: Call) -> Request:
        """Return the request with its conversation's arm, or with the budget that keeps its caller's average."""
        kept = self.conversations.routed(_caller(call), request, solver.bundle.id) if request.conversation else None
        if kept:
            return kept
        return corrected(request, self.average_budgets.of(_caller(call), request, solver))

    def _decided(self, request: Request, routed: Request, call: Call) -> None:
        decision = call.progress.decision
        assert decision
        self.conversations.keep(_caller(call), request, decision)
        self.bundles.compare(routed, decision)


def _caller(call: Call) -> str:
    return call.progress.caller.name if call.progress.caller else ""


def _rendered(
    solution: Solution,
    solver: Solver,
    message: pb.SolveRequest | pb.StreamSolveRequest | pb.SolveBatchRequest,
    call_id: str,
) -> pb.Solution:
    return conversion.solution(
        solution,
        reference=solver.engines.reference,
        candidates=message.options.return_candidates,
        call_id=call_id,
    )
