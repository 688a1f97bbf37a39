"""Write the files that the recipe's commands read: training examples and three disjoint sets of prompts.

Usage: python examples.py OUT
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from problems import Problem, corrupt, generate

SOLVER = 3300
JUDGED = {"heldout": 120, "tune": 300, "verifier": 500}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Small problems are few, and whoever draws last gets fewer of them: one draw, shuffled, makes the sets alike.
    judged = generate(sum(JUDGED.values()), seed=3)
    random.Random(3).shuffle(judged)
    taken = 0
    for name, size in JUDGED.items():
        _write(out / f"{name}.jsonl", map(_prompt, judged[taken : taken + size]))
        taken += size
    solver = generate(SOLVER, seed=1, exclude=frozenset(problem.prompt for problem in judged))
    _write(out / "solver.jsonl", _examples(solver, random.Random(1)))


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _examples(problems: list[Problem], rng: random.Random) -> Iterable[dict]:
    """Worked solutions; a quarter of them after one to three earlier attempts, mostly wrong: to learn to revise."""
    for problem in problems:
        depth = rng.choice([1, 1, 1, 2, 2, 3]) if rng.random() < 0.25 else 0
        earlier = [corrupt(problem, rng) if rng.random() < 0.8 else problem.solution for _ in range(depth)]
        yield {"prompt": problem.prompt, "earlier": earlier, "completion": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
