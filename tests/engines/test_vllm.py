"""The client of vLLM's server: what it asks for, what it reads of reward models, and what it refuses to load."""

import sys
from dataclasses import replace
from math import exp
from typing import Any

import pytest

from router.backends import Usage, vllm
from router.backends.registry import load_engines
from router.backends.specs import EMBEDDED, Deployment, Setup, VerifierSpec
from router.backends.tokenizers import load_tokenizer
from router.backends.vllm import load_model, load_verifier
from router.errors import EngineUnavailable, InvalidRequest, MissingDependency, MissingWeights
from router.prompt import Message, Prompt
from strategies import Candidate, Earlier
from tests.support.fake_vllm import (
    GENERATOR,
    MALFORMED_BODIES,
    PROMPT,
    TEMPLATE,
    TEXT,
    Characters,
    FakeVllm,
    extend,
    log_prob,
)

STEPS = ("11 + 47 = 58\n", "58 - 16 = 42\n")


@pytest.fixture
def server() -> FakeVllm:
    return FakeVllm()


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
    engines: Any = load_engines(setup, tmp_path, deployment)
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
    await extend(generator, [Candidate(), Candidate(earlier=(Earlier("Answer: 1"),))])
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


async def test_attempts_with_different_findings_are_different_prompts(server):
    found = [Candidate(earlier=(Earlier("Answer: 1", finding),)) for finding in ("", "Too low.", "Too high.")]
    await extend(server.generator(), found)
    asked = ["".join(map(chr, body["prompt"])) for _, _, body in server.asked]
    assert len(set(asked)) == 3
    assert sum("Too low.\n\nWrite the corrected function, in one code block." in text for text in asked) == 1


async def test_all_messages_are_in_the_prompt_by_their_templates(server):
    generator = server.generator()
    generator.template = replace(TEMPLATE, system="S{text}\n", assistant="A{text}\n", answer="!|")
    conversation = (Message("system", "Be brief."), Message("user", "2 + 2"), Message("assistant", "4"))
    await extend(generator, [Candidate()], prompt=Prompt((*conversation, Message("user", TEXT))))
    ((_, _, body),) = server.asked
    assert "".join(map(chr, body["prompt"])) == f"SBe brief.\n2 + 2|A4\n{TEXT}|!|"


async def test_answers_are_read_to_the_end_so_that_connections_are_kept(server):
    await extend(server.generator(), [Candidate(), Candidate(earlier=(Earlier("Answer: 1"),))])
    assert server.read_to_the_end == len(server.asked) == 2


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
    with pytest.raises(InvalidRequest, match="the backend of 'small' calls no server; add --backend vllm") as raised:
        load_engines(setup, tmp_path, Deployment({"small": ("http://a",)}, {"": "fake"}))
    assert raised.value.field == "backend"
    with pytest.raises(InvalidRequest, match="the bundle has no model 'large'; it has small, verifier") as raised:
        load_engines(setup, tmp_path, Deployment({"large": ("http://a",)}, {"": "vllm"}))
    assert raised.value.field == "url"
    with pytest.raises(InvalidRequest, match="--url small=http://host:8000"):
        load_model("small", GENERATOR, tmp_path, Deployment())
