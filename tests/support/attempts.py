"""Attempts and training as tables, written by hand."""

import numpy as np
import pandas as pd

from difficulty import LEVELS
from router.backends.specs import ModelSpec, Setup, VerifierSpec
from router.backends.template import Template
from router.prompt import Prompt
from router.training.difficulty import Training, text_digest

SMALL = ModelSpec("tiny", 100, Template("{text}", "", "", "\n"), temperature=0.8, max_tokens=64)
SETUP = Setup("tiny", "small", {"small": SMALL}, VerifierSpec("prm", None, 10))


def row(prompt, sample=0, *, arm="sample", answer="1", correct=True, score=0.5, tokens=(10, 20, 20)):
    return {
        "prompt_id": prompt,
        "prompt": f"prompt {prompt}",
        "messages": None,
        "reference": "1",
        "sample": sample,
        "text": "",
        "answer": answer,
        "correct": correct,
        "scores": None if score is None else [0.1, score],
        "prompt_tokens": tokens[0],
        "generated_tokens": tokens[1],
        "scored_tokens": tokens[2],
        "arm": arm,
        "usage": None,
    }


def frame(rows):
    return pd.DataFrame(rows).astype({"correct": "boolean"})


def training(levels):
    """As if training had predicted these levels, {prompt_id: level}, and the oracle agreed."""
    ids = pd.Index(list(levels), name="prompt_id")
    chosen = np.array(list(levels.values()))
    prompts = pd.DataFrame({"digest": [text_digest(Prompt.of(f"prompt {i}")) for i in ids]}, index=ids)
    prompts = prompts.assign(attempts=4, statistic=1 - chosen / 5, level=chosen)
    for level in LEVELS:
        prompts[f"p{level}"] = np.where(chosen == level, 0.8, 0.05)
    return Training("pass_rate", 0, (0.7, 0.5, 0.3, 0.1), "text_logistic", {}, prompts)


def pools(n=120, size=8, prefix="p"):
    """Attempts whose pass rate falls with the prompt's length."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for sample in range(size):
            correct = bool(rng.random() < 1 - (i % 10) / 9)
            entry = row(
                f"{prefix}{i}", sample, answer="1" if correct else "2", correct=correct, score=0.4 + 0.2 * correct
            )
            rows.append({**entry, "prompt": f"{prefix}{i} " + "word " * (1 + i % 10)})
    return frame(rows)
