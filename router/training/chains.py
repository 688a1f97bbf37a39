"""Training examples for a reviser: chains of wrong attempts followed by a right one (Snell et al., section 6.1)."""

import random
from collections.abc import Sequence

import pandas as pd
from rapidfuzz.distance import Levenshtein

from router.attempts.schema import prompts_of
from router.errors import InvalidFile
from router.training.examples import Example

LONGEST = 4  # earlier attempts that a reviser sees


def chains(attempts: pd.DataFrame, *, seed: int = 0) -> list[Example]:
    """Return one chain for each prompt that has both: one to four different wrong attempts, then a right one.

    The last wrong attempt is the nearest to the right one in edit distance, so that the reviser learns to correct it
    rather than to start anew. Attempts without an answer are left out. Raises InvalidFile where no prompt has both.
    """
    rng = random.Random(seed)
    examples = []
    answered = attempts[attempts["answer"].notna() & attempts["correct"].notna()]
    prompts = prompts_of(attempts)
    for prompt_id, rows in answered.groupby("prompt_id", sort=False):
        right: Sequence[str] = rows.loc[rows["correct"].astype(bool), "text"].tolist()
        wrong = sorted(set(rows.loc[~rows["correct"].astype(bool), "text"]))
        if not right or not wrong:
            continue
        target = rng.choice(right)
        nearest = min(wrong, key=lambda text: Levenshtein.distance(text, target))
        others = [text for text in wrong if text != nearest]
        before = rng.sample(others, min(rng.randrange(LONGEST), len(others)))
        examples.append(Example(prompts[prompt_id], target, (*before, nearest)))
    if not examples:
        raise InvalidFile("no prompt has both right and wrong attempts to make a chain of; collect more attempts")
    return examples
