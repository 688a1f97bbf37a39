"""What larger.sh compares this bundle with: Qwen2.5-Coder-1.5B-Instruct, and prompts on which thinking may pay.

Usage: python larger.py FOLDER      (begins the bundle in FOLDER)
       python larger.py --prompts   (draws data/middling.jsonl anew)
"""

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path
from shutil import copy, copytree

import pandas as pd

from router.backends.template import CHATML

RECIPE = Path(__file__).parent
BUNDLE = RECIPE.parent
MODEL = Path("build/qwen2.5-coder-1.5b")
LARGER = {
    "model": str(MODEL),
    "backend": "vllm",
    "parameters": 1_543_714_304,
    # The tasks' own words ("give only the result") would have it skip the work that it gets right answers by: it is
    # shown how the small model was taught to work. vLLM's prefix cache holds that; only the first prompt pays.
    "template": asdict(CHATML) | {"examples": (RECIPE / "data" / "larger-examples.txt").read_text()},
    "temperature": 0.8,
    "max_tokens": 160,
}
MIDDLING, SOLVED_SOMETIMES = 192, (0.1, 0.6)


def begin(folder: Path) -> None:
    """This bundle's models and difficulty model, and the larger model beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("generator", "verifier", "reviser"):
        copytree(BUNDLE / name, folder / name, dirs_exist_ok=True)
    for name in ("difficulty.joblib", "familiarity.json", "training.json"):
        copy(BUNDLE / name, folder)
    setup = json.loads((BUNDLE / "models.json").read_text())
    setup["name"] = "smollm2-135m-or-qwen2.5-coder-1.5b"
    setup["models"]["large"] = LARGER
    (folder / "models.json").write_text(json.dumps(setup, indent=2) + "\n")


def draw() -> None:
    """Prompts that the generator solves sometimes, and that no model of the bundle learned from."""
    baseline = pd.read_parquet(BUNDLE / "attempts" / "baseline.parquet")
    rates = baseline[baseline["arm"] == "sample"].groupby("prompt_id")["correct"].mean()
    middling = set(rates[rates.between(*SOLVED_SOMETIMES)].index)
    calibrated = set(pd.read_parquet(BUNDLE / "attempts" / "calibration.parquet")["prompt_id"])
    learned = {row["prompt"] for row in _rows("solver")}
    fresh = [row for row in _rows("calibration") if row["id"] in middling - calibrated and row["prompt"] not in learned]
    drawn = random.Random(15).sample(fresh, MIDDLING)
    (RECIPE / "data" / "middling.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drawn))


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (RECIPE / "data" / f"{name}.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    match sys.argv[1]:
        case "--prompts":
            draw()
        case folder:
            begin(Path(folder))
