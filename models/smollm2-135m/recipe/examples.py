"""Write files like those in data/: training examples for two legs, and three sets of prompts disjoint from them.

Usage: python examples.py OUT
"""

import json
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from problems import Problem, corrupt, generate

JUDGED = {"heldout": 80, "tune": 300, "verifier": 280}
LEGS = {"solver-1": 1800, "solver-2": 1500}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # Small problems are few, and whoever draws last gets fewer of them: one draw, shuffled, makes the sets alike.
    judged = generate(sum(JUDGED.values()), seed=3)
    random.Random(3).shuffle(judged)
    rest = iter(judged)
    for name, size in JUDGED.items():
        _write(out / f"{name}.jsonl", map(_prompt, islice(rest, size)))
    exclude = frozenset(problem.prompt for problem in judged)
    rest = iter(generate(sum(LEGS.values()), seed=1, exclude=exclude))
    for name, size in LEGS.items():
        _write(out / f"{name}.jsonl", _examples(islice(rest, size), random.Random(name)))


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _examples(problems: Iterable[Problem], rng: random.Random) -> Iterable[dict]:
    """Worked solutions; a quarter of them after one to three earlier attempts, mostly wrong: to learn to revise."""
    for problem in problems:
        depth = rng.choice([1, 1, 1, 2, 2, 3]) if rng.random() < 0.25 else 0
        earlier = [corrupt(problem, rng) if rng.random() < 0.8 else problem.solution for _ in range(depth)]
        yield {"prompt": problem.prompt, "earlier": earlier, "completion": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
