"""The driver's promises, for every strategy alike: an exact bill, hard limits, honest results."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator, FakeVerifier, calculate
from router.backends.log_probability import LogProbability
from router.backends.specs import VERIFIER
from router.errors import DeadlineExceeded, InvalidRequest, TokenCapReached
from router.policy.objectives import Budget
from router.prompt import Prompt
from router.solving.bill import Bill, Rate
from router.solving.driver import Round, StopReason, drive
from router.solving.features import features_of
from router.solving.request import Request
from router.solving.solver import Solution
from router.tasks import load_task
from strategies import STRATEGIES, BestOfN, Cascade, Result, Revision, Single, Strategy, parse
from tests.support.searches import finished

PROMPT = Prompt.of("What is 38 + 47 - 16 + 29 - 12 ?")
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
        "repair(n=8)",
        "single(model=large)",
        "majority(n=8, model=large) @1 > beam_search(n=8, m=4)",
    )
]
RATES = {"small": Rate(1000), "large": Rate(11_400), VERIFIER: Rate(500)}
UNSCORED = {arm for arm in ARMS if arm.name in {"single", "majority"}}  # these ask no verifier
every_arm = pytest.mark.parametrize("arm", ARMS, ids=str)


@dataclass
class Run:
    """One search on fresh engines. ``bill`` is live, also when the search failed."""

    arm: Strategy
    request: Request
    engines: Engines
    bill: Bill

    async def finish(self) -> tuple[list[Round], Result, StopReason]:
        return await finished(drive(self.arm, self.request, self.engines, load_task("math"), self.bill))

    def counted(self) -> dict[tuple[str, str], Usage]:
        """What each model counted by itself, as the bill has it."""
        engines: Any = self.engines  # fakes, which count
        writers = {(name, "generator"): model.counted for name, model in engines.models.items()}
        counted = writers | {(VERIFIER, "verifier"): engines.verifier.counted}
        return {line: replace(usage) for line, usage in counted.items() if usage != Usage()}

    def billed(self) -> dict[tuple[str, str], Usage]:
        return {line: replace(usage) for line, usage in self.bill.lines.items() if usage != Usage()}


def run(arm: Strategy, *, latency: float = 0.0, verifier_latency: float = 0.0, write=calculate, **request) -> Run:
    models = {
        name: FakeGenerator(write=write, latency=latency, parameters=RATES[name].parameters)
        for name in ("small", "large")
    }
    engines = Engines(models, "small", FakeVerifier(latency=verifier_latency))
    return Run(arm, Request(PROMPT, **request), engines, Bill(RATES))


def ponder(prompt, candidate, rng):
    """A model that takes its time: 40 steps, then an answer."""
    return ("Let me think about that.\n" * 40 + "Answer: 86")[len(candidate.text) :]


def test_every_strategy_is_tested():
    assert {arm.name for arm in ARMS} == {*STRATEGIES, Cascade.name}


@every_arm
async def test_the_bill_equals_the_engines_own_count(arm):
    search = run(arm)
    _, result, stop = await search.finish()
    assert stop is StopReason.COMPLETE
    assert search.billed() == search.counted()
    assert search.bill.generated_tokens > 0
    assert (search.bill.scored_tokens > 0) == (arm not in UNSCORED)
    models = {model or "small" for model in arm.models}
    writers = [search.bill.line(model, "generator") for model in sorted(models)]
    assert {model for model, role in search.bill.lines if role == "generator"} == models
    read = [usage.prompt_tokens + usage.generated_tokens for usage in writers]
    flops = sum(2 * RATES[model].parameters * tokens for model, tokens in zip(sorted(models), read, strict=True))
    assert search.bill.flops(role="generator") == flops
    assert search.bill.flops(role="verifier") == 2 * 500 * search.bill.scored_tokens
    assert search.bill.flops() == search.bill.flops(role="generator") + search.bill.flops(role="verifier")
    assert search.bill.money is None
    assert result.answer is not None


@every_arm
async def test_every_strategy_finds_the_answer_of_a_model_that_is_never_wrong(arm):
    _, result, _ = await run(
        arm, write=lambda prompt, candidate, rng: "38 + 47 = 85\nAnswer: 86"[len(candidate.text) :]
    ).finish()
    assert result.answer == "86"
    assert result.share == pytest.approx(1 / 8 if arm.name in {"best_of_n", "repair"} else 1.0)


@every_arm
@pytest.mark.parametrize("cap", [1, 7, 100, 333])
async def test_a_cap_on_generated_tokens_is_never_passed(arm, cap):
    search = run(arm, max_generated_tokens=cap, allow_partial=True, write=ponder)
    _, _, stop = await search.finish()
    assert stop is StopReason.TOKEN_CAP
    assert search.bill.generated_tokens == cap
    assert search.billed() == search.counted()


@pytest.mark.parametrize("cap", [1, 50, 200, 333])
@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in UNSCORED], ids=str)
async def test_a_cap_on_scored_tokens_is_never_passed(arm, cap):
    search = run(arm, max_scored_tokens=cap, allow_partial=True, write=ponder)
    _, _, stop = await search.finish()
    assert stop is StopReason.TOKEN_CAP
    assert search.bill.scored_tokens <= cap
    assert search.billed() == search.counted()


@every_arm
async def test_a_cap_that_is_not_reached_changes_nothing(arm):
    free, capped = run(arm), run(arm, max_generated_tokens=10**6, max_scored_tokens=10**6)
    assert await free.finish() == await capped.finish()


@every_arm
@pytest.mark.parametrize(("generating", "scoring"), [(0.001, 0.0), (0.0, 10.0)])
async def test_cancelling_frees_the_engine_and_leaves_an_exact_bill(arm, generating, scoring):
    if scoring and arm in UNSCORED:
        generating = 0.001
    search = run(arm, latency=generating, verifier_latency=scoring, write=ponder)
    task = asyncio.create_task(search.finish())
    while not search.bill.generated_tokens:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
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
    _, result, stop = await search.finish()
    assert time.monotonic() - started < 20  # with room for a busy machine; that it is kept is what ``stop`` says
    assert stop is StopReason.DEADLINE
    assert search.billed() == search.counted()
    assert result.answer is None


@every_arm
async def test_a_deadline_holds_for_an_engine_that_ignores_it(arm):
    class Stubborn(FakeGenerator):
        async def extend(self, prompt, candidates, **options):
            return await super().extend(prompt, candidates, **{**options, "deadline": None})

    search = run(arm, seconds=0.2, allow_partial=True)
    stubborn = {name: Stubborn(write=ponder, latency=0.001) for name in search.engines.models}
    search.engines = replace(search.engines, models=stubborn)
    started = time.monotonic()
    _, _, stop = await search.finish()
    assert time.monotonic() - started < 20  # with room for a busy machine; that it is kept is what ``stop`` says
    assert stop is StopReason.DEADLINE
    assert search.billed() == search.counted()


@every_arm
@pytest.mark.parametrize(
    ("limit", "error"),
    [({"max_generated_tokens": 50}, TokenCapReached), ({"seconds": 0.3}, DeadlineExceeded)],
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
        write=lambda prompt, candidate, rng: "Answer: 86",
        max_generated_tokens=25,
        allow_partial=True,
    )
    _, result, stop = await search.finish()
    assert stop is StopReason.TOKEN_CAP
    assert result.answer == "86"
    assert [candidate.finished for candidate in result.candidates] == [True, True, False, False]


@every_arm
async def test_equal_seeds_reproduce(arm):
    def guess(prompt, candidate, rng):
        return f"Answer: {rng.randrange(1000)}"

    result = await run(arm, seed=1, write=guess).finish()
    assert result == await run(arm, seed=1, write=guess).finish()
    others = [await run(arm, seed=seed, write=guess).finish() for seed in (2, 3, 4)]
    assert all(other == result for other in others) == (arm.name == "single")  # greedy


@every_arm
@pytest.mark.parametrize("text", ["I don't know.", "hm\nhm\n", ""], ids=["one step", "steps", "nothing"])
async def test_a_model_that_never_answers_is_an_honest_no_answer(arm, text):
    search = run(arm, write=lambda prompt, candidate, rng: text[len(candidate.text) :])
    _, result, stop = await search.finish()
    assert (result.best, result.answer, result.share, stop) == (None, None, 0.0, StopReason.COMPLETE)
    assert search.billed() == search.counted()
    assert search.bill.generated_tokens > 0


@every_arm
async def test_a_model_that_never_stops_is_cut_and_has_no_say(arm):
    search = run(arm, write=lambda prompt, candidate, rng: "Answer: 5\n" * 1000)
    _, result, _ = await search.finish()
    assert result.answer is None
    assert not any(candidate.finished for candidate in result.candidates)


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
    search.engines = replace(search.engines, verifier=LogProbability())
    _, result, _ = await search.finish()
    assert search.bill.scored_tokens == 0
    assert all(len(candidate.scores or ()) == len(candidate.steps) for candidate in result.candidates)
    assert all(0 < score < 1 for candidate in result.candidates for score in candidate.scores)


async def test_concurrent_searches_have_separate_bills(solver):
    requests = [
        Request(Prompt.of("7 + 7 ="), seed=1),
        Request(Prompt.of("7 + 7 + 7 + 7 + 7 + 7 ="), seed=2, objective=Budget(16)),
        Request(Prompt.of("7 + 7 =")),
    ]
    together = await asyncio.gather(*map(solver.solve, requests))
    alone = [await solver.solve(request) for request in requests]

    def spent(solution: Solution) -> tuple[int, int, int]:
        return solution.bill.prompt_tokens, solution.bill.generated_tokens, solution.bill.scored_tokens

    assert [(s.result, spent(s)) for s in together] == [(s.result, spent(s)) for s in alone]


async def test_hidden_states_for_the_prediction_are_on_the_bill(solver):
    class Constant:
        def probabilities(self, hidden):
            assert hidden == [7.0, 2.0, 2.0]
            return [0.1, 0.6, 0.1, 0.1, 0.1]

    object.__setattr__(solver.bundle, "difficulty", Constant())
    solver.features = features_of("hidden")
    bill = solver.new_bill()
    decision = await solver.decide(Request(Prompt.of("7 + 7 =")), bill)
    assert (decision.level, bill.prompt_tokens, bill.calls) == (2, 7, 1)
    assert list(bill.lines) == [("small", "generator")]


async def test_another_model_writes_and_its_tokens_cost_more():
    search = run(Single(model="large"))
    rounds, result, _ = await search.finish()
    assert result.answer == "86"
    assert [progress.model for progress in rounds] == ["large"]
    assert list(search.bill.lines) == [("large", "generator")]
    tokens = search.bill.prompt_tokens + search.bill.generated_tokens
    assert search.bill.flops(role="generator") == 2 * 11_400 * tokens > 0


async def test_tokens_of_the_reference_model_keep_their_price_beside_another():
    search = run(Single(model="large"))
    search.bill.line("small", "generator").prompt_tokens = 10  # what predicting the level from hidden states took
    await search.finish()
    large = search.bill.line("large", "generator")
    read = large.prompt_tokens + large.generated_tokens
    assert search.bill.flops(role="generator") == 2 * (1000 * 10 + 11_400 * read)


@pytest.mark.parametrize("arm", ["single(model=huge)", "single @0.7 > single(model=huge)"])
async def test_a_model_that_is_not_there_is_refused(arm):
    search = run(parse(arm))
    with pytest.raises(InvalidRequest, match=r"asks the model 'huge', which is not served; served are small, large"):
        await search.finish()
    assert search.billed() == {}


async def test_the_fake_engines_read_every_message():
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "7 + 7 ="}]
    search = run(Single())
    search.request = Request(Prompt.read(messages))
    _, result, _ = await search.finish()
    assert result.answer == "14"
    assert search.bill.prompt_tokens == len("Be short.7 + 7 =")


# A request's own temperature and length


@every_arm
async def test_at_temperature_0_equal_candidates_are_written_once(arm):
    searching = run(arm, temperature=0.0)
    _, result, _ = await searching.finish()
    assert searching.billed() == searching.counted()
    assert len({candidate.text for candidate in result.candidates if not candidate.earlier}) == 1
    if arm.name in {"majority", "best_of_n", "weighted_best_of_n"}:
        alone = run(Single())
        await alone.finish()
        assert searching.bill.generated_tokens == alone.bill.generated_tokens
        assert len(result.candidates) > 1


@every_arm
async def test_no_solution_is_longer_than_asked_for(arm):
    searching = run(arm, max_tokens=20)
    _, result, stop = await searching.finish()
    assert searching.billed() == searching.counted()
    assert stop is StopReason.COMPLETE
    # A tree search weighs only what it finished.
    assert {(len(candidate.tokens), candidate.end) for candidate in result.candidates} <= {(20, "length")}
    assert result.shown
    assert len(result.shown.tokens) == 20
