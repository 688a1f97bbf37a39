"""What every generator and every verifier must do: one suite for all backends.

On the scripted engine and on a fake vLLM server always; on the real model in process with `-m slow`; on a real vLLM
with `-m vllm` (`make test-vllm`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator
from router.bundle.bundle import load_bundle
from router.errors import InvalidRequest
from router.prompt import Message, Prompt
from router.solving.driver import StopReason
from router.solving.request import Request
from router.solving.solver import Solver
from strategies import Candidate, Earlier, parse
from tests.support.pairs import Pair, fake, fake_vllm, in_process, spent, vllm

if TYPE_CHECKING:
    pass

ARMS = [
    "single",
    "majority(n=4)",
    "best_of_n(n=4)",
    "weighted_best_of_n(n=4)",
    "beam_search(n=4, m=2)",
    "dvts(n=4, m=2)",
    "lookahead(n=4, m=2, k=1)",
    "revision(n=4, chains=2)",
]
_fresh = count(11)


BUILD: dict[str, Any] = {"fake": fake, "fake_vllm": fake_vllm, "in_process": in_process, "vllm": vllm}
MARKS = {
    "in_process": [pytest.mark.slow],
    "vllm": [pytest.mark.vllm, pytest.mark.timeout(1200)],
}  # servers start first
_shared: dict[str, Pair] = {}


@pytest.fixture(
    params=[pytest.param(name, marks=[*MARKS.get(name, []), pytest.mark.filterwarnings("ignore")]) for name in BUILD]
)
async def engines(request) -> AsyncIterator[Pair]:
    """Fresh ones; a model in process is loaded once."""
    name = request.param
    if name == "in_process":
        if name not in _shared:
            _shared[name] = in_process()
        yield _shared[name]
        return
    engines = BUILD[name](*([request.getfixturevalue("vllm_servers")] if name == "vllm" else []))
    yield engines
    await asyncio.gather(engines.generator.close(), engines.verifier.close())


@pytest.fixture(scope="module", autouse=True)
def close_shared() -> Iterator[None]:
    yield
    for engines in _shared.values():
        asyncio.run(engines.generator.close())
    _shared.clear()


@pytest.fixture
def prompt() -> str:
    """One that no engine has seen, with a solution of several steps."""
    return f"State the final answer to the following arithmetic problem: {next(_fresh)} + 47 - 16 + 29 ="


# Generators


@pytest.mark.parametrize("limits", [{}, {"steps": 1}, {"steps": 2}, {"max_tokens": 37}, {"max_tokens": 3}])
async def test_the_parts_of_a_candidate_agree(engines, prompt, limits):
    candidates = await engines.extend(prompt, [Candidate()] * 4, **limits)
    assert any(log_prob < 0 for candidate in candidates for log_prob in candidate.log_probs)
    for candidate in candidates:
        assert engines.decode(candidate.tokens) == candidate.text
        assert len(candidate.log_probs) == len(candidate.token_counts) == len(candidate.steps)
        assert sum(candidate.token_counts) == len(candidate.tokens)
        ends = list(accumulate(candidate.token_counts))
        for step, begin, end in zip(candidate.steps, [0, *ends], ends, strict=False):
            assert engines.decode(candidate.tokens[begin:end]) == step
        assert all("\n" in step for step in candidate.steps[:-1])
        assert all(log_prob <= 0 for log_prob in candidate.log_probs)


async def test_steps_one_by_one_equal_a_solution_at_once(engines, prompt):
    if isinstance(engines.generator, FakeGenerator):
        pytest.skip("the script draws anew from each prefix")
    (whole,) = await engines.extend(prompt, [Candidate()], temperature=0)
    assert whole.end == "stop"
    candidate = Candidate()
    while candidate.end is None:
        (longer,) = await engines.extend(prompt, [candidate], steps=1, temperature=0)
        assert longer.tokens[: len(candidate.tokens)] == candidate.tokens
        assert len(longer.steps) - len(candidate.steps) == (longer.end is None or longer.tokens != candidate.tokens)
        candidate = longer
    assert (candidate.tokens, candidate.steps, candidate.end) == (whole.tokens, whole.steps, whole.end)
    assert candidate.log_probs == pytest.approx(whole.log_probs, abs=1e-2)


async def test_a_call_may_ask_for_shorter_solutions_and_less_temperature_never_for_more(engines, prompt):
    short = await engines.extend(prompt, [Candidate()] * 3, longest=7)
    assert [(len(candidate.tokens), candidate.end) for candidate in short] == [(7, "length")] * 3
    (begun,) = await engines.extend(prompt, [Candidate()], temperature=0, steps=1)
    (rest,) = await engines.extend(prompt, [begun], longest=len(begun.tokens) + 3)
    assert (len(rest.tokens), rest.end) == (len(begun.tokens) + 3, "length")
    own = await engines.extend(prompt, [Candidate()] * 4, seed=3)
    assert await engines.extend(prompt, [Candidate()] * 4, seed=3, longest=10**6, temperature=9.0) == own


async def test_the_end_of_sequence_is_billed_but_no_token_of_the_candidate(engines, prompt):
    usage = Usage()
    candidates = await engines.extend(prompt, [Candidate()] * 3, usage)
    assert all(candidate.finished for candidate in candidates)
    assert usage.generated_tokens == sum(candidate.cost for candidate in candidates)


async def test_a_shared_prefix_is_prefilled_once(engines, prompt):
    usage = Usage()
    await engines.extend(prompt, [Candidate()] * 6, usage)
    assert 0 < usage.prompt_tokens <= len(engines.encode(prompt))


async def test_all_messages_of_a_prompt_are_read(engines, prompt):
    conversation = Prompt((Message("user", "7 + 8 ="), Message("assistant", "Answer: 15"), Message("user", prompt)))
    usage = Usage()
    (candidate,) = await engines.extend(conversation, [Candidate()], usage)
    assert usage.prompt_tokens > len(engines.encode(prompt))
    (scored,) = await engines.score(conversation, [candidate])
    assert len(scored.scores) == len(candidate.steps)


async def test_earlier_attempts_are_read(engines, prompt):
    first, again = Usage(), Usage()
    (candidate,) = await engines.extend(prompt, [Candidate()], first)
    (retried,) = await engines.extend(prompt, [Candidate(earlier=(Earlier(candidate.text),))], again)
    assert retried.earlier == (Earlier(candidate.text),)
    assert retried.steps
    assert again.prompt_tokens + again.generated_tokens > 0


async def test_what_was_found_wrong_with_an_attempt_is_read(engines, prompt):
    (candidate,) = await engines.extend(prompt, [Candidate()])
    told, untold = (Earlier(candidate.text, finding) for finding in ("That is too low by 3, or by 4.", ""))
    usage = Usage()
    repaired, retried = await engines.extend(prompt, [Candidate(earlier=(each,)) for each in (told, untold)], usage)
    assert (repaired.earlier, retried.earlier) == ((told,), (untold,))
    assert repaired.steps
    assert usage.prompt_tokens > 0


@pytest.mark.parametrize("cap", [0, 1, 10, 30])
async def test_the_cap_is_over_all_candidates_together(engines, prompt, cap):
    usage = Usage()
    candidates = await engines.extend(prompt, [Candidate()] * 4, usage, max_tokens=cap)
    assert usage.generated_tokens == cap == sum(len(candidate.tokens) for candidate in candidates)
    assert [candidate.end for candidate in candidates] == ["cut"] * 4


async def test_tokens_that_one_candidate_leaves_others_may_spend(engines, prompt):
    usage = Usage()
    candidates = await engines.extend(prompt, [Candidate()] * 3, usage)
    exact = Usage()
    (begun,) = await engines.extend(prompt, [Candidate()], temperature=0, steps=2)
    (rest,) = await engines.extend(prompt, [begun], Usage(), temperature=0)
    (whole,) = await engines.extend(prompt, [begun], exact, temperature=0, max_tokens=rest.cost - len(begun.tokens))
    assert whole.finished
    assert exact.generated_tokens == rest.cost - len(begun.tokens)
    assert usage.generated_tokens == sum(candidate.cost for candidate in candidates)


async def test_the_longest_solution_is_cut(engines, prompt):
    engines.shorten(12)
    try:
        candidates = await engines.extend(prompt, [Candidate()] * 2)
    finally:
        engines.shorten(160)
    assert [(candidate.end, len(candidate.tokens)) for candidate in candidates] == [("length", 12)] * 2


async def test_a_deadline_brings_back_what_there_is(engines, prompt):
    engines.slow()
    started = time.monotonic()
    seconds = 0.6
    candidates = await engines.extend(prompt * 3, [Candidate()] * 32, deadline=started + seconds)
    assert time.monotonic() - started < seconds + 5.0  # far less than they would take
    assert {candidate.end for candidate in candidates} == {"cut"}
    await engines.idle()


async def test_ended_candidates_come_back_as_they_are(engines, prompt):
    ended = [Candidate(steps=("Answer: 1",), end="stop"), Candidate(end="length")]
    usage = Usage()
    assert await engines.extend(prompt, ended, usage) == ended
    assert usage.generated_tokens == usage.prompt_tokens == 0


async def test_seeds_and_temperature(engines, prompt):
    first = await engines.extend(prompt, [Candidate()] * 8, seed=1)
    assert [candidate.text for candidate in first] == [
        candidate.text for candidate in await engines.extend(prompt, [Candidate()] * 8, seed=1)
    ]
    assert [candidate.text for candidate in first] != [
        candidate.text for candidate in await engines.extend(prompt, [Candidate()] * 8, seed=2)
    ]
    assert len({candidate.text for candidate in first}) > 1
    greedy = await engines.extend(prompt, [Candidate()] * 4, seed=1, temperature=0)
    assert len({candidate.text for candidate in greedy}) == 1


async def test_searches_at_the_same_time_do_not_mix(engines, prompt):
    prompts = [prompt, prompt.replace("47", "3"), prompt.replace("16", "5")]
    alone = [await engines.extend(each, [Candidate()], temperature=0) for each in prompts]
    together = await asyncio.gather(*(engines.extend(each, [Candidate()], temperature=0) for each in prompts))
    assert [[candidate.text for candidate in candidates] for candidates in together] == [
        [candidate.text for candidate in candidates] for candidates in alone
    ]


async def test_cancelling_frees_the_engine_and_leaves_an_exact_bill(engines, prompt):
    engines.slow()
    before, usage = replace(engines.counted()), Usage()
    task = asyncio.create_task(engines.extend(prompt, [Candidate()] * 16, usage))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engines.idle()
    assert usage == spent(before, engines.counted())
    await asyncio.sleep(0.3)
    assert usage == spent(before, engines.counted())  # nothing goes on behind the caller's back


async def test_a_prompt_without_room_is_refused(engines, prompt):
    if isinstance(engines.generator, FakeGenerator):
        pytest.skip("the script has no context")
    with pytest.raises(InvalidRequest, match="room for") as raised:
        await engines.extend(prompt * 500, [Candidate()])
    assert raised.value.reason == "PROMPT_TOO_LONG"


# Verifiers

STEPS = ("11 + 47 = 58\n", "58 - 16 = 42\n", "42 + 29 = 71\n", "Answer: 71")


async def test_a_step_has_one_score_alone_and_among_others(engines, prompt):
    candidates = [
        Candidate(steps=STEPS),
        Candidate(steps=STEPS[:1]),
        Candidate(steps=("11 + 47 = 59\n", "59")),
        Candidate(steps=STEPS),
    ]
    together = await engines.score(prompt, candidates)
    assert [len(candidate.scores) for candidate in together] == [4, 1, 2, 4]
    assert all(0 <= score <= 1 for candidate in together for score in candidate.scores)
    assert together[0].scores == together[3].scores
    assert together[0].scores[:1] == pytest.approx(together[1].scores, abs=1e-3)
    for candidate, scored in zip(candidates, together, strict=True):
        (alone,) = await engines.score(prompt, [candidate])
        assert scored.scores == pytest.approx(alone.scores, abs=1e-3)


async def test_a_generated_candidate_can_be_scored(engines, prompt):
    scored = await engines.score(prompt, await engines.extend(prompt, [Candidate()] * 4))
    assert all(len(candidate.scores) == len(candidate.steps) for candidate in scored)


async def test_a_candidate_that_cannot_be_scored_is_not_scored_zero(engines, prompt):
    usage, candidate = Usage(), Candidate(steps=STEPS[:2], tokens=tuple(engines.encode("".join(STEPS[:2]))))
    candidate = replace(candidate, token_counts=(len(candidate.tokens) - 1, 1))
    await engines.score(prompt, [candidate], usage)
    exact, cap = Usage(), usage.scored_tokens
    scored = await engines.score(prompt, [candidate, Candidate(), Candidate(steps=STEPS)], exact, max_tokens=cap)
    assert [candidate.scores is None for candidate in scored] == [False, True, True]
    assert exact.scored_tokens == cap
    none = Usage()
    scored = await engines.score(prompt, [candidate], none, max_tokens=cap - 1)
    assert scored[0].scores is None
    assert none.scored_tokens == 0


# Both, under a search


@pytest.mark.parametrize("arm", ARMS)
async def test_every_strategy_solves_and_bills_to_the_token(engines, prompt, bundle_folder, arm):
    solver = solver_on(bundle_folder, engines)
    before = replace(engines.counted())
    solution = await solver.solve(Request(Prompt.of(prompt), arm=parse(arm), seed=1))
    assert solution.stop is StopReason.COMPLETE
    assert solution.result.answer is not None
    assert all(
        len(candidate.scores) == len(candidate.steps) for candidate in solution.result.candidates if candidate.scores
    )
    bill = solution.bill
    assert Usage(bill.prompt_tokens, bill.generated_tokens, bill.scored_tokens, bill.calls) == spent(
        before, engines.counted()
    )


@pytest.mark.parametrize("arm", ["majority(n=4)", "beam_search(n=4, m=2)"])
async def test_a_search_never_passes_its_cap(engines, prompt, bundle_folder, arm):
    solver = solver_on(bundle_folder, engines)
    request = Request(Prompt.of(prompt), arm=parse(arm), max_generated_tokens=30, allow_partial=True)
    solution = await solver.solve(request)
    assert solution.stop is StopReason.TOKEN_CAP
    assert solution.bill.generated_tokens <= 30


def solver_on(bundle_folder: Path, engines: Pair) -> Solver:
    return Solver(load_bundle(bundle_folder), Engines({"small": engines.generator}, "small", engines.verifier))
