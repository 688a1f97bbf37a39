"""The driver's promises, for every strategy alike: an exact bill, hard limits, honest results."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from router.backends import Engines, LogProbability, Usage
from router.backends.fake import FakeGenerator, FakeVerifier, calculate
from router.errors import DeadlineExceeded, InvalidRequest, TokenCapReached
from router.policy.objectives import Budget
from router.solving.driver import Bill, Request, Round, Stop, drive
from router.solving.solver import Solution
from strategies import STRATEGIES, BestOfN, Result, Revision, Single, parse

PROMPT = "What is 38 + 47 - 16 + 29 - 12 ?"
ARMS = [
    parse(text)
    for text in (
        "single",
        "majority(n=8)",
        "best_of_n(n=8)",
        "weighted_best_of_n(n=8)",
        "majority(n=8, stop=0.95)",
        "weighted_best_of_n(n=8, stop=0.95)",
        "beam_search(n=8, m=4)",
        "dvts(n=8, m=4)",
        "lookahead(n=8, m=4, k=2)",
        "revision(n=8, chains=2)",
        "larger_model(n=12)",
    )
]
UNSCORED = {"single", "majority", "larger_model"}  # these ask no verifier
every_arm = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.strategy)


@dataclass
class Run:
    """One search on fresh engines. ``bill`` is live, also when the search failed."""

    arm: Strategy
    request: Request
    generator: FakeGenerator
    verifier: FakeVerifier
    bill: Bill
    larger: FakeGenerator

    async def finish(self) -> tuple[list[Round], Result, Stop]:
        *rounds, last = [
            event
            async for event in drive(
                self.arm, self.request, Engines(self.generator, self.verifier, self.larger), self.bill
            )
        ]
        return rounds, *last

    def counted(self) -> Usage:
        mine = (self.larger if self.arm.larger else self.generator).counted
        theirs = self.verifier.counted
        return Usage(mine.prompt_tokens, mine.generated_tokens, theirs.scored_tokens, mine.calls + theirs.calls)

    def billed(self) -> Usage:
        return Usage(self.bill.prompt_tokens, self.bill.generated_tokens, self.bill.scored_tokens, self.bill.calls)


def run(arm: Strategy, *, latency: float = 0.0, verifier_latency: float = 0.0, write=calculate, **request) -> Run:
    return Run(
        arm,
        Request(PROMPT, **request),
        FakeGenerator(write=write, latency=latency),
        FakeVerifier(latency=verifier_latency),
        Bill(generator_parameters=1000, verifier_parameters=500, larger_parameters=11_400),
        FakeGenerator(write=write, latency=latency, parameters=11_400),
    )


def ponder(prompt, path, rng):
    """A model that takes its time: 40 steps, then an answer."""
    return ("Let me think about that.\n" * 40 + "Answer: 86")[len(path.text) :]


def test_every_strategy_is_tested():
    assert {arm.strategy for arm in ARMS} == set(STRATEGIES)


@every_arm
async def test_the_bill_equals_the_engines_own_count(arm):
    search = run(arm)
    _, outcome, stop = await search.finish()
    assert stop is Stop.COMPLETE
    assert search.billed() == search.counted()
    assert search.bill.generated_tokens > 0
    assert (search.bill.scored_tokens > 0) == (arm.strategy not in UNSCORED)
    parameters = 11_400 if arm.larger else 1000
    assert search.bill.generator_flops == 2 * parameters * (search.bill.prompt_tokens + search.bill.generated_tokens)
    assert search.bill.verifier_flops == 2 * 500 * search.bill.scored_tokens
    assert outcome.answer is not None


@every_arm
async def test_every_strategy_finds_the_answer_of_a_model_that_is_never_wrong(arm):
    _, outcome, _ = await run(
        arm, write=lambda prompt, path, rng: "38 + 47 = 85\nAnswer: 86"[len(path.text) :]
    ).finish()
    assert outcome.answer == "86"
    assert outcome.share == pytest.approx(1.0 if arm.strategy != "best_of_n" else 1 / 8)


@every_arm
@pytest.mark.parametrize("cap", [1, 7, 100, 333])
async def test_a_cap_on_generated_tokens_is_never_passed(arm, cap):
    search = run(arm, max_generated_tokens=cap, allow_partial=True, write=ponder)
    _, _, stop = await search.finish()
    assert stop is Stop.TOKEN_CAP
    assert search.bill.generated_tokens == cap
    assert search.billed() == search.counted()


@pytest.mark.parametrize("cap", [1, 50, 200, 333])
@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.strategy not in UNSCORED], ids=str)
async def test_a_cap_on_scored_tokens_is_never_passed(arm, cap):
    search = run(arm, max_scored_tokens=cap, allow_partial=True, write=ponder)
    _, _, stop = await search.finish()
    assert stop is Stop.TOKEN_CAP
    assert search.bill.scored_tokens <= cap
    assert search.billed() == search.counted()


@every_arm
async def test_a_cap_that_is_not_reached_changes_nothing(arm):
    free, capped = run(arm), run(arm, max_generated_tokens=10**6, max_scored_tokens=10**6)
    assert await free.finish() == await capped.finish()


@every_arm
@pytest.mark.parametrize(("generating", "scoring"), [(0.001, 0.0), (0.0, 10.0)])
async def test_cancelling_frees_the_engine_and_leaves_an_exact_bill(arm, generating, scoring):
    if scoring and arm.strategy in UNSCORED:
        generating = 0.001
    search = run(arm, latency=generating, verifier_latency=scoring, write=ponder)
    task = asyncio.create_task(search.finish())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_once = search.counted()
    await asyncio.sleep(0.02)
    assert search.billed() == search.counted() == at_once
    assert search.bill.generated_tokens > 0


@every_arm
@pytest.mark.parametrize(("generating", "scoring"), [(0.001, 0.0), (0.001, 0.01)])
async def test_a_deadline_returns_what_there_is_in_time(arm, generating, scoring):
    started = time.monotonic()
    search = run(arm, latency=generating, verifier_latency=scoring, write=ponder, seconds=0.2, allow_partial=True)
    _, outcome, stop = await search.finish()
    assert time.monotonic() - started < 1.0  # with room for a busy machine; that it is kept is what ``stop`` says
    assert stop is Stop.DEADLINE
    assert search.billed() == search.counted()
    assert outcome.answer is None


@every_arm
async def test_a_deadline_holds_for_an_engine_that_ignores_it(arm):
    class Stubborn(FakeGenerator):
        async def extend(self, prompt, paths, **options):
            return await super().extend(prompt, paths, **{**options, "deadline": None})

    search = run(arm, seconds=0.2, allow_partial=True)
    search.generator, search.larger = (
        Stubborn(write=ponder, latency=0.001, parameters=parameters) for parameters in (1000, 11_400)
    )
    started = time.monotonic()
    _, _, stop = await search.finish()
    assert time.monotonic() - started < 1.0  # with room for a busy machine; that it is kept is what ``stop`` says
    assert stop is Stop.DEADLINE
    assert search.billed() == search.counted()


@every_arm
@pytest.mark.parametrize(
    ("limit", "error"),
    [({"max_generated_tokens": 50}, TokenCapReached), ({"seconds": 0.1}, DeadlineExceeded)],
    ids=["cap", "deadline"],
)
async def test_without_allow_partial_a_limit_is_an_error_with_the_bill(arm, limit, error):
    search = run(arm, write=ponder, latency=0.001, **limit)
    with pytest.raises(error) as raised:
        await search.finish()
    assert raised.value.bill is search.bill
    assert search.billed() == search.counted()
    assert search.bill.generated_tokens > 0


async def test_a_partial_result_still_has_the_answers_found_by_then():
    # Attempt after attempt takes 21 tokens: the cap falls into the third.
    search = run(
        Revision(n=4, chains=1),
        write=lambda prompt, path, rng: "Answer: 86",
        max_generated_tokens=25,
        allow_partial=True,
    )
    _, outcome, stop = await search.finish()
    assert stop is Stop.TOKEN_CAP
    assert outcome.answer == "86"
    assert [path.finished for path in outcome.candidates] == [True, True, False, False]


@every_arm
async def test_equal_seeds_reproduce(arm):
    def guess(prompt, path, rng):
        return f"Answer: {rng.randrange(1000)}"

    result = await run(arm, seed=1, write=guess).finish()
    assert result == await run(arm, seed=1, write=guess).finish()
    others = [await run(arm, seed=seed, write=guess).finish() for seed in (2, 3, 4)]
    assert all(other == result for other in others) == (arm.strategy in {"single", "larger_model"})  # greedy


@every_arm
@pytest.mark.parametrize("text", ["I don't know.", "hm\nhm\n", ""], ids=["one step", "steps", "nothing"])
async def test_a_model_that_never_answers_is_an_honest_no_answer(arm, text):
    search = run(arm, write=lambda prompt, path, rng: text[len(path.text) :])
    _, outcome, stop = await search.finish()
    assert (outcome.best, outcome.answer, outcome.share, stop) == (None, None, 0.0, Stop.COMPLETE)
    assert search.billed() == search.counted()
    assert search.bill.generated_tokens > 0


@every_arm
async def test_a_model_that_never_stops_is_cut_and_has_no_say(arm):
    search = run(arm, write=lambda prompt, path, rng: "Answer: 5\n" * 1000)
    _, outcome, _ = await search.finish()
    assert outcome.answer is None
    assert not any(path.finished for path in outcome.candidates)


@every_arm
async def test_rounds_count_up_to_the_bill(arm):
    search = run(arm)
    rounds, _, _ = await search.finish()
    assert [progress.number for progress in rounds] == list(range(1, len(rounds) + 1))
    spent = [(progress.generated_tokens, progress.scored_tokens) for progress in rounds]
    assert spent == sorted(spent)
    assert spent[-1] == (search.bill.generated_tokens, search.bill.scored_tokens)
    assert (rounds[-1].alive, rounds[-1].finished >= 1, rounds[-1].answer is not None) == (0, True, True)


async def test_the_log_probability_verifier_costs_nothing():
    search = run(BestOfN(n=8))
    search.verifier = LogProbability()
    _, outcome, _ = await search.finish()
    assert search.bill.scored_tokens == 0
    assert all(len(path.scores) == len(path.steps) for path in outcome.candidates)
    assert all(0 < score < 1 for path in outcome.candidates for score in path.scores)


async def test_concurrent_searches_have_separate_bills(solver):
    requests = [
        Request("7 + 7 =", seed=1),
        Request("7 + 7 + 7 + 7 + 7 + 7 =", seed=2, objective=Budget(16)),
        Request("7 + 7 ="),
    ]
    together = await asyncio.gather(*map(solver.solve, requests))
    alone = [await solver.solve(request) for request in requests]

    def spent(solution: Solution) -> tuple[int, int, int]:
        return solution.bill.prompt_tokens, solution.bill.generated_tokens, solution.bill.scored_tokens

    assert [(s.outcome, spent(s)) for s in together] == [(s.outcome, spent(s)) for s in alone]


async def test_an_embedding_for_the_prediction_is_on_the_bill(solver, generator):
    class Constant:
        input = "embedding"

        def probabilities(self, hidden):
            assert hidden == [7.0, 2.0, 2.0]
            return [0.1, 0.6, 0.1, 0.1, 0.1]

    object.__setattr__(solver.bundle, "difficulty", Constant())
    bill = solver.new_bill()
    decision = await solver.decide(Request("7 + 7 ="), bill)
    assert (decision.level, bill.prompt_tokens, bill.calls) == (2, 7, 1)


async def test_the_larger_model_writes_and_its_tokens_cost_more():
    search = run(Single(model="large"))
    _, outcome, _ = await search.finish()
    assert outcome.answer == "86"
    assert search.generator.counted == Usage()
    bill = search.bill
    assert bill.larger_tokens == bill.prompt_tokens + bill.generated_tokens > 0
    assert bill.generator_flops == 2 * 11_400 * bill.larger_tokens


async def test_tokens_of_the_generator_itself_keep_their_price_beside_the_larger_one():
    search = run(Single(model="large"))
    search.bill.prompt_tokens = 10  # what predicting the level from hidden states took
    await search.finish()
    own, larger = 10, search.bill.larger_tokens
    assert search.bill.generator_flops == 2 * (1000 * own + 11_400 * larger)


@pytest.mark.parametrize(
    ("n", "larger", "message"),
    [(12, None, "no larger model is served"), (11, 11_400, r"12 times .* ask for larger_model\(n=12\)")],
)
async def test_a_larger_model_that_is_not_there_is_refused(n, larger, message):
    search = run(Single(model="large"))
    search.larger = FakeGenerator(parameters=larger) if larger else None
    with pytest.raises(InvalidRequest, match=message):
        await search.finish()
    assert search.billed() == Usage()
