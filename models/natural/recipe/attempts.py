"""The checked-in attempts as the bundles use them: which prompts, scored by what, of which tasks."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from router.attempts.schema import read_attempts, write_attempts

RECIPE = Path(__file__).parent
NATURAL = RECIPE.parent
ATTEMPTS = NATURAL / "attempts"
SCORES = ATTEMPTS / "scores.parquet"  # by verifiers that look at attempts afterwards; see score.py
VECTORS = NATURAL / "vectors.parquet"  # hidden states of the prompts; see vectors.py
TASKS = {"gsm8k": "math", "mbpp": "code", "mmlu-stem": "choice"}
# What pays on the tuning prompts. None: votes alone, above which log-probabilities gain nothing there.
VERIFIERS = {"gsm8k": None, "mbpp": "tests", "mmlu-stem": None, "mixed": "tests"}
_NEARLY = 0.9
FEWEST = 25  # prompts without which nothing can be trained
SMALL, LARGE, POOL = "sample", "single(model=large)", "sample(model=large)"
ALONE = [SMALL, LARGE, POOL]
_KEYS = ["prompt_id", "arm", "sample"]


class TooFew(Exception):
    """What is missing, for a reader."""


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The attempts at prompts that have what most of them have.

    Sampling goes on prompt by prompt and model by model, so that some have no attempts of the larger model yet. Rather
    half of the prompts with both models than all with one; but the larger model's pool is only what the policy is
    compared with, so it takes part where nearly all prompts have it. See :func:`pooled`.
    """
    have = {arm: set(rows["prompt_id"]) for arm, rows in frame.groupby("arm")}
    prompts = have.get(SMALL, set())
    both = prompts & have.get(LARGE, set())
    if 2 * len(both) >= len(prompts) or len(both) >= 4 * FEWEST:
        prompts = both
    also = prompts & have.get(POOL, set())
    if len(also) >= _NEARLY * len(prompts):
        prompts = also
    rows = frame[frame["prompt_id"].isin(prompts)]
    sizes = rows[rows["arm"] == SMALL].groupby("prompt_id").size()
    return rows[rows["prompt_id"].isin(sizes[sizes >= sizes.median()].index)] if len(sizes) else rows


def of_task(task: str, part: str, verifier: str | None = None, arms: Sequence[str] = ALONE) -> pd.DataFrame:
    """Attempts at one task's prompts: with a verifier its scores of these arms, else all as they were sampled.

    Left out are samples after the last one that the verifier was shown of any prompt, and prompts at which it has not
    looked at all the others.
    """
    path = ATTEMPTS / f"{task}-{part}.parquet"
    if not path.exists():
        raise TooFew(f"{path.name} was not sampled yet")
    # Sampled hundreds at a time: how long one took then tells nothing of a call.
    frame = read_attempts([path]).assign(seconds=None)
    if verifier is not None:
        frame = _scored(frame[frame["arm"].isin(arms)], verifier)
    return frame


def served(task: str, part: str) -> pd.DataFrame:
    """Attempts at one task's prompts, scored by the verifier that the task is served with, or by none."""
    verifier = VERIFIERS[task]
    frame = of_task(task, part, verifier)
    return frame if verifier else frame.assign(scores=None, scored_tokens=0)


def bundle_attempts(bundle: str, part: str) -> pd.DataFrame:
    """What a bundle is tuned or evaluated on. Raises TooFew."""
    if bundle != "mixed":
        return _enough(whole(served(bundle, part)), bundle, part)
    frames = [_enough(whole(served(task, part)), task, part).assign(task=name) for task, name in TASKS.items()]
    return _equal_parts(frames) if part == "heldout" else pd.concat(frames, ignore_index=True)


def pooled(attempts: pd.DataFrame) -> pd.DataFrame | None:
    """The attempts at the prompts that have the larger model's pool, as many of each task; None if all or few have."""
    have = set(attempts.loc[attempts["arm"] == POOL, "prompt_id"])
    if not FEWEST <= len(have) < attempts["prompt_id"].nunique():
        return None
    rows = attempts[attempts["prompt_id"].isin(have)]
    return _equal_parts([each for _, each in rows.groupby(rows["task"].fillna(""), sort=False)])


def _equal_parts(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    least = min(frame["prompt_id"].nunique() for frame in frames)
    return pd.concat(
        [frame[frame["prompt_id"].isin(frame["prompt_id"].unique()[:least])] for frame in frames], ignore_index=True
    )


def write(bundle: str, folder: Path) -> dict[str, Path]:
    """Both parts as files in the folder. Raises TooFew."""
    found = {}
    for part in ("tune", "heldout"):
        found[part] = folder / "attempts" / f"{part}.parquet"
        write_attempts(bundle_attempts(bundle, part), found[part])
    return found


def _enough(frame: pd.DataFrame, task: str, part: str) -> pd.DataFrame:
    prompts = frame["prompt_id"].nunique()
    if prompts < FEWEST:
        raise TooFew(f"{task}-{part}: {prompts} prompts were sampled so far, {FEWEST} are needed")
    return frame


def _scored(frame: pd.DataFrame, verifier: str) -> pd.DataFrame:
    scores = known_scores(verifier)
    if scores.empty:
        raise TooFew(f"{SCORES.name} has no scores by {verifier}: run score.py")
    frame = frame[frame["sample"] <= scores["sample"].max()]
    given = scores.set_index(_KEYS)[["score", "scored_tokens", "seen"]]
    rows = frame.drop(columns=["scores", "scored_tokens"]).join(given, on=_KEYS)
    short = set(rows.loc[rows["seen"].isna(), "prompt_id"])
    rows = rows[~rows["prompt_id"].isin(short)]
    lists = [None if pd.isna(score) else [float(score)] for score in rows["score"]]
    return rows.assign(scores=lists).astype({"scored_tokens": int}).drop(columns=["score", "seen"])


def known_scores(verifier: str) -> pd.DataFrame:
    """One row a solution; ``score`` is null where the verifier looked at it and said nothing."""
    columns = ["verifier", *_KEYS, "score", "scored_tokens"]
    scores = pd.read_parquet(SCORES) if SCORES.exists() else pd.DataFrame(columns=columns)
    return scores[scores["verifier"] == verifier].assign(seen=True)


def lacking(
    verifier: str, tasks: Sequence[str], prompts: int | None, samples: int | None, arms: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """By file: the arms' solutions that the verifier has not looked at.

    Of the first so many prompts of each file, and of each prompt so many samples; None: of all.
    """
    known = set(known_scores(verifier)[_KEYS].itertuples(index=False, name=None))
    found = {}
    for name in tasks:
        path = ATTEMPTS / f"{name}.parquet"
        if not path.exists():
            continue
        frame = read_attempts([path])
        frame = frame[frame["arm"].isin(arms)]
        if prompts is not None:
            frame = frame[frame["prompt_id"].isin(frame["prompt_id"].unique()[:prompts])]
        if samples is not None:
            frame = frame[frame["sample"] < samples]
        new = [key not in known for key in frame[_KEYS].itertuples(index=False, name=None)]
        if any(new):
            found[name] = frame[new]
    return found
