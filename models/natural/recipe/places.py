"""Where in the small model a prompt's hidden state tells most: layers and positions side by side, into places.json.

Usage: python places.py [--time PROMPTS]     (after fetch.py small; some 0.3 s a prompt on two cores)

--time  only print how long reading takes, so many prompts of each task, one at a time; OMP_NUM_THREADS says on how many
        threads

On each task's sampled prompts, by five folds, as `benchmarks.difficulty` does on MATH's. ``nested`` chooses the place
within each training part: the best of the others was chosen on the prompts that it is measured on. vectors.parquet
keeps one place only, which MATH chose.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from attempts import NATURAL, RECIPE, SMALL, TASKS, of_task, whole

from benchmarks.difficulty import compared
from benchmarks.difficulty_features import first_layers, timed
from difficulty import find_edges
from router.attempts.prompts import read_prompts
from router.bundle.setup import read_setup
from router.cli.policy import vectors_by_name
from router.training.difficulty import prompt_statistics

LAYERS = (8, 12, 14, 16)
POSITIONS = ("last", "mean", "last+mean")
NAMES = [f"hidden(layer={layer}, position={position})" for layer in LAYERS for position in POSITIONS]
KEPT = Path("build/natural/places.parquet")
FOUND = RECIPE / "places.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=int, metavar="PROMPTS")
    asked = parser.parse_args()
    if asked.time:
        time(asked.time)
    else:
        compare()


def time(prompts: int) -> None:
    from transformers import AutoTokenizer

    model = Path(read_setup(NATURAL / "gsm8k").main.model)
    tokenizer, layers = AutoTokenizer.from_pretrained(model), first_layers(model, max(LAYERS))
    for task in TASKS:
        problems = read_prompts(RECIPE / "data" / f"{task}-heldout.jsonl")[:prompts]
        messages = [[{"role": each.role, "content": each.text} for each in one.prompt.messages] for one in problems]
        texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in messages]
        print(task, flush=True)
        timed(layers, [tokenizer.encode(text, add_special_tokens=False) for text in texts], LAYERS)


def compare() -> None:
    found = {}
    for task in TASKS:
        attempts = pd.concat([whole(of_task(task, part)) for part in ("tune", "heldout")])
        prompts = prompt_statistics(attempts[attempts["arm"] == SMALL], "pass_rate")
        asked, rates = prompts["asked"].tolist(), prompts["statistic"].to_numpy(dtype=float)
        vectors = vectors_by_name(NATURAL / task, NAMES, KEPT)(asked)
        rows = compared([prompt.question for prompt in asked], rates, dict(vectors), find_edges(rates).tolist())
        found[task] = {"prompts": len(asked), "candidates": rows}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
