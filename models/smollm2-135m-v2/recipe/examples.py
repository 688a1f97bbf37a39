"""Write the files in data/: worked examples for solver and verifier, and prompts for everything that is sampled.

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
SOLVER, PRACTICE, VERIFIER = 3000, 3000, 14000


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Small problems are few, and whoever draws last gets fewer of them: one draw, shuffled, makes the sets alike.
    judged = generate(sum(JUDGED.values()), seed=13, judged=True)
    random.Random(13).shuffle(judged)
    rest = iter(judged)
    for name, size in JUDGED.items():
        _write(out / f"{name}.jsonl", map(_prompt, islice(rest, size)))
    exclude = frozenset(problem.prompt for problem in judged)
    practice = generate(PRACTICE, seed=11, exclude=exclude)
    _write(out / "practice.jsonl", map(_prompt, practice))
    _write(out / "solver.jsonl", map(_worked, generate(SOLVER, seed=12, exclude=exclude)))
    # The verifier is judged on practice prompts before anything else, so it learns from none of them either.
    exclude |= frozenset(problem.prompt for problem in practice)
    _write(out / "verifier.jsonl", map(_worked, generate(VERIFIER, seed=14, exclude=exclude)))


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _worked(problem: Problem) -> dict:
    return {"prompt": problem.prompt, "completion": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
