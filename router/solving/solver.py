"""Solves prompts: prompt → level → arm → search → answer, with the bill."""

import logging
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.backends import Engines, Usage
from router.backends.registry import check_code, why_not
from router.backends.specs import Deployment
from router.bundle.bundle import Bundle
from router.errors import ConfidenceInsufficient, InvalidBundle, InvalidRequest
from router.policy import unfamiliar
from router.policy.objectives import AverageBudget, Budget, Objective
from router.policy.seconds import check_seconds
from router.policy.table import Expectation, Policy
from router.prompt import Prompt
from router.solving.bill import Bill, rates_of
from router.solving.driver import Round, StopReason, drive
from router.solving.features import features_of
from router.solving.request import Request, validate
from router.solving.spending import generations, solution_tokens
from router.solving.stages import ConfidenceOf, StageEnd
from router.tasks import Allowance, Task, Tasks, opaque, runnable, within
from strategies import Result, Strategy
from strategies.confidence import by_score_or_lead

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """The arm for a prompt, and what it rests on. ``probabilities`` are of levels 1 to 5, ``level`` is the likeliest.

    expectation  expected accuracy and cost; None when the caller pinned the arm, its conversation keeps it, or the
                 models sample otherwise than they were measured
    propensity   the arm's probability of being chosen for this prompt: below 1 only where arms are explored
    objective    the objective that was used; None when the caller pinned the arm
    choice       the arm that the policy chose; ``arm`` may be another, drawn to explore. None when the policy chose
                 none for this prompt
    listed       the arm as the policy lists it, where ``objective`` gave ``arm`` another threshold: of these there are
                 few, of thresholds that callers ask for there is no end. None: the two are the same
    kept         the caller's conversation keeps the arm, which was chosen for an earlier prompt
    explore      share of decisions that were drawn at random when this one was made
    levels_by    digest of the difficulty model: levels can only be compared under the same one
    task         name of the request's task
    familiar     False: the prompt is unlike those of training, so no level was predicted. Probabilities are the levels'
                 shares among the tuning prompts, level is the median one, and no accuracy is promised
    """

    level: int
    probabilities: tuple[float, ...]
    arm: Strategy
    expectation: Expectation | None
    bundle_id: str
    propensity: float = 1.0
    objective: Objective | None = None
    choice: Strategy | None = None
    listed: Strategy | None = None
    kept: bool = False
    explore: float = 0.0
    levels_by: str = ""
    task: str = ""
    familiar: bool = True

    @property
    def promised(self) -> float | None:
        """The accuracy that is expected of the arm; None: unknown."""
        return self.expectation.accuracy if self.expectation and self.familiar else None


@dataclass(frozen=True, slots=True)
class Solution:
    """What was found for a prompt.

    answer  as shown to the caller; for a task whose keys are digests, the answer as the chosen solution states it
    answers_compared_as_text  number of answers compared as text, since comparing their values took too long
    stages  the stages of a cascade that ran
    """

    decision: Decision
    result: Result
    bill: Bill
    stop: StopReason
    answer: str | None = None
    answers_compared_as_text: int = 0
    stages: tuple[StageEnd, ...] = ()

    @property
    def confidence(self) -> float | None:
        """Probability that the answer is right; None: there is no answer, or it is unknown."""
        return self.result.best.confidence if self.result.best else None

    @property
    def no_answer(self) -> str:
        """Why there is no answer; empty where there is one."""
        if self.result.best:
            return ""
        shown = self.result.unanswered
        return (shown.no_answer if shown else "") or "no solution was written to its end"


class Solver:
    """A bundle and its engines, ready to answer prompts.

    policy    the bundle's policy without the arms that these engines can't run
    shares    (5,) the levels' shares among all tuning prompts
    left_out  the arms that these engines can't run, and why

    Raises InvalidBundle where no arm of the policy can run.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: Engines,
        deployment: Deployment | None = None,
        *,
        explore: float = 0.0,
        allow_code: bool = False,
        solves: bool = True,
    ):
        """explore: share of decisions whose arm is drawn uniformly from the arms within the budget, to learn from.

        allow_code: whether tasks may run code, in a sandbox
        solves: False: it only decides, so that it does not matter whether code may run
        """
        self.explore = explore
        self.bundle = bundle
        self._bundle_id, self._levels_by = bundle.id, bundle.levels_by  # computed on each access
        self.engines = engines
        self.tasks = Tasks(bundle.setup.tasks, allow_code)
        self.tasks.check()
        self._solves = solves
        if solves:
            check_code(bundle.setup, allow_code)
        self.features = features_of(bundle.manifest.features)
        self.rates = rates_of(bundle.setup)
        self._deployment = deployment or Deployment()
        reasons = {arm: self._why_not(arm) for arm in bundle.policy.arms}
        self.left_out = {arm: reason for arm, reason in reasons.items() if reason}
        self.policy = _runnable(bundle, self.left_out)
        known = bundle.familiarity.tasks if bundle.familiarity else ()
        self._known_tasks = frozenset(name or self.tasks.names[0] for name in known)
        tables = {"": self.policy, **self.policy.tasks}
        self._shares = {name: unfamiliar.shares(table) for name, table in tables.items()}
        self.shares = self._shares[""]
        self._solution_tokens = {name: solution_tokens(table, engines.reference) for name, table in tables.items()}

    async def decide(self, request: Request, bill: Bill | None = None) -> Decision:
        """Predict the level and choose the arm; add the cost of predicting to ``bill``. Raises InvalidRequest."""
        validate(request)
        await self.task(request)
        policy = self.policy.for_task(self.task_of(request))
        objective = request.objective or policy.default
        policy.check(objective)  # a wrong objective is an error also where the arm is pinned
        if request.max_seconds is not None:
            check_seconds(policy, request.max_seconds)
        familiar = self.knows(request)
        if familiar:
            (read,) = await self.read([request.prompt], bill)
            probabilities = tuple(self.bundle.difficulty.probabilities(read))
        else:
            probabilities = self.shares_of(self.task_of(request))
        if request.arm:
            return self.decision(request, probabilities, request.arm, None, familiar=familiar)
        if request.kept_arm:
            return self.decision(
                request,
                probabilities,
                request.kept_arm,
                None,
                objective=objective,
                familiar=familiar,
                listed=request.kept_listed,
                kept=True,
            )
        if not familiar:
            plan = unfamiliar.plan(policy, objective, probabilities, request.max_seconds)
            return self.decision(request, probabilities, plan.arm, plan, objective=objective, familiar=False)
        if isinstance(objective, AverageBudget):
            objective = objective.drawn_by(request.prompt.digest)
        expectation = policy.decide(probabilities, objective, request.max_seconds)
        arm = objective.runs(expectation.arm)
        decision = self.decision(
            request,
            probabilities,
            arm,
            expectation if self.as_measured(request, expectation.arm) else None,
            objective=objective,
            choice=arm,
            listed=None if arm == expectation.arm else expectation.arm,
            explore=self.explore,
        )
        if request.max_seconds is not None:  # no exploring: another arm might take longer
            return replace(decision, explore=0.0)
        return self._explored(decision, objective.value if isinstance(objective, Budget) else policy.largest)

    def task_of(self, request: Request) -> str:
        """Return the name of the request's task."""
        return request.task or self.tasks.names[0]

    def shares_of(self, task: str) -> tuple[float, ...]:
        """(5,) level probabilities of an unfamiliar prompt: the levels' shares among the task's tuning prompts."""
        return self._shares.get(task, self.shares)

    def as_measured(self, request: Request, arm: Strategy) -> bool:
        """Whether the request has the arm's models sample as they did when the policy was measured."""
        if request.temperature is None and request.max_tokens is None:
            return True
        specs = [self.bundle.setup.models[name or self.bundle.setup.reference] for name in arm.models]
        return all(
            spec.temperature_of(request.temperature) == spec.temperature
            and spec.longest_of(request.max_tokens) == spec.max_tokens
            for spec in specs
        )

    def decision(
        self,
        request: Request,
        probabilities: tuple[float, ...],
        arm: Strategy,
        expectation: Expectation | None,
        *,
        familiar: bool = True,
        **chosen: Any,
    ) -> Decision:
        """Make a Decision. ``chosen``: its further fields, which say how the arm was chosen."""
        level = 1 + probabilities.index(max(probabilities)) if familiar else unfamiliar.middle(probabilities)
        return Decision(
            level,
            probabilities,
            arm,
            expectation,
            self._bundle_id,
            levels_by=self._levels_by,
            task=self.task_of(request),
            familiar=familiar,
            **chosen,
        )

    def knows(self, request: Request) -> bool:
        """Whether the prompt and its task are like those of training; True where the bundle can't tell."""
        known = self.bundle.familiarity
        if known is None:
            return True
        return self.task_of(request) in self._known_tasks and known.knows(request.prompt.question)

    def known(self, requests: Sequence[Request]) -> NDArray[np.bool_]:
        """(n,) whether each prompt and its task are like those of training."""
        familiarity = self.bundle.familiarity
        if familiarity is None:
            return np.ones(len(requests), dtype=bool)
        tasks = np.array([self.task_of(request) in self._known_tasks for request in requests], dtype=bool)
        return np.asarray(tasks & familiarity.knows_many([request.prompt.question for request in requests]))

    async def read(self, prompts: Sequence[Prompt], bill: Bill | None = None) -> Sequence[Any]:
        """Return what the difficulty model reads of each prompt; add the cost to ``bill``."""
        usage = Usage()
        try:
            return await self.features.read(prompts, self.engines, usage)
        finally:
            if bill and usage != Usage():
                bill.line(self.engines.reference, "generator").add(**asdict(usage))

    async def task(self, request: Request) -> Task:
        """Return the request's task, bound to its inputs. Raises InvalidRequest, CodeNotAllowed."""
        task = await self.tasks.of_caller(request.task, request.inputs)
        return runnable(task) if self._solves else task

    def _explored(self, decision: Decision, budget: float) -> Decision:
        if not self.explore:
            return decision
        policy = self.policy
        arms = sorted({arm for arm in policy.arms if policy.budget(arm) <= budget} | {decision.arm})
        arm = random.choice(arms) if random.random() < self.explore else decision.arm
        propensity = self.explore / len(arms) + (1 - self.explore) * (arm == decision.arm)
        if arm == decision.arm:
            return replace(decision, propensity=propensity)
        return replace(decision, arm=arm, listed=None, expectation=None, propensity=propensity)

    async def solve(self, request: Request, bill: Bill | None = None) -> Solution:
        """Decide and run; see :meth:`stream`."""
        async with aclosing(self.stream(request, bill)) as events:
            async for event in events:
                if isinstance(event, Solution):
                    return event
        raise AssertionError("a stream ends with its solution")

    async def stream(
        self, request: Request, bill: Bill | None = None
    ) -> AsyncGenerator[Decision | Round | StageEnd | Solution, None]:
        """Decide and run. Yield the Decision, a Round after each answered request of the search, a StageEnd after each
        stage of a cascade, and the Solution last.

        Pass a ``bill`` to read what was spent also if the call is cancelled. Raises InvalidRequest, DeadlineExceeded,
        TokenCapReached, ConfidenceInsufficient (all with ``.bill``), EngineUnavailable.
        """
        bill = self.new_bill() if bill is None else bill
        started = time.monotonic()
        if request.arm:
            arm = request.arm.referring(self.engines.reference)
            if reason := self._why_not(arm):
                raise InvalidRequest("options.arm", f"{arm} can't be run: {reason}", reason="ARM_INVALID")
            request = replace(request, arm=arm)
        allowance = Allowance()
        with within(allowance):
            decision = await self.decide(request, bill)
        bill.seconds["route"] += time.monotonic() - started
        if request.seconds is not None:
            request = replace(request, seconds=request.seconds - (time.monotonic() - started))
        async with aclosing(self.run(decision, request, bill, allowance)) as events:
            async for event in events:
                yield event

    async def run(
        self, decision: Decision, request: Request, bill: Bill, allowance: Allowance | None = None
    ) -> AsyncGenerator[Decision | Round | StageEnd | Solution, None]:
        """Yield what :meth:`stream` does, for a decision that was already made. Raises the same errors.

        allowance  what is left of the limits on comparing answers; None: the limits of every call
        """
        allowance = Allowance() if allowance is None else allowance
        with within(allowance):
            task = await self.task(request)
        yield decision
        request = replace(request, task=decision.task)
        confidence_of = self._confidence_of(decision)
        search = drive(
            decision.arm, request, self.engines, task, bill, allowance=allowance, confidence_of=confidence_of
        )
        stages: list[StageEnd] = []
        async with aclosing(search) as events:
            async for event in events:
                if isinstance(event, StageEnd):
                    stages.append(event)
                if isinstance(event, Round | StageEnd):
                    yield event
                else:
                    result, stop = event
                    solution = Solution(
                        decision,
                        result,
                        bill,
                        stop,
                        answer=_answer(task, result),
                        answers_compared_as_text=allowance.as_text,
                        stages=tuple(stages),
                    )
                    # A pinned arm was chosen for no objective, and its caller may still ask for an accuracy.
                    wanted = decision.objective or request.objective or self.policy.for_task(decision.task).default
                    if request.refuse and not wanted.reached(solution.confidence):
                        raise _insufficient(solution, wanted)
                    yield solution

    def generations(self, bill: Bill, weights: Sequence[float], task: str) -> float:
        """Return a prompt's bill in solutions of the reference model, given its (5,) level weights and its task."""
        tokens = self._solution_tokens.get(task, self._solution_tokens[""])
        return generations(bill, self.bundle.setup.worth, tokens, weights)

    def _confidence_of(self, decision: Decision) -> ConfidenceOf:
        """Return the function that gives confidences: the bundle's confidence model, where it has one."""
        if self.bundle.confidence is None:
            return by_score_or_lead
        model = self.bundle.confidence.for_task(decision.task)
        return lambda wanted: model.of(decision.probabilities, wanted)

    def new_bill(self) -> Bill:
        return Bill(self.rates)

    def _why_not(self, arm: Strategy) -> str | None:
        return why_not(arm, self.bundle.setup, self._deployment, self.engines)


def _insufficient(solution: Solution, objective: Objective) -> ConfidenceInsufficient:
    sure = "unknown" if solution.confidence is None else f"{solution.confidence:.2f}"
    error = ConfidenceInsufficient(
        f"the answer's confidence is {sure}, which does not reach {objective}; ask for less, or leave "
        "on_insufficient (the command's --refuse) out for the best answer there is"
    )
    error.bill = solution.bill
    return error


def _answer(task: Task, result: Result) -> str | None:
    """Return the answer to show to the caller."""
    return task.extract(result.best.text) if result.best and opaque(task) else result.answer


def _runnable(bundle: Bundle, left_out: dict[Strategy, str]) -> Policy:
    if not left_out:
        return bundle.policy
    for reason in sorted(set(left_out.values())):
        arms = sorted(arm for arm, why in left_out.items() if why == reason)
        shown = ", ".join(map(str, arms[:3])) + (f" and {len(arms) - 3} more" if len(arms) > 3 else "")
        _log.warning("%s: %d arms are left out, since %s: %s", bundle.id, len(arms), reason, shown)
    policy = bundle.policy.only(lambda arm: arm not in left_out)
    if policy is None:
        raise InvalidBundle(f"{bundle.id}: no arm can be run here: {next(iter(left_out.values()))}")
    return policy
