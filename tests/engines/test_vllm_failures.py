"""The client of vLLM's server, when engines refuse, break off, die or answer garbage."""

import asyncio
import logging
import time

import pytest

from router.backends import Usage
from router.backends.replicas import ATTEMPTS, COOL_SECONDS, FAILURES
from router.backends.vllm.generator import PIECE
from router.errors import EngineUnavailable
from router.prompt import Prompt
from strategies import Candidate
from tests.support.fake_vllm import GENERATOR, MALFORMED_BODIES, MALFORMED_CHOICES, PROMPT, TEXT, FakeVllm, extend

STEPS = ("11 + 47 = 58\n", "58 - 16 = 42\n")


@pytest.fixture
def server() -> FakeVllm:
    return FakeVllm()


@pytest.mark.parametrize("failure", ["refuse connection", "503", "429"])
async def test_what_was_not_begun_is_asked_again(server, failure):
    server.fail("a", failure, failure)
    usage = Usage()
    (candidate,) = await extend(server.generator(), [Candidate()], usage)
    assert candidate.finished
    assert usage.calls == 1  # of the engine's calls only the one that it took
    assert len(server.asked) == 3


@pytest.mark.parametrize("failure", ["reset stream", "error event"])
async def test_a_lost_round_goes_on_elsewhere_from_what_had_arrived(server, failure):
    server.fail("a", failure)
    server.fail("b", failure)
    usage = Usage()
    candidates = await extend(server.generator("a", "b"), [Candidate()] * 4, usage)
    assert all(candidate.finished for candidate in candidates)
    # Nothing that had arrived is written twice.
    assert usage.generated_tokens == sum(candidate.cost for candidate in candidates)
    (first, _, begun), (second, _, gone_on), *_ = server.asked
    assert first != second
    assert len(gone_on["prompt"]) == len(begun["prompt"]) + PIECE
    assert usage.prompt_tokens == sum(len(body["prompt"]) for _, _, body in server.asked)  # asked again is billed
    assert usage.calls == len(server.asked) >= 3
    for candidate in candidates:
        assert "".join(map(chr, candidate.tokens)) == candidate.text


@pytest.mark.parametrize(
    "failure",
    [
        "abort samples",
        "omit end",
        "close connection",
        "500",
        "truncate answer",
        *MALFORMED_BODIES,
        *MALFORMED_CHOICES,
        "impossible usage",
    ],
)
async def test_an_answer_that_is_none_is_lost_and_asked_for_again(server, failure):
    server.fail("a", failure)
    usage = Usage()
    candidates = await extend(server.generator("a"), [Candidate()] * 3, usage)
    assert all(candidate.finished and "Answer: " in candidate.text for candidate in candidates)
    assert len(server.asked) >= 2 or failure in ("omit end", "impossible usage")  # those had arrived
    assert 0 < usage.prompt_tokens <= sum(len(body["prompt"]) for _, _, body in server.asked)


@pytest.mark.parametrize("failure", ["truncate answer", *MALFORMED_BODIES, *MALFORMED_CHOICES])
async def test_an_engine_that_only_gives_garbage_is_no_engine(server, failure):
    server.fail_always("a", failure)
    with pytest.raises(EngineUnavailable):
        await extend(server.generator("a"), [Candidate()] * 3)
    assert len(server.asked) <= ATTEMPTS


@pytest.mark.parametrize(
    "models", [{}, {"data": None}, {"data": []}, {"data": [{"max_model_len": "long", "id": "m"}]}, {"data": [7]}]
)
async def test_an_engine_that_serves_nothing_is_no_engine(server, models):
    server.models = models
    with pytest.raises(EngineUnavailable):
        await extend(server.generator("a"), [Candidate()])
    with pytest.raises(EngineUnavailable):
        await server.verifier("a").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


async def test_an_answer_that_never_ends_is_left_at_what_was_asked_for(server):
    server.fail_always("a", "never end")
    (candidate,) = await extend(server.generator("a"), [Candidate()])
    assert (candidate.end, len(candidate.tokens)) == ("length", GENERATOR.max_tokens)


async def test_a_round_that_keeps_breaking_off_is_given_up(server):
    server.fail("a", *["reset stream"] * 9)
    usage = Usage()
    with pytest.raises(EngineUnavailable) as raised:
        await extend(server.generator("a"), [Candidate()], usage, prompt=Prompt.of(TEXT * 3))
    assert raised.value.retry_seconds > 0
    assert usage.generated_tokens > 0  # paid all the same
    assert len(server.asked) <= ATTEMPTS


async def test_one_incident_that_loses_many_requests_is_one_failure(server):
    server.latency = 0.01
    for host in "ab":
        server.fail(host, *["reset stream"] * 4)
    begun = [Candidate(steps=(f"{i} = {i}\n",), tokens=tuple(map(ord, f"{i} = {i}\n"))) for i in range(8)]
    candidates = await extend(server.generator("a", "b"), begun)
    assert all(candidate.finished for candidate in candidates)
    assert len(server.asked) == 16


async def test_a_request_that_is_wrong_is_not_repeated(server):
    server.fail("a", "400")
    server.fail("b", "400")
    with pytest.raises(EngineUnavailable, match="400 no"):
        await extend(server.generator("a", "b"), [Candidate()])
    assert len(server.asked) == 1


async def test_a_replica_that_is_set_up_wrong_is_passed_over(server):
    for host in "ab":
        server.fail(host, "401")
    (candidate,) = await extend(server.generator("a", "b", "c"), [Candidate()])
    assert candidate.finished


async def test_a_dead_engine_is_left_alone_then_tried_once(server):
    now = 0.0
    server.fail("a", *["refuse connection"] * (FAILURES + 1))
    generator = server.generator("a", clock=lambda: now)
    with pytest.raises(EngineUnavailable, match="no engine of the model answers") as raised:
        await extend(generator, [Candidate()])
    assert raised.value.retry_seconds == COOL_SECONDS
    assert len(server.asked) == FAILURES
    now = COOL_SECONDS / 2
    with pytest.raises(EngineUnavailable) as raised:
        await extend(generator, [Candidate()])
    assert raised.value.retry_seconds == COOL_SECONDS / 2
    assert len(server.asked) == FAILURES  # at once, without asking
    now = COOL_SECONDS
    with pytest.raises(EngineUnavailable) as raised:
        await extend(generator, [Candidate()])
    assert len(server.asked) == FAILURES + 1  # one try
    assert raised.value.retry_seconds == 2 * COOL_SECONDS  # and longer each time
    now = 10.0
    (candidate,) = await extend(generator, [Candidate()])
    assert candidate.finished
    server.asked.clear()
    await asyncio.gather(*(extend(generator, [Candidate()]) for _ in range(4)))
    assert len(server.asked) == 4


async def test_one_dead_replica_is_not_noticed(server):
    server.fail("a", *["refuse connection"] * 99)
    generator = server.generator("a", "b")
    candidates = await asyncio.gather(
        *(extend(generator, [Candidate()], prompt=Prompt.of(f"{i} + {i}")) for i in range(12))
    )
    assert all(candidate.finished for (candidate,) in candidates)
    assert sum(host == "a" for host, _, _ in server.asked) <= 12


async def test_work_goes_to_the_least_loaded(server):
    server.latency = 0.01
    generator = server.generator("a", "b")
    await asyncio.gather(
        extend(generator, [Candidate()] * 8),
        *(extend(generator, [Candidate()] * 2, prompt=Prompt.of(f"{i} + 5")) for i in range(4)),
    )
    rows = {host: sum(body["n"] for each, _, body in server.asked if each == host) for host in "ab"}
    assert rows == {"a": 8, "b": 8}


async def test_an_idle_engine_is_asked_again_for_what_it_has_cached(server):
    generator = server.generator("a", "b", "c")
    candidate = Candidate()
    while candidate.end is None:
        (candidate,) = await extend(generator, [candidate], steps=1)
    assert len(server.asked) > 3
    assert len({host for host, _, _ in server.asked}) == 1


async def test_hanging_up_ends_the_engines_work(server):
    server.latency = 0.05
    task = asyncio.create_task(extend(server.generator("a"), [Candidate()] * 4))
    while not server.running:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.running == 0


async def test_a_deadline_ends_also_a_hopeless_search_for_an_engine(server):
    server.fail("a", *["503"] * 99)
    server.fail("b", *["503"] * 99)
    (candidate,) = await extend(server.generator("a", "b"), [Candidate()], deadline=time.monotonic() + 0.01)
    assert candidate.end == "cut"


@pytest.mark.parametrize("failure", ["503", "no json", "truncate answer", "strings"])
async def test_failures_are_logged_and_prompts_are_not(server, caplog, failure):
    server.fail("a", failure)
    with caplog.at_level(logging.WARNING):
        await extend(server.generator("a"), [Candidate()])
    assert "engine http://a " in caplog.text
    assert "failure 1 in a row" in caplog.text
    assert "47" not in caplog.text  # though the engine quoted it
