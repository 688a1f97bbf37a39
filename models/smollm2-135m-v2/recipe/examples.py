"""Write the files in data/: worked examples for the solver, and prompts for everything that is sampled.

Usage: python examples.py OUT
"""

import json
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from problems import Problem, generate

JUDGED = {"heldout": 250, "tune": 500}
SOLVER, PRACTICE = 3000, 3000


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Small problems are few, and whoever draws last gets fewer of them: one draw, shuffled, makes the sets alike.
    judged = generate(sum(JUDGED.values()), seed=13, judged=True)
    random.Random(13).shuffle(judged)
    rest = iter(judged)
    for name, size in JUDGED.items():
        _write(out / f"{name}.jsonl", map(_prompt, islice(rest, size)))
    exclude = frozenset(problem.prompt for problem in judged)
    _write(out / "practice.jsonl", map(_prompt, generate(PRACTICE, seed=11, exclude=exclude)))
    worked = generate(SOLVER, seed=12, exclude=exclude)
    _write(out / "solver.jsonl", ({"prompt": p.prompt, "completion": p.solution} for p in worked))


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
