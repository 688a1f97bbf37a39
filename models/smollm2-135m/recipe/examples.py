"""Write the files in data/: worked examples for the solver, and prompts for everything that is sampled.

Usage: python examples.py OUT                 (prompts are drawn anew: only into an empty folder)
       python examples.py --verifier FILE [N] (worked examples for the verifier, none of a prompt in data/)
"""

import json
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from problems import Problem, generate

JUDGED = {"heldout": 150, "tune": 300, "reviser": 60}
SOLVER, PRACTICE, VERIFIER = 3000, 1400, 15000
DATA = Path(__file__).parent / "data"


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
    _write(out / "solver.jsonl", map(_worked, generate(SOLVER, seed=12, exclude=exclude)))


def verifier(file: Path, size: int) -> None:
    """It is calibrated on practice prompts and used on judged ones, so it learns from neither."""
    names = ("practice", *JUDGED)
    lines = (line for name in names for line in (DATA / f"{name}.jsonl").read_text().splitlines())
    exclude = frozenset(json.loads(line)["prompt"] for line in lines)
    _write(file, map(_worked, generate(size, seed=14, exclude=exclude)))


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _worked(problem: Problem) -> dict:
    return {"prompt": problem.prompt, "completion": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--verifier", file, *size]:
            verifier(Path(file), int(*size) if size else VERIFIER)
        case [folder]:
            main(Path(folder))
        case _:
            sys.exit(__doc__)
