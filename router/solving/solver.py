"""Prompt → level → arm → search → answer, with the bill."""

import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from router.backends import Engines, Generator, Usage, Verifier
from router.bundle.bundle import Bundle
from router.errors import InvalidRequest
from router.policy.table import Expectation, Objective
from router.solving.driver import Bill, Request, Round, Stop, drive, new_bill
from strategies import Arm, Outcome

LONGEST_PROMPT = 8_000  # characters
LARGEST_BUDGET = 256  # solutions' worth that a caller may pin: the largest that Snell et al. measure


@dataclass(frozen=True, slots=True)
class Decision:
    """``probabilities`` are of levels 1 to 5 and sum to 1, ``level`` is the likeliest.

    expectation  what the choice promises; None when the caller pinned the arm
    propensity   the arm's probability of being chosen for this prompt: below 1 only where arms are explored
    objective    what was decided for; None when the caller pinned the arm
    choice       the arm that the policy chose; ``arm`` may be another, drawn to explore. None when the caller pinned it
    explore      share of decisions that were drawn when this one was made
    levels_by    digest of the difficulty model: levels mean something only under the one that predicted them
    """

    level: int
    probabilities: tuple[float, ...]
    arm: Arm
    expectation: Expectation | None
    bundle_id: str
    propensity: float = 1.0
    objective: Objective | None = None
    choice: Arm | None = None
    explore: float = 0.0
    levels_by: str = ""


@dataclass(frozen=True, slots=True)
class Solution:
    decision: Decision
    outcome: Outcome
    bill: Bill
    stop: Stop


class Solver:
    """A bundle and the engines that it was measured on, ready to answer prompts.

    explore  share of decisions whose arm is drawn evenly from the policy's arms within the budget, to learn from
    """

    def __init__(
        self,
        bundle: Bundle,
        generator: Generator,
        verifier: Verifier,
        larger: Generator | None = None,
        *,
        explore: float = 0.0,
    ):
        self.explore = explore
        self.bundle = bundle
        self.engines = Engines(generator, verifier, larger)

    async def decide(self, request: Request, usage: Usage | None = None) -> Decision:
        """Predict the level, choose the arm; what that spends is added to ``usage``. Raises InvalidRequest."""
        validate(request)
        policy = self.bundle.policy
        objective = request.objective or policy.default
        policy.check(objective)  # a bad objective is an error also where the arm is pinned
        difficulty = self.bundle.difficulty
        prompts = [request.prompt]
        usage = Usage() if usage is None else usage
        features = prompts if difficulty.input == "text" else await self.engines.generator.embed(prompts, usage=usage)
        probabilities = tuple(difficulty.probabilities(features[0]))
        level = 1 + probabilities.index(max(probabilities))
        levels_by = self.bundle.levels_by
        if request.arm:
            return Decision(level, probabilities, request.arm, None, self.bundle.id, levels_by=levels_by)
        expectation = policy.decide(probabilities, objective)
        decision = Decision(
            level,
            probabilities,
            expectation.arm,
            expectation,
            self.bundle.id,
            objective=objective,
            choice=expectation.arm,
            explore=self.explore,
            levels_by=levels_by,
        )
        return self._explored(decision, objective.value if objective.kind == "budget" else policy.largest)

    def _explored(self, decision: Decision, budget: float) -> Decision:
        if not self.explore:
            return decision
        arms = sorted({arm for arm in self.bundle.policy.arms if arm.budget <= budget} | {decision.arm})
        arm = random.choice(arms) if random.random() < self.explore else decision.arm
        propensity = self.explore / len(arms) + (1 - self.explore) * (arm == decision.arm)
        expectation = decision.expectation if arm == decision.arm else None
        return replace(decision, arm=arm, expectation=expectation, propensity=propensity)

    async def solve(self, request: Request, bill: Bill | None = None) -> Solution:
        """Decide and run; see :meth:`stream`."""
        async with aclosing(self.stream(request, bill)) as events:
            async for event in events:
                if isinstance(event, Solution):
                    return event
        raise AssertionError("a stream ends with its solution")

    async def stream(
        self, request: Request, bill: Bill | None = None
    ) -> AsyncGenerator[Decision | Round | Solution, None]:
        """Yield the Decision, a Round after each answered ask, the Solution last.

        ``bill`` may be given to read what was spent also when this is cancelled. Raises InvalidRequest,
        DeadlineExceeded, TokenCapReached (both with ``.bill``), EngineUnavailable.
        """
        bill = self.new_bill() if bill is None else bill
        started = time.monotonic()
        decision = await self.decide(request, bill)
        bill.seconds["route"] += time.monotonic() - started
        yield decision
        if request.seconds is not None:
            request = replace(request, seconds=request.seconds - (time.monotonic() - started))
        async with aclosing(drive(decision.arm, request, self.engines, bill)) as events:
            async for event in events:
                if isinstance(event, Round):
                    yield event
                else:
                    outcome, stop = event
                    yield Solution(decision, outcome, bill, stop)

    def new_bill(self) -> Bill:
        return new_bill(self.engines)


def validate(request: Request) -> None:
    """Raises InvalidRequest naming the first wrong field."""
    if not request.prompt.strip():
        raise InvalidRequest("prompt", "prompt is empty; send the problem's text", reason="PROMPT_EMPTY")
    if len(request.prompt) > LONGEST_PROMPT:
        raise InvalidRequest(
            "prompt",
            f"prompt has {len(request.prompt)} characters; at most {LONGEST_PROMPT} are accepted",
            reason="PROMPT_TOO_LONG",
        )
    if request.arm and request.arm.budget > LARGEST_BUDGET:
        raise InvalidRequest(
            "options.arm.n",
            f"{request.arm} may spend {request.arm.budget} solutions; at most {LARGEST_BUDGET} are accepted",
            reason="ARM_INVALID",
        )
    for name in ("max_generated_tokens", "max_scored_tokens"):
        cap = getattr(request, name)
        if cap is not None and cap < 1:
            raise InvalidRequest(name, f"{name} must be at least 1; leave it out for no cap", reason="CAP_OUT_OF_RANGE")
