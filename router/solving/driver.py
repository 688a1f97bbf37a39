"""Answers a strategy's asks from the engines.

For every strategy alike :func:`drive` owns the bill, the token caps, the deadline, the final answers of finished paths
and the progress events. There is one driver: many searches run at once are many ``drive`` calls in one event loop, and
the engine batches what they ask at the same time.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count

from router.backends import Engines, Usage, times_larger
from router.errors import DeadlineExceeded, InvalidRequest, RouterError, TokenCapReached
from router.policy.table import Objective
from router.tasks import math as answers
from strategies import Arm, Extend, Outcome, Path, Score

_MARGIN = 0.15  # seconds kept back from a deadline, to send the partial result or the bill in time


class Stop(Enum):
    """Why a search ended."""

    COMPLETE = "complete"
    TOKEN_CAP = "token_cap"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for. None is the bundle's default.

    objective             what the arm is chosen for
    arm                   run this arm instead of the policy's choice
    max_generated_tokens, max_scored_tokens  hard caps, never passed
    seconds               time left for the whole call
    allow_partial         when a cap or the deadline ends the search, return what was found instead of an error
    """

    prompt: str
    objective: Objective | None = None
    arm: Arm | None = None
    max_generated_tokens: int | None = None
    max_scored_tokens: int | None = None
    seconds: float | None = None
    seed: int = 0
    allow_partial: bool = False


@dataclass(slots=True)
class Bill(Usage):
    """Usage with what it means in FLOPs (2 * parameters * tokens) and in seconds by phase: route, generate, score.

    larger_tokens  how many of the prompt and generated tokens were the larger model's
    """

    generator_parameters: int = 0
    verifier_parameters: int = 0
    larger_parameters: int = 0
    larger_tokens: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def generator_flops(self) -> float:
        own = self.prompt_tokens + self.generated_tokens - self.larger_tokens
        return 2.0 * (self.generator_parameters * own + self.larger_parameters * self.larger_tokens)

    @property
    def verifier_flops(self) -> float:
        return 2.0 * self.verifier_parameters * self.scored_tokens


@dataclass(frozen=True, slots=True)
class Round:
    """Progress after one answered ask. ``answer`` and ``share``: the leading answer so far, None and 0 at first."""

    number: int
    alive: int
    finished: int
    generated_tokens: int
    scored_tokens: int
    answer: str | None
    share: float


def new_bill(engines: Engines) -> Bill:
    return Bill(
        generator_parameters=engines.generator.parameters,
        verifier_parameters=engines.verifier.parameters,
        larger_parameters=engines.larger.parameters if engines.larger else 0,
    )


async def drive(
    arm: Arm, request: Request, engines: Engines, bill: Bill
) -> AsyncGenerator[Round | tuple[Outcome, Stop], None]:
    """Run one search; yield a Round an ask, then the outcome and why it ended.

    Raises InvalidRequest where the arm is larger_model, and no such model is there or it has another size.
    """
    if arm.larger:
        _check_larger(arm, engines)
    search = arm.search()
    limited = _Limited(request, engines, bill, larger=arm.larger)
    finished: list[Path] = []
    try:
        ask = next(search)
        for number in count(1):
            paths = await limited.answer(ask)
            # Rollouts that lookahead throws away (greedy, a few steps) are no solutions of the search.
            if isinstance(ask, Extend) and not (ask.steps and ask.temperature == 0):
                finished += [
                    new for old, new in zip(ask.paths, paths, strict=True) if new.finished and not old.finished
                ]
            yield _round(number, paths, finished, bill)
            ask = search.send(paths)
    except StopIteration as done:
        outcome: Outcome = done.value
    finally:
        search.close()
    if limited.stop is not Stop.COMPLETE and not request.allow_partial:
        raise _stopped(limited.stop, bill)
    yield outcome, limited.stop


def _check_larger(arm: Arm, engines: Engines) -> None:
    if engines.larger is None:
        raise InvalidRequest(
            "options.arm.strategy", "no larger model is served; choose another strategy", reason="ARM_INVALID"
        )
    times = times_larger(engines.larger.parameters, engines.generator.parameters)
    if arm.n != times:
        raise InvalidRequest(
            "options.arm.n",
            f"the larger model has {times} times the generator's parameters; ask for larger_model(n={times})",
            reason="ARM_INVALID",
        )


def _round(number: int, paths: Sequence[Path], finished: list[Path], bill: Bill) -> Round:
    votes = Counter(path.answer for path in finished if path.answer is not None)
    answer, supporters = votes.most_common(1)[0] if votes else (None, 0)
    return Round(
        number,
        alive=sum(path.end is None for path in paths),
        finished=len(finished),
        generated_tokens=bill.generated_tokens,
        scored_tokens=bill.scored_tokens,
        answer=answer,
        share=supporters / votes.total() if votes else 0.0,
    )


def _stopped(stop: Stop, bill: Bill) -> RouterError:
    advice = "set allow_partial to get what was found by then, or give it more"
    error = (
        DeadlineExceeded(f"the deadline ended the search; {advice} time")
        if stop is Stop.DEADLINE
        else TokenCapReached(f"a token cap ended the search; {advice} tokens")
    )
    error.bill = bill
    return error


class _Limited:
    """Answers one search's asks within its limits; ``larger``: by the larger model.

    Past a limit nothing is extended any more: open paths come back cut, which ends any search by itself.
    """

    def __init__(self, request: Request, engines: Engines, bill: Bill, *, larger: bool):
        self.request = request
        self.generator = engines.larger if larger and engines.larger else engines.generator
        self.larger = larger
        self.verifier = engines.verifier
        self.bill = bill
        self.stop = Stop.COMPLETE
        self.calls = 0
        # The margin must not eat a short deadline whole.
        self.margin = min(_MARGIN, 0.2 * (request.seconds or 0))
        self.deadline = None if request.seconds is None else time.monotonic() + request.seconds - self.margin

    async def answer(self, ask: Extend | Score) -> list[Path]:
        started = time.monotonic()
        try:
            async with asyncio.timeout_at(self._guard(started, ask)):
                paths = await (self._extend(ask) if isinstance(ask, Extend) else self._score(ask))
        except TimeoutError:
            self.stop = Stop.DEADLINE
            paths = [_cut(path) for path in ask.paths] if isinstance(ask, Extend) else list(ask.paths)
        finally:
            self.bill.seconds["generate" if isinstance(ask, Extend) else "score"] += time.monotonic() - started
        return [await _answered(path) for path in paths]

    async def _extend(self, ask: Extend) -> list[Path]:
        if all(path.end for path in ask.paths):
            return list(ask.paths)
        cap = _left(self.request.max_generated_tokens, self.bill.generated_tokens)
        if self.stop is Stop.COMPLETE and cap == 0:
            self.stop = Stop.TOKEN_CAP
        if self.stop is not Stop.COMPLETE:
            return [_cut(path) for path in ask.paths]
        self.calls += 1
        before = self.bill.prompt_tokens + self.bill.generated_tokens
        try:
            paths = await self.generator.extend(
                self.request.prompt,
                ask.paths,
                steps=ask.steps,
                temperature=ask.temperature,
                max_tokens=cap,
                deadline=self.deadline,
                seed=self.request.seed * 1_000_003 + self.calls,
                usage=self.bill,
            )
        finally:
            if self.larger:
                self.bill.larger_tokens += self.bill.prompt_tokens + self.bill.generated_tokens - before
        if any(path.end == "cut" for path in paths):
            spent = _left(self.request.max_generated_tokens, self.bill.generated_tokens) == 0
            self.stop = Stop.TOKEN_CAP if spent else Stop.DEADLINE
        return paths

    async def _score(self, ask: Score) -> list[Path]:
        if self.stop is Stop.DEADLINE:
            return list(ask.paths)
        cap = _left(self.request.max_scored_tokens, self.bill.scored_tokens)
        paths = await self.verifier.score(self.request.prompt, ask.paths, max_tokens=cap, usage=self.bill)
        if cap is not None and any(path.scores is None and path.steps for path in paths):
            self.stop = Stop.TOKEN_CAP
        return paths

    def _guard(self, now: float, ask: Extend | Score) -> float | None:
        """When to give up on an engine that does not keep the deadline itself: in time to still answer the caller.

        A generator knows the deadline, and gets a moment to come back with what it has; a verifier does not know it.
        """
        if self.deadline is None:
            return None
        loop = asyncio.get_running_loop()
        return loop.time() + max(0.0, self.deadline - now) + (self.margin / 2 if isinstance(ask, Extend) else 0.0)


def _left(cap: int | None, spent: int) -> int | None:
    return None if cap is None else max(0, cap - spent)


def _cut(path: Path) -> Path:
    return path if path.end else replace(path, end="cut")


async def _answered(path: Path) -> Path:
    if not path.finished or path.answer is not None:
        return path
    stated = answers.find(path.text)
    # An answer of decoration only ("$") has no canonical form and is no answer.
    return path if stated is None else replace(path, answer=await answers.canonical(stated) or None)
