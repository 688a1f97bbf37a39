"""Where in the small model a prompt's hidden state tells most: layers and positions side by side, into places.json.

Usage: python places.py     (after fetch.py small; some 0.3 s a prompt on two cores)

On each task's sampled prompts, by five folds, as `benchmarks.difficulty` does on MATH's. ``nested`` chooses the place
within each training part: the best of the others was chosen on the prompts that it is measured on. vectors.parquet
keeps one place only, which MATH chose.
"""

import json
from pathlib import Path

import pandas as pd
from attempts import NATURAL, RECIPE, SMALL, TASKS, of_task, whole

from benchmarks.difficulty import compared
from difficulty import find_edges
from router.cli.policy import vectors_by_name
from router.training.difficulty import prompt_statistics

LAYERS = (8, 12, 14, 16)
POSITIONS = ("last", "mean", "last+mean")
NAMES = [f"hidden(layer={layer}, position={position})" for layer in LAYERS for position in POSITIONS]
KEPT = Path("build/natural/places.parquet")
FOUND = RECIPE / "places.json"


def main() -> None:
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
