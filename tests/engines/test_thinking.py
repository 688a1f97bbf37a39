"""Thoughts before an answer: closed where the budget ends, kept apart, billed; and models that differ in them only."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from router.backends import Usage
from router.backends.openai import load_model as load_openai
from router.backends.openai.thoughts import HURRY
from router.backends.registry import load_model
from router.backends.specs import EMBEDDED, Deployment, Endpoint, ModelSpec, Setup, Thinking, VerifierSpec
from router.backends.template import OwnTemplate
from router.backends.vllm.generator import VllmGenerator
from router.errors import InvalidFile
from router.prompt import Prompt
from router.schema import read
from strategies import Candidate
from tests.support import fake_chat
from tests.support.fake_vllm import END, GENERATOR, PROMPT, TEMPLATE, TEXT, Characters, FakeVllm, extend

BUDGET = 20
THINKING = Thinking(budget=BUDGET, closing="...")


class Thoughtful(FakeVllm):
    """Thinks ``thought``, and after a closed thought answers "Answer: 7"."""

    thought = "I wonder.</think>"

    def _solution(self, body: dict, index: int) -> tuple[list[int], str, str | None]:
        prompt = "".join(map(chr, body["prompt"]))
        if "</think>" in prompt:
            written = prompt.partition("</think>\n\n")[2]
            tokens, reason, stopped = [*map(ord, "Answer: 7"[len(written) :]), END], "stop", None
        else:
            tokens, reason, stopped = list(map(ord, self.thought)), "stop", "</think>"
            if not self.thought.endswith("</think>"):
                tokens, stopped = [*tokens, END], None
        if len(tokens) > body["max_tokens"]:
            return tokens[: body["max_tokens"]], "length", None
        return tokens, reason, stopped


def thinking(server: FakeVllm, **changes) -> VllmGenerator:
    spec = replace(GENERATOR, thinking=replace(THINKING, **changes))
    return VllmGenerator(server.replicas(), spec, Characters())


def prompts(server: FakeVllm) -> list[str]:
    return ["".join(map(chr, body["prompt"])) for _, _, body in server.asked]


# By exact prefixes


async def test_a_solution_is_written_after_its_thought():
    server, usage = Thoughtful(), Usage()
    (written,) = await extend(thinking(server), [Candidate()], usage)
    assert (written.text, written.reasoning) == ("Answer: 7", "I wonder.")
    assert prompts(server) == [f"{TEXT}|<think>\n", f"{TEXT}|<think>\nI wonder.</think>\n\n"]
    assert written.thinking_tokens == usage.thinking_tokens == len("I wonder.</think>")
    assert usage.generated_tokens == written.cost == len("I wonder.</think>Answer: 7") + 1
    assert written.finished


async def test_a_thought_that_is_too_long_is_closed_and_answered():
    server, usage = Thoughtful(), Usage()
    server.thought = "Hm. " * 50
    (written,) = await extend(thinking(server), [Candidate()], usage)
    assert (written.text, written.end) == ("Answer: 7", "stop")
    assert written.thinking_tokens == BUDGET
    assert prompts(server)[1] == f"{TEXT}|<think>\n{('Hm. ' * 50)[:BUDGET]}...</think>\n\n"


async def test_a_thought_that_ends_without_an_answer_is_answered():
    server = Thoughtful()
    server.thought = "It is 7."
    (written,) = await extend(thinking(server), [Candidate()])
    assert (written.text, written.reasoning) == ("Answer: 7", "It is 7.")


async def test_each_step_of_a_search_has_the_thought_before_it():
    server = Thoughtful()
    generator = thinking(server)
    begun = Candidate(steps=("Answer",), tokens=tuple(map(ord, "Answer")), token_counts=(6,))
    (thought,) = await extend(generator, [Candidate()], steps=1)
    (longer,) = await extend(generator, [replace(begun, thought=thought.thought, thinking_tokens=17)])
    assert longer.text == "Answer: 7"
    assert prompts(server)[-1] == f"{TEXT}|<think>\nI wonder.</think>\n\nAnswer"
    assert sum("<think>" in prompt and "</think>" not in prompt for prompt in prompts(server)) == 1


async def test_no_budget_is_an_empty_thought():
    server, usage = Thoughtful(), Usage()
    await extend(thinking(server, budget=0), [Candidate()], usage)
    assert prompts(server) == [f"{TEXT}|<think>\n\n</think>\n\n"]
    assert usage.thinking_tokens == 0


async def test_thoughts_count_for_the_cap_of_a_request():
    usage = Usage()
    cut, *_ = await extend(thinking(Thoughtful()), [Candidate()] * 2, usage, max_tokens=10)
    assert usage.generated_tokens == usage.thinking_tokens == 10
    assert (cut.text, cut.end, cut.reasoning) == ("", "cut", "I won")


async def test_a_template_that_opens_the_thought_gets_no_second_opening():
    server = Thoughtful()
    spec = replace(GENERATOR, template=replace(TEMPLATE, answer="<think>\n"), thinking=THINKING)
    await extend(VllmGenerator(server.replicas(), spec, Characters()), [Candidate()])
    assert prompts(server)[0] == f"{TEXT}|<think>\n"


# At a server that thinks


def chat_spec(**changes) -> ModelSpec:
    return replace(fake_chat.SPEC, thinking=Thinking(**changes))


async def test_a_server_is_told_how_long_to_think():
    server = fake_chat.FakeChat()
    await fake_chat.extend(server.generator(chat_spec(effort="low")))
    await fake_chat.extend(server.generator(chat_spec(budget=50, parameter="thinking.budget_tokens")))
    (_, first, _), (_, second, _) = server.asked
    assert first["reasoning_effort"] == "low"
    assert second["thinking"] == {"budget_tokens": 50}
    assert second["max_tokens"] == fake_chat.SPEC.max_tokens + 50


class Dawdling(fake_chat.FakeChat):
    """Thinks for ever, until it is told that time is up."""

    def _events(self, body: dict) -> Iterator[str]:
        self.thought = "" if body["messages"][-1]["content"] == HURRY else "Hm " * 200
        return super()._events(body)


async def test_a_thought_that_filled_the_answer_is_asked_to_end():
    server, usage = Dawdling(), Usage()
    (written,) = await fake_chat.extend(server.generator(chat_spec(budget=10, parameter="budget")), usage=usage)
    assert written.finished
    assert written.text.endswith("Answer: 7")
    assert written.reasoning.startswith("Hm Hm")
    assert usage.generated_tokens == written.cost
    assert [body["budget"] for _, body, _ in server.asked] == [10, 0]


def test_what_an_engine_cannot_keep_is_refused(tmp_path):
    where = Deployment({"small": ("http://a",)})
    with pytest.raises(InvalidFile, match=r"thinking\.parameter"):
        load_openai("small", chat_spec(budget=10), tmp_path, where)
    with pytest.raises(InvalidFile, match="backend openai"):
        thinking(FakeVllm(), effort="low")


# To the policy


def test_two_models_may_differ_in_their_thoughts_only():
    entry = {"model": "m", "parameters": 100, "template": {}, "temperature": 0.8, "max_tokens": 500}
    models = {"small": entry, "small-thinking-2k": {**entry, "thinking": {"budget": 2000}}}
    verifier = {"kind": "log_prob", "adapter": None, "parameters": 0}
    setup: Setup = read(Setup, {"name": "x", "reference": "small", "models": models, "verifier": verifier})
    assert setup.worth == {"small": 1.0, "small-thinking-2k": 5.0}


def test_thinking_without_a_measure_is_refused():
    with pytest.raises(ValueError, match="budget"):
        Thinking()


# Real ones


@pytest.fixture(
    params=[pytest.param("in_process", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.vllm)]
)
async def real(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator:
    model = EMBEDDED
    where = Deployment()
    if request.param == "vllm":
        servers = request.getfixturevalue("vllm_servers")
        model, where = str(servers.embedded), Deployment({"small": (servers.generator,)})
    spec = ModelSpec(model, 1_000, OwnTemplate("\n"), 0.8, 24, backend=request.param, thinking=Thinking(budget=BUDGET))
    setup = Setup("x", "small", {"small": spec}, VerifierSpec("log_prob", None, 0))
    generator = load_model("small", setup, tmp_path, where)
    yield generator
    await generator.close()


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
async def test_a_real_model_answers_after_its_thought(real):
    usage = Usage()
    written = await extend(real, [Candidate()] * 2, usage, Prompt.of("What is 12 + 30?"))
    assert all(candidate.text and candidate.reasoning for candidate in written)
    assert all(0 < candidate.thinking_tokens <= BUDGET + 1 for candidate in written)
    assert usage.thinking_tokens == sum(candidate.thinking_tokens for candidate in written)
    assert usage.generated_tokens == sum(candidate.cost for candidate in written)


@pytest.mark.llama_cpp
@pytest.mark.timeout(1200)
async def test_a_llama_cpp_server_takes_a_budget(llama_cpp_url, tmp_path):
    thinking = Thinking(budget=16, parameter="thinking_budget_tokens")
    spec = replace(chat_spec(budget=16), thinking=thinking, endpoint=Endpoint({"top_k": 0}), max_tokens=16)
    generator = load_openai("small", spec, tmp_path, Deployment({"small": (llama_cpp_url,)}))
    (written,) = await extend(generator, [Candidate()], prompt=PROMPT)
    assert written.text
    await generator.close()
