"""Made-up attempts at prompts whose levels are known, and bundles tuned on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from difficulty import DifficultyModel, levels_of
from router.backends.specs import ModelSpec, Setup, VerifierSpec
from router.backends.template import CHATML
from router.bundle.setup import write_setup
from router.prompt import Prompt
from router.training.difficulty import Training, Vectors, prompt_statistics, save_training, text_digest
from router.tuning.finish import finish_bundle, save_tuning
from router.tuning.tune import tune

EDGES = (0.9, 0.7, 0.45, 0.1)
SMALL = ModelSpec("tiny", 100, CHATML, temperature=0.8, max_tokens=64)
SETUP = Setup("tiny", "small", {"small": SMALL}, VerifierSpec("log_prob", None, 10))
WITH_LARGE = replace(SETUP, models={"small": SMALL, "large": replace(SMALL, parameters=400)})
RIGHT = {1: 8, 2: 6, 3: 4, 4: 2, 5: 0}  # number of right ones among 8 attempts, by level
BEAM = "beam_search(n=4, m=4)"


def world(prefix: str, prompts_a_level: int = 12, *, beam: bool = True) -> pd.DataFrame:
    """Make attempts. Voting solves levels 1 and 2, only beam search 3 and 4, nothing 5. Length tells the level."""
    rows: list[dict[str, Any]] = []
    for level, right in RIGHT.items():
        for i in range(prompts_a_level):
            base = {
                "prompt_id": f"{prefix}-{level}-{i}",
                "prompt": f"{prefix}{i} " + "word " * 3**level,
                "messages": None,
                "usage": None,
                "reference": "1",
                "text": "",
                "prompt_tokens": 10,
                "scored_tokens": 5,
            }
            for sample in range(8):
                correct = sample < right
                score = 0.5 if level < 3 else 0.9 - 0.8 * correct  # a verifier that is misled on hard prompts
                rows.append(
                    {**base, "sample": sample, "answer": "1" if correct else "2", "correct": correct}
                    | {"scores": [score], "generated_tokens": 10, "arm": "sample"}
                )
            if beam:
                correct = level in (3, 4)
                rows.append(
                    {**base, "sample": 0, "answer": "1" if correct else "2", "correct": correct, "scores": [0.5]}
                    | {"generated_tokens": 40, "arm": BEAM}
                )
    return pd.DataFrame(rows).astype({"correct": "boolean"})


def with_runs(frame: pd.DataFrame, arm: str, **changes: Any) -> pd.DataFrame:
    """Add an arm that has the beam searches' runs with ``changes``: values of columns, or functions of the runs."""
    runs = frame[frame["arm"] == BEAM]
    return pd.concat([frame, runs.assign(arm=arm, **changes)], ignore_index=True)


def rich_world(prefix: str, prompts_a_level: int = 12) -> pd.DataFrame:
    """Make attempts as :func:`world`, with revisions, and a model of 4 times the size that solves all but level 5."""
    frame = world(prefix, prompts_a_level)
    for arm, tokens in (("revision(n=8, chains=1)", 80), ("revision(n=8, chains=2)", 80)):
        frame = with_runs(frame, arm, generated_tokens=tokens)
    frame = with_runs(frame, "revision(n=16, chains=4)", generated_tokens=160)
    known = {
        "correct": lambda runs: (~runs["prompt_id"].str.contains("-5-")).astype("boolean"),
        "answer": lambda runs: runs["correct"].map({True: "1", False: "2"}),  # follows the new column ``correct``
    }
    return with_runs(frame, "single(model=large)", generated_tokens=10, scored_tokens=0, **known)


def make_bundle(
    folder: Path,
    attempts: pd.DataFrame,
    candidate: str = "prompt_length",
    vectors: Vectors | None = None,
    setup: Setup = SETUP,
    *,
    cascades: bool = False,
) -> Path:
    """Make a bundle from attempts. ``candidate``: the difficulty model; ``vectors``: its features, if it has any."""
    prompts = prompt_statistics(attempts, "pass_rate")
    asked: list[Prompt] = prompts["asked"].tolist()
    features = vectors(asked) if vectors else [prompt.question for prompt in asked]
    model = DifficultyModel(candidate, edges=EDGES).fit(features, prompts["statistic"])
    prompts = prompts.assign(digest=list(map(text_digest, asked)), level=levels_of(prompts["statistic"], EDGES))
    prompts[[f"p{level}" for level in RIGHT]] = model.predict_proba(features)
    reads = "hidden" if vectors else "text"
    training = Training("pass_rate", 0, EDGES, candidate, {}, prompts.drop(columns=["prompt", "asked"]), reads)
    save_training(model, training, folder)
    write_setup(setup, folder)
    save_tuning(tune(attempts, training, [1, 2, 4, 8], setup=setup, cascades=cascades), folder)
    finish_bundle(folder, setup)
    return folder


def lengths(prompts: Sequence[Prompt]) -> NDArray[np.float32]:
    """Return (n, 2) vectors from which levels can be told."""
    return np.log([[float(len(p.question)), 1.0 + len(p.question)] for p in prompts]).astype(np.float32)
