"""Score attempts by verifiers that look at them afterwards, into attempts/scores.parquet. Goes on where it stopped.

Usage: python score.py tests|written-tests|judge-small|judge-large [TASK-PART ...] [--prompts N] [--samples N]

tests        the public test of MBPP, run in the sandbox (docs/sandbox.md): no tokens
written-tests  these and tests that the 0.5B model writes, once for each prompt
judge-small  P(yes) by the 0.5B model: it reads the prompt and each of its own solutions once
judge-large  the same by the 1.5B model; in FLOPs a verdict costs nearly what a solution of it does

By default tests looks at both parts of MBPP, written-tests at its held-out part, a judge at the held-out parts of all
tasks.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from attempts import ALONE, NATURAL, SCORES, SMALL, TASKS, lacking

from router.attempts.schema import last_score, read_attempts, write_attempts
from router.cli.main import main as router

WORK = Path("build/natural/verifiers")
KINDS = {
    "tests": {"kind": "tests", "adapter": None, "parameters": 0},
    "written-tests": {"kind": "written_tests", "model": "small", "parameters": 494_032_768},
    "judge-small": {"kind": "judge", "model": "small", "parameters": 494_032_768},
    "judge-large": {"kind": "judge", "model": "large", "parameters": 1_543_714_304},
}


def score(verifier: str, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A row a solution, as in the file."""
    task = name.rpartition("-")[0]
    folder = WORK / f"{verifier}-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    setup = json.loads((NATURAL / task / "models.json").read_text()) | {"verifier": KINDS[verifier]}
    (folder / "models.json").write_text(json.dumps(setup, indent=2))
    write_attempts(rows, folder / "rows.parquet")
    code = ["--allow-code"] if TASKS[task] == "code" else []
    paths = str(folder / "rows.parquet"), "--bundle", str(folder), "--out", str(folder / "scored.parquet")
    router(["score", *paths, *code], standalone_mode=False)
    scored = read_attempts([folder / "scored.parquet"])
    return pd.DataFrame(
        {
            "verifier": verifier,
            "prompt_id": scored["prompt_id"],
            "arm": scored["arm"],
            "sample": scored["sample"],
            "score": [last_score(each) for each in scored["scores"]],
            "scored_tokens": scored["scored_tokens"],
        }
    ).astype({"score": "float32"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verifier", choices=KINDS)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--samples", type=int, help="of a prompt, so many")
    parser.add_argument("--piece", type=int, default=20, help="prompts between two writes")
    asked = parser.parse_args()
    of_code = {"tests": ["mbpp-tune", "mbpp-heldout"], "written-tests": ["mbpp-heldout"]}
    default = of_code.get(asked.verifier, [f"{task}-heldout" for task in TASKS])
    arms = ALONE if asked.verifier == "tests" else [SMALL]  # the others are compared on the small model's solutions
    for name, frame in lacking(asked.verifier, asked.parts or default, asked.prompts, asked.samples, arms).items():
        prompts = frame["prompt_id"].unique()
        for start in range(0, len(prompts), asked.piece):
            new = score(asked.verifier, name, frame[frame["prompt_id"].isin(prompts[start : start + asked.piece])])
            known = [pd.read_parquet(SCORES)] if SCORES.exists() else []
            table = pd.concat([*known, new], ignore_index=True)
            scratch = SCORES.with_suffix(".partial")
            table.to_parquet(scratch, compression="zstd", index=False)
            scratch.replace(SCORES)
            print(f"{asked.verifier}, {name}: {min(start + asked.piece, len(prompts))} of {len(prompts)} prompts")


if __name__ == "__main__":
    main()
