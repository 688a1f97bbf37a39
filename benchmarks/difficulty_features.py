"""Reads features of problems whose difficulty people have rated: MATH's training problems, levels 1 to 5.

Usage: python -m benchmarks.difficulty_features PROBLEMS.parquet MODEL OUT [--layers 4 8 12 14 16] [--most 7500]

PROBLEMS.parquet  MATH's training split: columns level ("Level 3"), type, and extra_info or prompt with the question
MODEL             a folder that transformers loads; models/natural/recipe/fetch.py makes one
OUT               a folder for pieces of `--piece` problems in a random order. A piece is written once, so that an
                  interrupted run can be continued, and existing pieces are always a random part of the problems

A piece holds an array for each layer, (n, 2, size) in float16: the hidden state after so many layers, at the last token
of the prompt as a server would send it, and the mean over its tokens. Layers past the last one wanted are not run.
`--time 20` prints how long 20 prompts take instead, one at a time.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.backends.in_process.hidden import read_hidden
from router.backends.states import State

POSITIONS = ("last", "mean")
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
_SUFFIX = re.compile(r"\s*Let's think step by step and output the final answer within \\boxed\{\}\.\s*$")
_TOKENS = 2048  # tokens read at once


def problems(path: Path, seed: int = 17) -> pd.DataFrame:
    """Return ``text``, ``level`` 1 to 5 and ``type`` of problems in a random order, each text once."""
    table = pd.read_parquet(path)
    text = [_SUFFIX.sub("", messages[-1]["content"]).strip() for messages in table["prompt"]]
    level = pd.to_numeric(table["level"].str.removeprefix("Level "), errors="coerce")
    found = pd.DataFrame({"text": text, "level": level, "type": table["type"]}).dropna().drop_duplicates("text")
    return found.astype({"level": int}).sample(frac=1, random_state=seed).reset_index(drop=True)


def rendered(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of the prompt, up to where the answer begins."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(whole, add_special_tokens=False)
    return ids


def first_layers(folder: Path, layers: int) -> Any:
    """Return the model cut off after its first ``layers`` layers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").model
    model.layers = model.layers[:layers]
    model.norm = torch.nn.Identity()
    model.config.num_hidden_layers = layers
    return model


def read(model: Any, prompts: list[list[int]], layers: Sequence[int]) -> dict[str, NDArray[np.float16]]:
    """Return by layer the hidden states, (n, positions, size)."""
    import torch

    shape = len(prompts), len(POSITIONS), model.config.hidden_size
    found = {str(layer): np.zeros(shape, dtype=np.float16) for layer in layers}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    while order:
        # The longest prompts come first, so that one too large for memory fails at once.
        longest = len(prompts[order[-1]])
        batch = order[-max(1, _TOKENS // longest) :]
        del order[-len(batch) :]
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, : len(prompts[i])] = torch.tensor(prompts[i])
            mask[row, : len(prompts[i])] = 1
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        for layer in layers:
            for row, i in enumerate(batch):
                own = states[layer][row, : len(prompts[i])].float()
                found[str(layer)][i] = torch.stack([own[-1], own.mean(0)]).clamp(-65000, 65000).half().numpy()
    return found


def timed(model: Any, prompts: list[list[int]], layers: Sequence[int]) -> None:
    """Print median milliseconds to read one prompt as a server does, by number of layers run."""
    import torch

    for layer in layers:
        took = []
        for ids in [prompts[0], *prompts]:  # the first one warms up
            wall, processor = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                list(read_hidden(model, ids, [State(layer, "last")]))
            took.append((time.perf_counter() - wall, time.process_time() - processor))
        wall, processor = (round(1000 * float(value), 1) for value in np.median(took[1:], axis=0))
        print(json.dumps({"layers": layer, "milliseconds": wall, "processor_milliseconds": processor}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 12, 14, 16])
    parser.add_argument("--most", type=int, default=7500)
    parser.add_argument("--piece", type=int, default=250)
    parser.add_argument("--time", type=int, metavar="PROMPTS", help="only print how long so many prompts take")
    asked = parser.parse_args()

    from transformers import AutoTokenizer

    table = problems(asked.problems)[: asked.most]
    asked.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = first_layers(asked.model, max(asked.layers))
    if asked.time:
        timed(model, [rendered(tokenizer, text) for text in table["text"][: asked.time]], asked.layers)
        return
    for start in range(0, len(table), asked.piece):
        target = asked.out / f"{start:05}.npz"
        if target.exists():
            continue
        began = time.monotonic()
        prompts = [rendered(tokenizer, text) for text in table["text"][start : start + asked.piece]]
        scratch = target.with_suffix(".part.npz")
        np.savez(scratch, **read(model, prompts, asked.layers))
        scratch.rename(target)
        seconds = time.monotonic() - began
        print(json.dumps({"piece": target.name, "prompts": len(prompts), "seconds": round(seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
