"""The client of vLLM's server: what it asks for, and what it does when engines refuse, break off or die."""

import asyncio
import logging
import sys
import time
from dataclasses import replace
from math import exp

import pytest

from router.backends import EMBEDDED, Endpoints, Usage, VerifierSpec, vllm
from router.backends.vllm import load_tokenizer, load_verifier
from router.backends.vllm.generator import PIECE
from router.backends.vllm.replicas import ATTEMPTS, COOL_SECONDS, FAILURES
from router.bundle import models as engines
from router.errors import EngineUnavailable, InvalidRequest, MissingDependency, MissingWeights
from strategies import Candidate
from tests.support.fake_vllm import GARBAGE, GENERATOR, SPOILT_CHOICES, Characters, Double, log_prob

PROMPT = "11 + 47 - 16 + 29"
STEPS = ("11 + 47 = 58\n", "58 - 16 = 42\n")


@pytest.fixture
def server() -> Double:
    return Double()


async def extend(generator, paths, usage=None, prompt=PROMPT, **options):
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    return await generator.extend(prompt, paths, **{**defaults, **options}, usage=Usage() if usage is None else usage)


# What is asked for


async def test_rows_with_equal_prefixes_are_one_request(server):
    generator = server.generator()
    (begun,) = await extend(generator, [Candidate()], steps=1)
    server.asked.clear()
    await extend(generator, [begun, Candidate(), begun, Candidate(), begun], steps=1)
    bodies = {body["n"]: body for _, _, body in server.asked}
    assert set(bodies) == {2, 3}
    assert bodies[2]["prompt"] == list(map(ord, f"{PROMPT}|"))
    assert bodies[3]["prompt"] == [*map(ord, f"{PROMPT}|"), *begun.tokens]
    assert bodies[3]["max_tokens"] == GENERATOR.max_tokens - len(begun.tokens)
    assert bodies[2]["seed"] != bodies[3]["seed"]


async def test_a_step_stops_at_its_delimiter_and_a_solution_does_not(server):
    generator = server.generator()
    await extend(generator, [Candidate()], steps=1)
    await extend(generator, [Candidate()])
    step, solution = (body for _, _, body in server.asked)
    assert step["stop"] == ["\n"]
    assert step["include_stop_str_in_output"] is True
    assert "stop" not in solution
    # The server's own defaults, from the model's generation_config, must not change what is sampled.
    assert all((body["top_p"], body["top_k"], body["min_p"]) == (1.0, 0, 0.0) for body in (step, solution))


async def test_paths_have_no_log_probabilities_where_nobody_reads_them(server):
    known, unknown = [await extend(server.generator(log_probs=each), [Candidate()]) for each in (True, False)]
    assert [body["logprobs"] for _, _, body in server.asked] == [0, None]
    assert unknown == [replace(path, log_probs=()) for path in known]


@pytest.mark.parametrize("kind", ["log_prob", "likelihood"])
def test_only_the_verifier_that_reads_log_probabilities_has_them_asked_for(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm, "load_tokenizer", lambda model: Characters())
    endpoints = Endpoints(generator=("http://a",), verifier=("http://b",))
    generator, _ = vllm.load(GENERATOR, VerifierSpec(kind, "lora", 1), tmp_path, endpoints)
    assert generator.log_probs == (kind == "log_prob")


async def test_greedy_rows_are_written_once(server):
    usage = Usage()
    paths = await extend(server.generator(), [Candidate()] * 3, usage, temperature=0)
    assert len(set(paths)) == 1
    assert [body["n"] for _, _, body in server.asked] == [1]
    assert usage.generated_tokens == paths[0].cost


async def test_a_cached_prefix_is_not_billed(server):
    server.bad("a", "cached")
    usage = Usage()
    await extend(server.generator(), [Candidate()], usage)
    assert usage.prompt_tokens == len(f"{PROMPT}|") - 2


async def test_length_is_the_end_of_what_was_asked_for_and_not_of_the_solution(server):
    (path,) = await extend(server.generator(), [Candidate()], max_tokens=20)
    assert (path.end, len(path.tokens)) == ("cut", 20)
    (rest,) = await extend(server.generator(), [Candidate(steps=path.steps, tokens=path.tokens)])
    assert rest.finished


async def test_an_adapter_is_asked_for_by_its_name(server):
    generator = server.generator()
    generator.spec = replace(GENERATOR, adapter="lora", reviser="again")
    await extend(generator, [Candidate(), Candidate(earlier=("Answer: 1",))])
    assert {body["model"]: "Answer: 1" in "".join(map(chr, body["prompt"])) for _, _, body in server.asked} == {
        "lora": False,
        "again": True,
    }
    other = server.generator()
    other.spec = replace(GENERATOR, reviser="unknown")
    with pytest.raises(
        EngineUnavailable, match=r"serves m, lora, again, not 'unknown': .*--lora-modules unknown=FOLDER"
    ):
        await extend(other, [Candidate()])


async def test_answers_are_read_to_the_end_so_that_connections_are_kept(server):
    await extend(server.generator(), [Candidate(), Candidate(earlier=("Answer: 1",))])
    assert server.read_to_the_end == len(server.asked) == 2


# What goes wrong


@pytest.mark.parametrize("mood", ["refuse", "503", "429"])
async def test_what_was_not_begun_is_asked_again(server, mood):
    server.bad("a", mood, mood)
    usage = Usage()
    (path,) = await extend(server.generator(), [Candidate()], usage)
    assert path.finished
    assert usage.calls == 1  # of the engine's calls only the one that it took
    assert len(server.asked) == 3


@pytest.mark.parametrize("mood", ["die", "fail"])
async def test_a_lost_round_goes_on_elsewhere_from_what_had_arrived(server, mood):
    server.bad("a", mood)
    server.bad("b", mood)
    usage = Usage()
    paths = await extend(server.generator("a", "b"), [Candidate()] * 4, usage)
    assert all(path.finished for path in paths)
    assert usage.generated_tokens == sum(path.cost for path in paths)  # nothing that had arrived is written twice
    (first, _, begun), (second, _, gone_on), *_ = server.asked
    assert first != second
    assert len(gone_on["prompt"]) == len(begun["prompt"]) + PIECE
    assert usage.prompt_tokens == sum(len(body["prompt"]) for _, _, body in server.asked)  # asked again is billed
    assert usage.calls == len(server.asked) >= 3
    for path in paths:
        assert "".join(map(chr, path.tokens)) == path.text


@pytest.mark.parametrize("mood", ["abort", "cut", "hang up", "500", "half", *GARBAGE, *SPOILT_CHOICES, "strange usage"])
async def test_an_answer_that_is_none_is_lost_and_asked_for_again(server, mood):
    server.bad("a", mood)
    usage = Usage()
    paths = await extend(server.generator("a"), [Candidate()] * 3, usage)
    assert all(path.finished and "Answer: " in path.text for path in paths)
    assert len(server.asked) >= 2 or mood in ("cut", "strange usage")  # those had arrived
    assert 0 < usage.prompt_tokens <= sum(len(body["prompt"]) for _, _, body in server.asked)


@pytest.mark.parametrize("mood", ["half", *GARBAGE, *SPOILT_CHOICES])
async def test_an_engine_that_only_gives_garbage_is_no_engine(server, mood):
    server.usual["a"] = mood
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
    server.usual["a"] = "endless"
    (path,) = await extend(server.generator("a"), [Candidate()])
    assert (path.end, len(path.tokens)) == ("length", GENERATOR.max_tokens)


async def test_a_round_that_keeps_breaking_off_is_given_up(server):
    server.bad("a", *["die"] * 9)
    usage = Usage()
    with pytest.raises(EngineUnavailable) as raised:
        await extend(server.generator("a"), [Candidate()], usage, prompt=PROMPT * 3)
    assert raised.value.retry_seconds > 0
    assert usage.generated_tokens > 0  # paid all the same
    assert len(server.asked) <= ATTEMPTS


async def test_one_incident_that_loses_many_requests_is_one_failure(server):
    server.latency = 0.01
    for host in "ab":
        server.bad(host, *["die"] * 4)
    begun = [Candidate(steps=(f"{i} = {i}\n",), tokens=tuple(map(ord, f"{i} = {i}\n"))) for i in range(8)]
    paths = await extend(server.generator("a", "b"), begun)
    assert all(path.finished for path in paths)
    assert len(server.asked) == 16


async def test_a_request_that_is_wrong_is_not_repeated(server):
    server.bad("a", "400")
    server.bad("b", "400")
    with pytest.raises(EngineUnavailable, match="400 no"):
        await extend(server.generator("a", "b"), [Candidate()])
    assert len(server.asked) == 1


async def test_a_replica_that_is_set_up_wrong_is_passed_over(server):
    for host in "ab":
        server.bad(host, "401")
    (path,) = await extend(server.generator("a", "b", "c"), [Candidate()])
    assert path.finished


async def test_a_dead_engine_is_left_alone_then_tried_once(server):
    now = 0.0
    server.bad("a", *["refuse"] * (FAILURES + 1))
    generator = server.generator("a", clock=lambda: now)
    with pytest.raises(EngineUnavailable, match="no engine answers at http://a") as raised:
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
    (path,) = await extend(generator, [Candidate()])
    assert path.finished
    server.asked.clear()
    await asyncio.gather(*(extend(generator, [Candidate()]) for _ in range(4)))
    assert len(server.asked) == 4


async def test_one_dead_replica_is_not_noticed(server):
    server.bad("a", *["refuse"] * 99)
    generator = server.generator("a", "b")
    paths = await asyncio.gather(*(extend(generator, [Candidate()], prompt=f"{i} + {i}") for i in range(12)))
    assert all(path.finished for (path,) in paths)
    assert sum(host == "a" for host, _, _ in server.asked) <= 12


async def test_work_goes_to_the_least_loaded(server):
    server.latency = 0.01
    generator = server.generator("a", "b")
    await asyncio.gather(
        extend(generator, [Candidate()] * 8),
        *(extend(generator, [Candidate()] * 2, prompt=f"{i} + 5") for i in range(4)),
    )
    rows = {host: sum(body["n"] for each, _, body in server.asked if each == host) for host in "ab"}
    assert rows == {"a": 8, "b": 8}


async def test_an_idle_engine_is_asked_again_for_what_it_has_cached(server):
    generator = server.generator("a", "b", "c")
    path = Candidate()
    while path.end is None:
        (path,) = await extend(generator, [path], steps=1)
    assert len(server.asked) > 3
    assert len({host for host, _, _ in server.asked}) == 1


async def test_hanging_up_ends_the_engines_work(server):
    server.latency = 0.05
    task = asyncio.create_task(extend(server.generator("a"), [Candidate()] * 4))
    await asyncio.sleep(0.12)
    assert server.running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.running == 0


async def test_a_deadline_ends_also_a_hopeless_search_for_an_engine(server):
    server.bad("a", *["503"] * 99)
    server.bad("b", *["503"] * 99)
    (path,) = await extend(server.generator("a", "b"), [Candidate()], deadline=time.monotonic() + 0.01)
    assert path.end == "cut"


@pytest.mark.parametrize("mood", ["503", "garbage", "half", "words"])
async def test_failures_are_logged_and_prompts_are_not(server, caplog, mood):
    server.bad("a", mood)
    with caplog.at_level(logging.WARNING):
        await extend(server.generator("a"), [Candidate()])
    assert "engine http://a " in caplog.text
    assert "failure 1 in a row" in caplog.text
    assert "47" not in caplog.text  # though the engine quoted it


# Reward models


@pytest.mark.parametrize(
    "mood", ["hang up", "500", "503", "half", *GARBAGE, "words", "flat", "fewer rows", "more rows", "strange usage"]
)
async def test_scoring_is_asked_again(server, mood):
    server.bad("c", mood)
    usage = Usage()
    (path,) = await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=usage)
    assert len(path.scores) == 2
    assert usage.calls == 1


async def test_scores_that_are_not_one_a_step_are_an_error(server):
    server.bad("c", "short")
    with pytest.raises(EngineUnavailable, match="1 scores for 2 steps"):
        await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


@pytest.mark.parametrize("mood", ["nan", "beyond"])
async def test_scores_that_are_no_probabilities_are_an_error(server, mood):
    server.bad("c", mood)
    with pytest.raises(EngineUnavailable, match="no probability"):
        await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


async def test_a_likelihood_is_that_of_the_solution_up_to_each_step(server):
    usage = Usage()
    paths = [Candidate(steps=STEPS[:count]) for count in (1, 2, 2)]
    scored = await server.likelihood("c").score(PROMPT, paths, max_tokens=None, usage=usage)
    ends = [len(STEPS[0]), len("".join(STEPS))]
    likely = [exp(sum(map(log_prob, map(ord, "".join(STEPS)[:end]))) / end) for end in ends]
    assert [path.scores for path in scored] == [pytest.approx(likely[: len(path.steps)]) for path in paths]
    ((host, path, body),) = server.asked
    assert (host, path, body["model"]) == ("c", "/v1/completions", "lora")
    assert usage == Usage(calls=1, scored_tokens=sum(map(len, body["prompt"])))


@pytest.mark.parametrize("mood", ["fewer rows", "short", "nan", "beyond", "words", *GARBAGE])
async def test_a_likelihood_that_can_not_be_is_an_error(server, mood):
    server.usual["c"] = mood
    with pytest.raises(EngineUnavailable):
        await server.likelihood("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


def test_what_vllm_does_not_serve_is_refused():
    where = Endpoints(("http://a",), ("http://b",))
    with pytest.raises(InvalidRequest, match="vLLM serves no skywork-o1-open-prm: leave --verifier-url out"):
        load_verifier(GENERATOR, VerifierSpec("skywork-o1-open-prm", None, 1, "m"), where)
    with pytest.raises(InvalidRequest, match=r"shares its generator's process; .* likelihood, log_prob or one of qwen"):
        load_verifier(GENERATOR, VerifierSpec("prm", "verifier", 1), where)
    with pytest.raises(InvalidRequest, match=r"a server of its own: .* `router merge verifier`"):
        load_verifier(GENERATOR, VerifierSpec("likelihood", "verifier", 1), Endpoints(("http://a",)))
    with pytest.raises(MissingWeights, match="needs a model"):
        load_verifier(GENERATOR, VerifierSpec("rlhflow-prm", None, 1), where)


def test_the_embedded_models_tokenizer_says_what_it_lacks(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("router.backends.in_process")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    with pytest.raises(MissingDependency, match=r"needs torch: .*\[in-process\]"):
        load_tokenizer(EMBEDDED)


def test_endpoints_are_for_vllm_alone(tmp_path):
    engine = engines.Engine("x", GENERATOR, VerifierSpec("log_prob", None, 0))
    with pytest.raises(InvalidRequest, match="the fake backend calls no engine"):
        engines.load_engines("fake", engine, tmp_path, Endpoints(("http://a",)))
    with pytest.raises(InvalidRequest, match="needs --generator-url"):
        engines.load_engines("vllm", engine, tmp_path)
