"""The client of vLLM's server: what it asks for, and what it does when engines refuse, break off or die."""

import asyncio
import logging
import sys
import time
from dataclasses import replace
from math import exp

import pytest

from router.backends import Usage, vllm
from router.backends.registry import load_engines
from router.backends.specs import EMBEDDED, Deployment, Setup, VerifierSpec
from router.backends.tokenizers import load_tokenizer
from router.backends.vllm import load_model, load_verifier
from router.backends.vllm.generator import PIECE
from router.backends.vllm.replicas import ATTEMPTS, COOL_SECONDS, FAILURES
from router.errors import EngineUnavailable, InvalidRequest, MissingDependency, MissingWeights
from router.prompt import Message, Prompt
from strategies import Candidate
from tests.support.fake_vllm import (
    GENERATOR,
    MALFORMED_BODIES,
    MALFORMED_CHOICES,
    TEMPLATE,
    Characters,
    FakeVllm,
    log_prob,
)

TEXT = "11 + 47 - 16 + 29"
PROMPT = Prompt.of(TEXT)
STEPS = ("11 + 47 = 58\n", "58 - 16 = 42\n")


@pytest.fixture
def server() -> FakeVllm:
    return FakeVllm()


async def extend(generator, candidates, usage=None, prompt=PROMPT, **options):
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    return await generator.extend(
        prompt, candidates, **{**defaults, **options}, usage=Usage() if usage is None else usage
    )


# What is asked for


async def test_rows_with_equal_prefixes_are_one_request(server):
    generator = server.generator()
    (begun,) = await extend(generator, [Candidate()], steps=1)
    server.asked.clear()
    await extend(generator, [begun, Candidate(), begun, Candidate(), begun], steps=1)
    bodies = {body["n"]: body for _, _, body in server.asked}
    assert set(bodies) == {2, 3}
    assert bodies[2]["prompt"] == list(map(ord, f"{TEXT}|"))
    assert bodies[3]["prompt"] == [*map(ord, f"{TEXT}|"), *begun.tokens]
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


async def test_candidates_have_no_log_probabilities_where_nobody_reads_them(server):
    known, unknown = [await extend(server.generator(log_probs=each), [Candidate()]) for each in (True, False)]
    assert [body["logprobs"] for _, _, body in server.asked] == [0, None]
    assert unknown == [replace(candidate, log_probs=()) for candidate in known]


@pytest.mark.parametrize("kind", ["log_prob", "likelihood"])
def test_only_the_verifier_that_reads_log_probabilities_has_them_asked_for(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm, "load_tokenizer", lambda model: Characters())
    setup = Setup("x", "small", {"small": GENERATOR, "large": GENERATOR}, VerifierSpec(kind, "lora", 1))
    deployment = Deployment(
        {name: (f"http://{name}",) for name in ("small", "large", "verifier")}, backends={"": "vllm"}
    )
    engines = load_engines(setup, tmp_path, deployment)
    assert {name: model.log_probs for name, model in engines.models.items()} == dict.fromkeys(
        ("small", "large"), kind == "log_prob"
    )


async def test_greedy_rows_are_written_once(server):
    usage = Usage()
    candidates = await extend(server.generator(), [Candidate()] * 3, usage, temperature=0)
    assert len(set(candidates)) == 1
    assert [body["n"] for _, _, body in server.asked] == [1]
    assert usage.generated_tokens == candidates[0].cost


async def test_a_cached_prefix_is_not_billed(server):
    server.fail("a", "cached tokens")
    usage = Usage()
    await extend(server.generator(), [Candidate()], usage)
    assert usage.prompt_tokens == len(f"{TEXT}|") - 2


async def test_length_is_the_end_of_what_was_asked_for_and_not_of_the_solution(server):
    (candidate,) = await extend(server.generator(), [Candidate()], max_tokens=20)
    assert (candidate.end, len(candidate.tokens)) == ("cut", 20)
    (rest,) = await extend(server.generator(), [Candidate(steps=candidate.steps, tokens=candidate.tokens)])
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


async def test_all_messages_are_in_the_prompt_by_their_templates(server):
    generator = server.generator()
    generator.template = replace(TEMPLATE, system="S{text}\n", assistant="A{text}\n", answer="!|")
    conversation = (Message("system", "Be brief."), Message("user", "2 + 2"), Message("assistant", "4"))
    await extend(generator, [Candidate()], prompt=Prompt((*conversation, Message("user", TEXT))))
    ((_, _, body),) = server.asked
    assert "".join(map(chr, body["prompt"])) == f"SBe brief.\n2 + 2|A4\n{TEXT}|!|"


async def test_answers_are_read_to_the_end_so_that_connections_are_kept(server):
    await extend(server.generator(), [Candidate(), Candidate(earlier=("Answer: 1",))])
    assert server.read_to_the_end == len(server.asked) == 2


# What goes wrong


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
    await asyncio.sleep(0.12)
    assert server.running == 1
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


# Reward models


@pytest.mark.parametrize(
    "failure",
    [
        "close connection",
        "500",
        "503",
        "truncate answer",
        *MALFORMED_BODIES,
        "strings",
        "no pairs",
        "fewer rows",
        "more rows",
        "impossible usage",
    ],
)
async def test_scoring_is_asked_again(server, failure):
    server.fail("c", failure)
    usage = Usage()
    (candidate,) = await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=usage)
    assert len(candidate.scores) == 2
    assert usage.calls == 1


async def test_scores_that_are_not_one_a_step_are_an_error(server):
    server.fail("c", "too few scores")
    with pytest.raises(EngineUnavailable, match="1 scores for 2 steps"):
        await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


@pytest.mark.parametrize("failure", ["nan", "out of range"])
async def test_scores_that_are_no_probabilities_are_an_error(server, failure):
    server.fail("c", failure)
    with pytest.raises(EngineUnavailable, match="no probability"):
        await server.verifier("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


async def test_a_likelihood_is_that_of_the_solution_up_to_each_step(server):
    usage = Usage()
    candidates = [Candidate(steps=STEPS[:count]) for count in (1, 2, 2)]
    scored = await server.likelihood("c").score(PROMPT, candidates, max_tokens=None, usage=usage)
    ends = [len(STEPS[0]), len("".join(STEPS))]
    likely = [exp(sum(map(log_prob, map(ord, "".join(STEPS)[:end]))) / end) for end in ends]
    assert [candidate.scores for candidate in scored] == [
        pytest.approx(likely[: len(candidate.steps)]) for candidate in candidates
    ]
    ((host, path, body),) = server.asked
    assert (host, path, body["model"]) == ("c", "/v1/completions", "lora")
    assert usage == Usage(calls=1, scored_tokens=sum(map(len, body["prompt"])))


@pytest.mark.parametrize(
    "failure", ["fewer rows", "too few scores", "nan", "out of range", "strings", *MALFORMED_BODIES]
)
async def test_a_likelihood_that_can_not_be_is_an_error(server, failure):
    server.fail_always("c", failure)
    with pytest.raises(EngineUnavailable):
        await server.likelihood("c").score(PROMPT, [Candidate(steps=STEPS)], max_tokens=None, usage=Usage())


def test_what_vllm_does_not_serve_is_refused(tmp_path):
    def load(kind: str, adapter: str | None = None, model: str | None = None, *, served: bool = True) -> None:
        deployment = Deployment({"verifier": ("http://b",)} if served else {})
        load_verifier(VerifierSpec(kind, adapter, 1, model), GENERATOR, None, tmp_path, deployment)

    with pytest.raises(InvalidRequest, match="vLLM serves no skywork-o1-open-prm: leave --url verifier=… out"):
        load("skywork-o1-open-prm", model="m")
    with pytest.raises(InvalidRequest, match=r"shares its generator's process; .* likelihood, log_prob or one of qwen"):
        load("prm", "verifier")
    with pytest.raises(InvalidRequest, match=r"a server of its own: .* `router merge verifier`"):
        load("likelihood", "verifier", served=False)
    with pytest.raises(MissingWeights, match="needs a model"):
        load("rlhflow-prm")


def test_the_embedded_models_tokenizer_says_what_it_lacks(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("router.backends.in_process")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    with pytest.raises(MissingDependency, match=r"needs torch: .*\[in-process\]"):
        load_tokenizer(EMBEDDED)


def test_urls_are_for_backends_that_call_them(tmp_path):
    setup = Setup("x", "small", {"small": GENERATOR}, VerifierSpec("log_prob", None, 0))
    with pytest.raises(InvalidRequest, match="the backend of 'small' calls none; add --backend vllm") as raised:
        load_engines(setup, tmp_path, Deployment({"small": ("http://a",)}, {"": "fake"}))
    assert raised.value.field == "backend"
    with pytest.raises(InvalidRequest, match="the bundle has no model 'large'; it has small, verifier") as raised:
        load_engines(setup, tmp_path, Deployment({"large": ("http://a",)}, {"": "vllm"}))
    assert raised.value.field == "url"
    with pytest.raises(InvalidRequest, match="--url small=http://host:8000"):
        load_model("small", GENERATOR, tmp_path, Deployment())
