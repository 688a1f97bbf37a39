"""A model in process that is asked which of two answers it would begin with: its own probabilities, exactly."""

from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from router.backends import Usage
from router.backends.in_process.batching import Batcher
from router.backends.in_process.generator import TransformersGenerator
from router.backends.in_process.memory import Pool
from router.backends.preference import label_tokens, within_cap
from router.backends.specs import ModelSpec
from router.backends.template import Template, encode
from router.backends.vllm.generator import VllmGenerator
from router.errors import InvalidRequest
from router.prompt import Prompt
from strategies import Candidate
from tests.support import tiny_models

TEMPLATE = Template(user="{text}", answer="\n", retry="", delimiter="\n")
ANSWERS = "Answer", "What"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.rlhflow_prm(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> Iterator[TransformersGenerator]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batcher = Batcher(model, AutoTokenizer.from_pretrained(folder), "\n", 64, Pool(0.25))
    yield TransformersGenerator(batcher, ModelSpec("tiny", 1, TEMPLATE, temperature=1.0, max_tokens=64))
    batcher.close()


async def test_it_is_the_models_own_preference(generator):
    prompts = [Prompt.of(f"What is {n} + 3 * 4 ? " * repeat) for n, repeat in ((2, 1), (3, 2), (12, 40))]
    usage = Usage()
    found = await generator.prefer(prompts, ANSWERS, max_tokens=None, usage=usage)
    ids = [encode(generator.batcher.tokenizer, TEMPLATE.parts(prompt)) for prompt in prompts]
    first, second = label_tokens(generator.batcher.tokenizer, ANSWERS)
    with torch.inference_mode():
        logits = [generator.batcher.model(torch.tensor([each])).logits[0, -1] for each in ids]
    expected = [float(row[[first, second]].softmax(-1)[0]) for row in logits]
    assert len(ids[2]) > 256  # read in pieces
    assert found == pytest.approx(expected, abs=1e-4)
    assert usage == Usage(calls=3, scored_tokens=sum(map(len, ids)))
    turned = await generator.prefer(prompts, (ANSWERS[1], ANSWERS[0]), max_tokens=None, usage=Usage())
    assert turned == pytest.approx([1 - each for each in expected], abs=1e-4)


async def test_what_would_pass_the_cap_or_the_context_has_none(generator):
    few, usage = [Prompt.of("What"), Prompt.of("x" * 5_000), Prompt.of("What is")], Usage()
    assert [each is None for each in await generator.prefer(few, ANSWERS, max_tokens=None, usage=usage)] == [0, 1, 0]
    assert await generator.prefer(few, ANSWERS, max_tokens=1, usage=Usage()) == [None] * 3
    assert within_cap([[0] * 5, [0] * 5, [0] * 2], context=100, max_tokens=8) == [True, False, True]


async def test_answers_that_begin_alike_are_refused(generator):
    with pytest.raises(InvalidRequest, match="with the same token"):
        await generator.prefer([Prompt.of("What")], ("Answer", "Answer: 14"), max_tokens=None, usage=Usage())


async def test_samples_have_confidences_where_they_are_asked_for(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batcher = Batcher(model, AutoTokenizer.from_pretrained(folder), "\n", 24, Pool(0.25), top=5)
    generator = TransformersGenerator(batcher, ModelSpec("tiny", 1, TEMPLATE, temperature=1.0, max_tokens=24))
    prompt = Prompt.of("What is 2 + 3 ?")
    written = await generator.extend(
        prompt,
        [Candidate()] * 3,
        steps=None,
        temperature=None,
        max_tokens=None,
        deadline=None,
        seed=1,
        usage=Usage(),
    )
    before = encode(batcher.tokenizer, TEMPLATE.parts(prompt))
    for candidate in written:
        assert len(candidate.confidences) == sum(candidate.token_counts)
        with torch.inference_mode():
            logits = model(torch.tensor([[*before, *candidate.tokens]])).logits[0, len(before) - 1 : -1]
        expected = -logits.log_softmax(-1).topk(5).values.mean(-1)
        assert list(candidate.confidences) == pytest.approx(expected.tolist(), abs=1e-3)
    await generator.close()


async def test_vllm_is_asked_for_the_next_tokens_probabilities():
    asked = []

    class Server:
        """Answers as vLLM does."""

        urls = "http://here"

        async def get(self, path, read):
            return read({"data": [{"id": "base", "max_model_len": 40}]})

        async def post(self, path, body, read, *, load):
            asked.append(body)
            first, second = body["logprob_token_ids"]
            log_probs = {f"token_id:{first}": -0.5, f"token_id:{second}": -1.5}
            choices = [{"index": i, "logprobs": {"top_logprobs": [log_probs]}} for i in range(len(body["prompt"]))]
            return read({"choices": choices})

    class Characters:
        bos_token_id = None

        def encode(self, text, **options):
            return list(map(ord, text))

        def decode(self, tokens):
            return "".join(map(chr, tokens))

    server: Any = Server()
    generator = VllmGenerator(server, ModelSpec("m", 1, TEMPLATE, temperature=1.0, max_tokens=8), Characters())
    usage = Usage()
    prompts = [Prompt.of("ab"), Prompt.of("x" * 50), Prompt.of("abc")]
    found = await generator.prefer(prompts, ("Yes", "No"), max_tokens=None, usage=usage)
    assert found == [pytest.approx(1 / (1 + exp(-1))), None, pytest.approx(1 / (1 + exp(-1)))]
    (body,) = asked
    assert body["prompt"] == [tuple(map(ord, "ab\n")), tuple(map(ord, "abc\n"))]
    assert body["logprob_token_ids"] == (ord("Y"), ord("N"))
    assert (body["model"], body["max_tokens"]) == ("base", 1)
    assert usage == Usage(calls=1, scored_tokens=7)
