"""Write the files in data/: worked examples for the solver, and prompts for everything that is sampled.

Usage: python examples.py OUT                 (prompts are drawn anew: only into an empty folder)
       python examples.py --verifier FILE [N] (worked examples for the verifier, none of a prompt in data/)
       python examples.py --practice FILE [N] (prompts for attempts that the reviser learns from, none in data/ either)
       python examples.py --fresh FILE [N]    (held-out prompts of another seed, of no set above nor in data/)
"""

import json
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from problems import Problem, generate

JUDGED = {"heldout": 250, "tune": 500, "reviser": 60}
SOLVER, CALIBRATION, VERIFIER, PRACTICE, FRESH = 3000, 1400, 150_000, 5000, 1000
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
    _write(out / "calibration.jsonl", map(_prompt, generate(CALIBRATION, seed=11, exclude=exclude)))
    _write(out / "solver.jsonl", map(_worked, generate(SOLVER, seed=12, exclude=exclude)))


def _drawn(*names: str) -> frozenset[str]:
    lines = (line for name in names for line in (DATA / f"{name}.jsonl").read_text().splitlines())
    return frozenset(json.loads(line)["prompt"] for line in lines)


def _prompt(problem: Problem) -> dict:
    return {"id": problem.id, "prompt": problem.prompt, "reference": problem.reference, "solution": problem.solution}


def _worked(problem: Problem) -> dict:
    return {"prompt": problem.prompt, "completion": problem.solution}


def _write(file: Path, rows: Iterable[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    # The verifier is calibrated on prompts that it did not learn from, and used on judged ones.
    sampled = ("calibration", *JUDGED)
    match sys.argv[1:]:
        case ["--verifier", file, *size]:
            problems = generate(int(*size) if size else VERIFIER, seed=14, exclude=_drawn(*sampled))
            _write(Path(file), map(_worked, problems))
        case ["--practice", file, *size]:
            problems = generate(int(*size) if size else PRACTICE, seed=15, exclude=_drawn(*sampled, "solver"))
            _write(Path(file), map(_prompt, problems))
        case ["--fresh", file, *size]:
            seen = _drawn(*sampled, "solver", "middling")
            seen |= {each.prompt for each in generate(VERIFIER, seed=14, exclude=_drawn(*sampled))}
            seen |= {each.prompt for each in generate(PRACTICE, seed=15, exclude=_drawn(*sampled, "solver"))}
            problems = generate(int(*size) if size else FRESH, seed=16, exclude=frozenset(seen), judged=True)
            random.Random(16).shuffle(problems)
            _write(Path(file), map(_prompt, problems))
        case [folder]:
            main(Path(folder))
        case _:
            sys.exit(__doc__)
