"""The in-process engine on a model of two small layers with random weights. A character is a token."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from router.backends import Usage
from router.backends.in_process.attention import GROUPED
from router.backends.in_process.batching import Batcher
from router.backends.in_process.generator import TransformersGenerator
from router.backends.in_process.memory import Pool
from router.backends.in_process.prefill import bytes_a_token
from router.backends.specs import ModelSpec
from router.backends.template import Template
from router.prompt import Prompt
from strategies import Candidate

CONTEXT = 8192
TEMPLATE = Template(user="{text}|", answer="", retry="|", delimiter="\n")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


class Ascii:
    """The part of a transformers tokenizer that the engine uses."""

    eos_token_id = 0
    unk_token_id = None

    def encode(self, text: str, **options: Any) -> list[int]:
        return [min(127, ord(character)) for character in text]

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return "".join(map(chr, tokens))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return None


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        max_position_embeddings=CONTEXT,
        num_key_value_heads=1,
        initializer_range=0.3,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=None,
        **SIZES,
    )
    tiny = LlamaForCausalLM(config).eval()
    tiny.set_attn_implementation(GROUPED)
    return tiny


class Engine:
    """A generator on such a model. ``tokens``: its memory, in tokens; ``slow``: seconds added to each pass."""

    def __init__(self, *, tokens: int = 400_000, max_tokens: int = 64, slow: float = 0.0):
        self.model = model()
        self.slow = slow
        self.passes: list[tuple[int, int]] = []  # rows and columns of each forward pass of the inner model
        self.pool = Pool(tokens * bytes_a_token(self.model) / 2**30)
        self.batcher = Batcher(self.model, Ascii(), "\n", max_tokens, self.pool)
        spec = ModelSpec("tiny", 1000, TEMPLATE, temperature=1.0, max_tokens=max_tokens)
        self.generator = TransformersGenerator(self.batcher, spec)
        self.model.model.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, module: Any, arguments: Any, options: dict[str, Any]) -> None:
        ids, mask = options["input_ids"], options["attention_mask"]
        self.passes.append((ids.shape[0], mask.shape[-1]))
        time.sleep(self.slow)

    async def write(self, prompt: str, n: int = 1, usage: Usage | None = None, **options: Any) -> list[Candidate]:
        defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
        usage = Usage() if usage is None else usage
        return await self.generator.extend(Prompt.of(prompt), [Candidate()] * n, **{**defaults, **options}, usage=usage)

    async def read(self, tokens: int) -> None:
        """Wait until so many tokens of prompts have been read."""
        while self.batcher.counted.prompt_tokens < tokens:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.001)
