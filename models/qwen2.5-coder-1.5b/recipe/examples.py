"""Write the prompts in data/, drawn from GSM8K's training problems (MIT licence; its test problems are not touched).

Usage: python examples.py GSM8K_TRAIN_JSONL    (its fields: question, answer, which ends in "#### 72")
"""

import json
import random
import re
import sys
from pathlib import Path

# Disjoint: nothing is calibrated, tuned or judged on a problem that something before it learned from.
SIZES = {"heldout": 150, "tune": 300, "calibration": 160, "practice": 640}
DATA = Path(__file__).parent / "data"


def main(file: Path) -> None:
    rows: dict[str, dict] = {}  # by question: one that is there twice must not come into two sets
    for number, line in enumerate(file.read_text().strip().split("\n"), 1):
        problem = json.loads(line)
        question = problem["question"].strip()
        answer = problem["answer"].rpartition("####")[2].replace(",", "").strip()
        if re.fullmatch(r"-?\d+", answer):
            rows.setdefault(question, {"id": f"gsm8k-{number}", "prompt": question, "reference": answer})
    drawn = iter(random.Random(17).sample(list(rows.values()), sum(SIZES.values())))
    DATA.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        lines = [json.dumps(next(drawn)) + "\n" for _ in range(size)]
        (DATA / f"{name}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file]:
            main(Path(file))
        case _:
            sys.exit(__doc__)
