"""Compares the in-process engine with transformers' own continuous batching: equal prompts and tokens, one run.

Usage: python -m benchmarks.batching [--requests 16] [--tokens 40] [--json]

The last line is one JSON object: tokens/s of each, and ``ratio``, ours over theirs. Both are warmed up first.
"""

import argparse
import asyncio
import json
import time
import warnings

from transformers import ContinuousBatchingConfig, GenerationConfig

from router.backends import Usage
from router.backends.in_process.batching import Batcher
from router.backends.in_process.generator import TransformersGenerator
from router.backends.in_process.weights import load_model
from router.backends.specs import EMBEDDED, ModelSpec
from router.backends.template import CHATML, encode
from router.prompt import Prompt
from strategies import Candidate

PAGE = 256  # tokens in a page of transformers' cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40, help="a solution, exactly")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    model, tokenizer = load_model(EMBEDDED)
    problem = "State the final answer to the following arithmetic problem: {} - 1 - 7 ="
    prompts = [Prompt.of(problem.format(number)) for number in range(options.requests)]
    total = options.requests * options.tokens
    seconds = {
        "ours": ours(model, tokenizer, prompts, options.tokens),
        "transformers": theirs(model, tokenizer, prompts, options.tokens),
    }
    rates = {name: round(total / value, 1) for name, value in seconds.items()}
    if not options.json:
        print(f"{options.requests} requests of {options.tokens} tokens, tokens/s: {rates}")
    print(json.dumps({**rates, "ratio": round(seconds["transformers"] / seconds["ours"], 2)}))


def ours(model, tokenizer, prompts: list[Prompt], tokens: int) -> float:
    batcher = Batcher(model, tokenizer, CHATML.delimiter, tokens)
    batcher._eos = set()  # every solution runs to its full length
    generator = TransformersGenerator(batcher, ModelSpec(EMBEDDED, 1, CHATML, 0.8, tokens))

    async def all_at_once() -> None:
        calls = (
            generator.extend(
                prompt,
                [Candidate()],
                steps=None,
                temperature=None,
                max_tokens=None,
                deadline=None,
                seed=0,
                usage=Usage(),
            )
            for prompt in prompts
        )
        await asyncio.gather(*calls)

    asyncio.run(all_at_once())
    started = time.monotonic()
    asyncio.run(all_at_once())
    seconds = time.monotonic() - started
    batcher.close()
    return seconds


def theirs(model, tokenizer, prompts: list[Prompt], tokens: int) -> float:
    ids = [list(encode(tokenizer, CHATML.parts(prompt))) for prompt in prompts]
    model.set_attn_implementation("sdpa")  # its batching does not work with our attention
    config = GenerationConfig(max_new_tokens=tokens, do_sample=True, temperature=0.8, eos_token_id=-1, pad_token_id=0)
    # By default it takes nearly all memory of the machine for its cache, even on a CPU.
    pages = sum(-(-(len(each) + tokens) // PAGE) for each in ids)
    sizes = ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=max(512, len(ids)))
    options = {"generation_config": config, "continuous_batching_config": sizes}
    model.generate_batch(inputs=ids[:2], **options)
    started = time.monotonic()
    model.generate_batch(inputs=ids, **options)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
