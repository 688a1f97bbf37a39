"""Answers a search's requests from the models.

For every strategy, :func:`drive` keeps the bill, the token caps, the deadline, the final answers of finished solutions
and the progress events. There is only one driver: many searches at once are many ``drive`` calls in one event loop, and
the engine batches what they ask for at the same time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from itertools import count

from router.backends import Asked, Engines, Generator, Usage, Verifier, asks, check_room, prepared
from router.backends.specs import VERIFIER
from router.errors import DeadlineExceeded, InvalidRequest, SearchTooLong, Stopped, TokenCapReached
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.stages import ConfidenceOf, StageEnd, ended, with_confidence
from router.tasks import Allowance, LimitReached, Task, why_none, within
from strategies import AskConfidence, Candidate, Extend, Result, Score, Stage, Strategy
from strategies.confidence import by_score_or_lead

_MARGIN = 0.15  # seconds reserved before a deadline, to send the partial result or the bill in time


class StopReason(Enum):
    """Why a search ended."""

    COMPLETE = "complete"
    TOKEN_CAP = "token_cap"
    DEADLINE = "deadline"
    LONGEST_SEARCH = "longest_search"


@dataclass(frozen=True, slots=True)
class Round:
    """Progress after one answered request. ``answer`` and ``share``: the leading answer so far, None and 0 at first.

    model       the model that wrote; None where the verifier scored
    stage       number of a cascade's stage, from 1; 1 for every other arm
    confidence  confidence in the best answer of the earlier stages; None in the first
    candidates  the candidates that answered the request
    """

    number: int
    alive: int
    finished: int
    generated_tokens: int
    scored_tokens: int
    answer: str | None
    share: float
    model: str | None = None
    stage: int = 1
    confidence: float | None = None
    candidates: Sequence[Candidate] = field(default=(), repr=False, compare=False)


async def drive(
    arm: Strategy,
    request: Request,
    engines: Engines,
    task: Task,
    bill: Bill,
    *,
    allowance: Allowance | None = None,
    confidence_of: ConfidenceOf = by_score_or_lead,
) -> AsyncGenerator[Round | StageEnd | tuple[Result, StopReason], None]:
    """Run one search; yield a Round for each request of it, then the result and why it ended.

    task       the task of this request, bound to its inputs; ``request.inputs`` is not read here, and ``request.task``
               only names the task, for verifiers that are calibrated by task
    allowance  limits the cost of comparing answers, and counts answers compared as text; None: the limits of every call
    confidence_of    gives confidences; the returned solution carries that of its answer

    Raises InvalidRequest where the arm asks for a model that is not served.
    """
    for model in arm.models:
        if engines.of(model) is None:
            raise InvalidRequest(
                "options.arm",
                f"the arm {arm} asks the model {model!r}, which is not served; served are {', '.join(engines.models)}",
                reason="ARM_INVALID",
            )
    search = arm.search()
    limited = _Limited(arm, request, engines, task, bill, allowance=allowance or Allowance())
    finished: list[Candidate] = []
    candidates: list[Candidate] = []
    stage, confidence = 1, None
    numbers = count(1)
    try:
        wanted = next(search)
        while True:
            if isinstance(wanted, AskConfidence):
                answers = with_confidence(wanted, confidence_of)
                stage_end = ended(wanted, answers, stage)
                stage, confidence = stage + 1, stage_end.confidence
                yield stage_end
                wanted = search.send(answers)
                continue
            candidates = await limited.fulfil(wanted)
            # Lookahead's rollouts (greedy, a few steps) are thrown away: they are not solutions of the search.
            if isinstance(wanted, Extend) and not (wanted.steps and wanted.temperature == 0):
                finished += [
                    new
                    for old, new in zip(wanted.candidates, candidates, strict=True)
                    if new.finished and not old.finished
                ]
            model = (wanted.model or engines.reference) if isinstance(wanted, Extend) else None
            progress = _round(next(numbers), candidates, finished, bill, model)
            yield replace(progress, stage=stage, confidence=confidence)
            wanted = search.send(candidates)
    except StopIteration as done:
        result: Result = done.value
    finally:
        search.close()
    if limited.stop is not StopReason.COMPLETE and not request.allow_partial:
        raise _stopped(limited.stop, bill)
    if result.best and result.best.confidence is None and not result.stages:
        (best,) = with_confidence(AskConfidence((Stage(arm, result),)), confidence_of)
        result = replace(result, best=best)
    if result.best is None:
        result = replace(result, unanswered=_best_unanswered(result.candidates or finished or candidates))
    yield result, limited.stop


def margin(seconds: float) -> float:
    """Return how many of the seconds that a search may take are reserved to send its end in time."""
    return min(_MARGIN, 0.2 * seconds)


def _round(
    number: int, candidates: Sequence[Candidate], finished: list[Candidate], bill: Bill, model: str | None
) -> Round:
    votes = Counter(candidate.answer for candidate in finished if candidate.answer is not None)
    answer, supporters = votes.most_common(1)[0] if votes else (None, 0)
    return Round(
        number,
        alive=sum(candidate.end is None for candidate in candidates),
        finished=len(finished),
        generated_tokens=bill.generated_tokens,
        scored_tokens=bill.scored_tokens,
        answer=answer,
        share=supporters / votes.total() if votes else 0.0,
        model=model,
        candidates=candidates,
    )


def _best_unanswered(candidates: Sequence[Candidate]) -> Candidate | None:
    """Choose the text to show if no candidate has an answer: the best scored, else a finished one, else the longest."""
    written = [candidate for candidate in candidates if candidate.steps]
    return max(written, key=lambda each: (each.score or 0.0, each.finished, len(each.text)), default=None)


def _stopped(stop: StopReason, bill: Bill) -> Stopped:
    advice = "set allow_partial to get what was found by then, or give it more"
    error: Stopped
    if stop is StopReason.DEADLINE:
        error = DeadlineExceeded(f"the deadline ended the search; {advice} time")
    elif stop is StopReason.LONGEST_SEARCH:
        error = SearchTooLong(
            "the search took as long as this server lets one take (see serve --longest-search); set allow_partial to "
            "get what was found by then, or ask for less"
        )
    else:
        error = TokenCapReached(f"a token cap ended the search; {advice} tokens")
    error.bill = bill
    return error


class _Limited:
    """Answers one search's requests within its limits.

    compares  whether solutions are compared
    longest_to_score  tokens of the longest solution that may have to be scored; 0 where the arm needs no scores
    margin    seconds reserved before the deadline
    deadline  on time.monotonic's clock, minus the margin; None without one
    late      the stop reason of the tighter limit: the call's own, or the server's limit for every search
    """

    def __init__(
        self, arm: Strategy, request: Request, engines: Engines, task: Task, bill: Bill, *, allowance: Allowance
    ):
        self.request = request
        self.engines = engines
        self.task = task
        self.bill = bill
        self.compares = arm.rows > 1
        longest = [engines.longest.get(name or engines.reference, 0) for name in arm.models]
        longest = [each if request.max_tokens is None else min(each, request.max_tokens) for each in longest]
        self.longest_to_score = max(longest) if arm.needs_scores else 0
        self.verifier: Verifier | None = None  # prepared for this prompt, once it is needed
        self.allowance = allowance
        self.stop = StopReason.COMPLETE
        self.extended = 0  # requests to extend that were answered by a model
        limits = [each for each in (request.seconds, request.longest_search) if each is not None]
        seconds = min(limits, default=None)
        self.late = StopReason.DEADLINE if seconds == request.seconds else StopReason.LONGEST_SEARCH
        self.margin = margin(seconds or 0)
        self.deadline = None if seconds is None else time.monotonic() + seconds - self.margin

    async def fulfil(self, wanted: Extend | Score) -> list[Candidate]:
        started = time.monotonic()
        extends = isinstance(wanted, Extend)
        try:
            async with asyncio.timeout_at(self._give_up_at(started, extends)):
                if self.compares or self.longest_to_score or not extends:
                    await self._prepare()
                candidates = await (self._extend(wanted) if isinstance(wanted, Extend) else self._score(wanted))
        except TimeoutError:
            self.stop = self.late
            candidates = [_cut(each) for each in wanted.candidates] if extends else list(wanted.candidates)
        finally:
            self.bill.seconds["generate" if extends else "score"] += time.monotonic() - started
        return await self._with_answers(candidates)

    async def _extend(self, wanted: Extend) -> list[Candidate]:
        if all(candidate.end for candidate in wanted.candidates):
            return list(wanted.candidates)
        cap = _left(self.request.max_generated_tokens, self.bill.generated_tokens)
        if self.stop is StopReason.COMPLETE and cap == 0:
            self.stop = StopReason.TOKEN_CAP
        if self.stop is not StopReason.COMPLETE:
            return [_cut(candidate) for candidate in wanted.candidates]
        self.extended += 1
        name = wanted.model or self.engines.reference
        model: Generator = self.engines.models[name]
        temperature = self.request.temperature if wanted.temperature is None else wanted.temperature
        # At temperature 0 equal candidates continue equally: only one of them is written and billed.
        different = list(dict.fromkeys(wanted.candidates)) if temperature == 0 else wanted.candidates
        written = await model.extend(
            self.request.prompt,
            different,
            steps=wanted.steps,
            temperature=temperature,
            max_tokens=cap,
            deadline=self.deadline,
            seed=self.request.seed * 1_000_003 + self.extended,
            usage=self.bill.line(name, "generator"),
            longest=self.request.max_tokens,
        )
        candidates = _same_again(wanted.candidates, different, written)
        if any(candidate.end == "cut" for candidate in candidates):
            spent = _left(self.request.max_generated_tokens, self.bill.generated_tokens) == 0
            self.stop = StopReason.TOKEN_CAP if spent else self.late
        return candidates

    async def _prepare(self) -> None:
        """Show the verifier the prompt's task, once: it may write tests for it, which also tell answers apart."""
        if self.verifier is None:
            request, verifier, spent = self.request, self.engines.verifier, Usage()
            asked = Asked(request.prompt, self.task, request.task or "", self._may_generate)
            try:
                self.verifier, self.task = await prepared(verifier, asked, spent)
                if self.longest_to_score:  # now, and not once solutions are written that nothing can score
                    await check_room(self.verifier, request.prompt, self.longest_to_score)
            finally:
                if spent != Usage():
                    self._verifying(verifier).add(**asdict(spent))

    def _may_generate(self) -> int | None:
        return _left(self.request.max_generated_tokens, self.bill.generated_tokens)

    def _verifying(self, verifier: Verifier) -> Usage:
        """Return the line of the bill for a verifier's work."""
        return self.bill.line(asks(verifier) or VERIFIER, "verifier")

    async def _score(self, wanted: Score) -> list[Candidate]:
        if self.stop is self.late:
            return list(wanted.candidates)
        assert self.verifier
        cap = _left(self.request.max_scored_tokens, self.bill.scored_tokens)
        different = list(dict.fromkeys(wanted.candidates)) if self.request.temperature == 0 else wanted.candidates
        scored = await self.verifier.score(
            self.request.prompt, different, max_tokens=cap, usage=self._verifying(self.verifier)
        )
        candidates = _same_again(wanted.candidates, different, scored)
        # A judge is not asked about solutions without an answer: they have no vote.
        asked = asks(self.verifier) is not None
        could = [each for each in candidates if each.steps and (each.answer is not None or not asked)]
        if cap is not None and self.verifier.parameters and any(each.scores is None for each in could):
            self.stop = StopReason.TOKEN_CAP
        return candidates

    async def _with_answers(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Add the final answer to finished candidates, or why there is none. Equal texts are read once."""
        new = [each.end is not None and each.answer is None and not each.no_answer for each in candidates]
        texts = dict.fromkeys(
            each.text for each, is_new in zip(candidates, new, strict=True) if is_new and each.finished
        )
        answers = await self._extract_answers(texts)
        answered = []
        for candidate, is_new in zip(candidates, new, strict=True):
            if not is_new:
                answered.append(candidate)
            elif candidate.finished:
                answer, no_answer = answers[candidate.text]
                answered.append(replace(candidate, answer=answer, no_answer=no_answer))
            else:
                told = f"cut at {candidate.length + candidate.thinking_tokens} tokens"
                told += ", the longest solution" * (candidate.end == "length")
                answered.append(replace(candidate, no_answer=told))
        return answered

    async def _extract_answers(self, texts: Iterable[str]) -> dict[str, tuple[str | None, str]]:
        """Return each solution's answer, or why it has none. An answer not compared in time stays as written."""
        stated = {text: self.task.extract(text) for text in texts}
        found = {text: (_as_written(answer), "") for text, answer in stated.items()}
        keys: dict[str, asyncio.Future[str]] = {}  # one per different answer

        async def find(text: str, answer: str | None) -> None:
            key = ""
            if answer is not None:
                if answer not in keys:
                    keys[answer] = asyncio.ensure_future(self.task.key(answer))
                try:
                    key = await keys[answer]
                except LimitReached:
                    return
            # An answer of decoration only ("$") has no key, so it is no answer.
            found[text] = (key, "") if key else (None, await why_none(self.task, text, answer))

        with within(self.allowance):
            finding = {asyncio.ensure_future(find(*each)): each[1] for each in stated.items()}
        if not finding:
            return {}
        try:
            done, late = await asyncio.wait(finding, timeout=self._comparing_seconds())
        finally:
            for each in finding:
                each.cancel()
            await asyncio.gather(*finding, return_exceptions=True)
        for each in done:
            each.result()  # raises the task's error, if any
        if late:
            self.stop = self.late
            self.allowance.as_text += len({finding[each] for each in late} - {None})
        return found

    def _comparing_seconds(self) -> float | None:
        """Return the seconds left to compare answers, at least a moment.

        Most answers need no more, and a generator may return only at the deadline itself.
        """
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) + self.margin / 4

    def _give_up_at(self, now: float, extends: bool) -> float | None:
        """Return when to give up on an engine that doesn't keep the deadline, early enough to still answer the caller.

        A generator knows the deadline, so it gets a moment more to return what it has; a verifier does not know it.
        """
        if self.deadline is None:
            return None
        loop = asyncio.get_running_loop()
        return loop.time() + max(0.0, self.deadline - now) + (self.margin / 2 if extends else 0.0)


def _same_again(
    candidates: Sequence[Candidate], different: Sequence[Candidate], written: Sequence[Candidate]
) -> list[Candidate]:
    """Return the results of ``candidates``, given those of the ``different`` ones among them."""
    became = dict(zip(different, written, strict=True)) if len(different) < len(candidates) else None
    return [became[each] for each in candidates] if became else list(written)


def _as_written(answer: str | None) -> str | None:
    return " ".join(answer.split()) or None if answer is not None else None


def _left(cap: int | None, spent: int) -> int | None:
    return None if cap is None else max(0, cap - spent)


def _cut(candidate: Candidate) -> Candidate:
    return candidate if candidate.end else replace(candidate, end="cut")
