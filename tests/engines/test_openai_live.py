"""Real chat completions endpoints: llama.cpp's server (`make test-llama-cpp`), vLLM's (`make test-vllm`)."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from router.backends import Usage
from router.backends.openai import load_model
from router.backends.openai.generator import OpenAIGenerator
from router.backends.specs import Deployment, Endpoint, ModelSpec
from router.backends.template import OwnTemplate
from router.errors import InvalidRequest
from router.prompt import Prompt
from tests.support.fake_chat import extend

pytestmark = [pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]  # servers start first

PROMPT = Prompt.of("Tell me about the sea.")
TEMPLATE = OwnTemplate("\n", default_system="Answer in one short sentence.")
SPEC = ModelSpec("small", 134_515_008, TEMPLATE, temperature=0.9, max_tokens=24, backend="openai")
PLAIN = {"top_k": 0, "min_p": 0}  # the servers' own defaults would change what is sampled


@dataclass
class Live:
    url: str
    spec: ModelSpec

    def generator(self, **changes) -> OpenAIGenerator:
        made = load_model("small", replace(self.spec, **changes), Path(), Deployment({"small": (self.url,)}))
        assert isinstance(made, OpenAIGenerator)
        return made


@pytest.fixture(
    params=[pytest.param("llama_cpp", marks=pytest.mark.llama_cpp), pytest.param("vllm", marks=pytest.mark.vllm)]
)
def live(request: pytest.FixtureRequest) -> Live:
    spec = replace(SPEC, endpoint=Endpoint(PLAIN))
    if request.param == "llama_cpp":
        return Live(request.getfixturevalue("llama_cpp_url"), spec)
    servers = request.getfixturevalue("vllm_servers")
    return Live(servers.generator, replace(spec, model=str(servers.embedded)))


@pytest.fixture
async def generator(live: Live) -> AsyncIterator[OpenAIGenerator]:
    made = live.generator()
    yield made
    await made.close()


async def test_samples_differ_and_their_tokens_are_the_bills(generator):
    usage = Usage()
    written = await extend(generator, 4, usage, PROMPT)
    assert len({candidate.text for candidate in written}) > 1
    assert usage.generated_tokens == sum(candidate.cost for candidate in written)
    assert 0 < usage.prompt_tokens + usage.generated_tokens < 4 * 100
    assert {candidate.end for candidate in written} <= {"stop", "length"}
    assert all(candidate.cost <= 24 for candidate in written)


async def test_steps_have_log_probabilities(generator):
    for candidate in await extend(generator, 2, prompt=PROMPT):
        assert len(candidate.log_probs) == len(candidate.token_counts) == len(candidate.steps) > 0
        assert all(log_prob < 0 for log_prob in candidate.log_probs)


async def test_more_samples_than_the_server_gives_at_once_are_written(generator):
    written = await extend(generator, 9, prompt=PROMPT, max_tokens=9 * 4)
    assert len(written) == 9
    assert all(candidate.text for candidate in written)


async def test_equal_seeds_give_equal_samples(generator):
    one, again, other = [
        [candidate.text for candidate in await extend(generator, 1, prompt=PROMPT, seed=seed)] for seed in (1, 1, 2)
    ]
    assert one == again != other


async def test_greedy_solutions_are_equal(generator):
    first, second = await extend(generator, 2, prompt=PROMPT, temperature=0)
    assert first == second


async def test_a_deadline_brings_back_what_there_is(live):
    generator, usage = live.generator(max_tokens=700), Usage()
    await extend(generator, 1, prompt=PROMPT, max_tokens=2)  # the server is warm
    started = time.monotonic()
    written = await extend(generator, 2, usage, PROMPT, deadline=started + 2.0)
    assert time.monotonic() - started < 30
    assert {candidate.end for candidate in written} <= {"cut", "stop"}
    assert usage.generated_tokens < 1400
    await generator.close()


async def test_a_cancelled_call_leaves_the_server_free(live):
    generator = live.generator(max_tokens=700)
    task = asyncio.create_task(extend(generator, 4, prompt=PROMPT))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (written,) = await extend(generator, 1, prompt=PROMPT, max_tokens=4)
    assert written.text
    await generator.close()


async def test_a_prompt_without_room_is_refused(generator):
    with pytest.raises(InvalidRequest, match="too long") as raised:
        await extend(generator, 4, prompt=Prompt.of("the sea " * 3000))
    assert raised.value.reason == "PROMPT_TOO_LONG"
