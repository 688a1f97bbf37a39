"""What verifiers and the door for OpenAI's clients ask of a real vLLM, beside transformers on the same weights.

Run by `make test-vllm`.
"""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from router.backends import Engines, Usage
from router.backends.fake import FakeVerifier
from router.backends.preference import label_tokens
from router.backends.specs import EMBEDDED, Deployment, ModelSpec
from router.backends.template import OwnTemplate, encode
from router.backends.verifiers import judge, lowest_window
from router.backends.vllm import load_model
from router.bundle.bundle import load_bundle
from router.prompt import Prompt
from router.solving.solver import Solver
from strategies import Candidate
from tests.support.http import asked, client_of, serving

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]  # servers start first

SPEC = ModelSpec(EMBEDDED, 134_515_008, OwnTemplate("\n"), temperature=0.8, max_tokens=24, backend="vllm")
PROMPT = Prompt.of("What is 2 + 3?")
TOLERANCE = 1.5e-2  # vLLM's own, between itself and transformers
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
async def generator(vllm_servers, tmp_path) -> AsyncIterator[Any]:
    where = Deployment({"small": (vllm_servers.generator,)})
    made = load_model("small", SPEC, tmp_path, where, top=20)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def transformer(vllm_servers):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(vllm_servers.embedded, dtype=torch.float32).eval()


def log_probs_after(transformer, tokens) -> Any:
    """Log-probabilities of the whole vocabulary after each of the tokens."""
    import torch

    with torch.inference_mode():
        return transformer(torch.tensor([tokens])).logits[0].log_softmax(-1)


async def test_the_lowest_window_is_read_from_the_likeliest_tokens(generator, transformer):
    written = await generator.extend(
        PROMPT,
        [Candidate()] * 3,
        steps=None,
        temperature=None,
        max_tokens=None,
        deadline=None,
        seed=1,
        usage=Usage(),
    )
    before = encode(generator.tokenizer, generator.template.parts(PROMPT))
    for candidate in written:
        after = log_probs_after(transformer, [*before, *candidate.tokens])[len(before) - 1 : -1]
        expected = (-after.topk(20).values.mean(-1)).tolist()
        assert list(candidate.confidences) == pytest.approx(expected, rel=TOLERANCE)
    verifier = lowest_window.LowestWindow(lowest_window.Options(window=8))
    scored = await verifier.score(PROMPT, written, max_tokens=None, usage=Usage())
    rows = [candidate.scores or () for candidate in scored]
    assert [len(row) for row in rows] == [len(candidate.steps) for candidate in scored]
    assert all(0 < score < 1 for row in rows for score in row)
    assert len({row[-1] for row in rows}) > 1


async def test_a_judge_has_the_models_own_preference(generator, transformer):
    texts = ["2 + 3 = 5\nAnswer: 5", "2 + 3 = 6\nAnswer: 6"]
    verifier, usage = judge.Judge(generator, "small", judge.Options()), Usage()
    candidates = [Candidate(steps=(text,), end="stop", answer=text[-1]) for text in texts]
    scored = await verifier.score(PROMPT, candidates, max_tokens=None, usage=usage)
    labels = list(label_tokens(generator.tokenizer, ("Yes", "No")))
    read = 0
    for candidate, text in zip(scored, texts, strict=True):
        tokens = encode(generator.tokenizer, generator.template.parts(verifier._question(PROMPT, text)))
        read += len(tokens)
        expected = log_probs_after(transformer, tokens)[-1][labels].softmax(-1)[0]
        assert list(candidate.scores or ()) == pytest.approx([float(expected)], rel=TOLERANCE)
    assert (usage.scored_tokens, usage.generated_tokens) == (read, 0)


# What no search can serve


@pytest.fixture
async def client(generator, bundle_folder) -> AsyncIterator[openai.AsyncOpenAI]:
    engines = Engines({"small": generator}, "small", FakeVerifier())
    async with serving(Solver(load_bundle(bundle_folder), engines)) as server, client_of(server) as client:
        yield client


async def test_several_answers_and_log_probabilities_are_vllms_own(client):
    reply = await client.chat.completions.create(**asked("Say hello.", n=2, logprobs=True, max_tokens=12))
    assert sorted(choice.index for choice in reply.choices) == [0, 1]
    assert all(entry.logprob <= 0 for choice in reply.choices for entry in choice.logprobs.content)
    assert set(reply.router["direct"]["because"]) == {"n", "logprobs"}
    assert 0 < reply.usage.completion_tokens == reply.router["bill"]["generated_tokens"] <= 24


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"logprobs": True, "top_logprobs": 99}, "does not take this request"),
        (  # tools are for servers that were started for them
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
            "requires --tool-call-parser",
        ),
    ],
)
async def test_what_vllm_does_not_take_is_said_in_its_own_words(client, fields, said):
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        await client.chat.completions.create(**asked("Hello", **fields))
    assert raised.value.code == "not_searchable"
