"""Read the hidden states of all prompts, once, into vectors.parquet: later commands then need no weights.

Usage: python vectors.py     (after fetch.py small; some 0.2 s a prompt on two cores)

One layer at one position, chosen by what was measured on MATH (difficulty.json) before any of these prompts was looked
at: after 14 of 24 layers, at the prompt's last token.
"""

from attempts import NATURAL, RECIPE, TASKS, VECTORS

from router.attempts.prompts import read_prompts
from router.cli.policy import vectors_of

HIDDEN = "hidden(layer=14, position=last)"
PIECE = 150


def main() -> None:
    for task in TASKS:
        for part in ("tune", "heldout"):
            prompts = [problem.prompt for problem in read_prompts(RECIPE / "data" / f"{task}-{part}.jsonl")]
            for start in range(0, len(prompts), PIECE):
                vectors_of(NATURAL / task, HIDDEN, VECTORS)(prompts[start : start + PIECE])
                print(f"{task}-{part}: {min(start + PIECE, len(prompts))} of {len(prompts)} prompts", flush=True)


if __name__ == "__main__":
    main()
