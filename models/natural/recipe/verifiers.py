"""Verifiers on the same attempts of the small model: what they cost, and what choosing by them is worth."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from attempts import LARGE, SMALL, TASKS, VERIFIERS, TooFew, known_scores, of_task, whole

from router.bundle.setup import read_setup
from router.errors import InvalidFile
from router.evaluation.judge import judge

SIZES = (4, 8, 16)
FREE = "log_prob"
FEW = 10
LATER = ("tests", "written-tests", "judge-small", "judge-large")
READS = {"written-tests": "small", "judge-small": "small", "judge-large": "large"}


def compared(bundle: str, folder: Path) -> list[dict[str, Any]]:
    """A row a verifier, as `router judge` finds it on held-out prompts, with FLOPs of judging a solution.

    ``flops`` are those of a verdict, ``share`` is that in solutions of the model that wrote it: below what drawing one
    more costs, a verdict may be worth more. ``break_even``: so many verdicts cost what one solution of the larger model
    does.
    """
    if bundle == "mixed":
        return []
    setup = read_setup(folder)
    rows = []
    whole_file = of_task(bundle, "heldout")
    large = whole_file[whole_file["arm"] == LARGE]
    frames: dict[str, pd.DataFrame | str] = {}
    try:
        frames[FREE] = _by_log_prob(whole(of_task(bundle, "heldout")))
    except TooFew as error:
        frames[FREE] = str(error)
    for verifier in LATER:
        if "tests" in verifier and TASKS[bundle] != "code":
            continue
        try:
            frame = of_task(bundle, "heldout", verifier, [SMALL])
            looked = known_scores(verifier)["prompt_id"]
            frames[verifier] = frame[frame["prompt_id"].isin(looked)]
        except TooFew as error:
            frames[verifier] = str(error)
    for verifier, frame in frames.items():
        found: dict[str, Any] = {"file": f"{bundle}, {verifier}", "verifier": verifier}
        found["used"] = verifier == (VERIFIERS[bundle] or FREE)
        if isinstance(frame, str):
            rows.append(found | {"reason": frame})
            continue
        pool = frame[frame["arm"] == SMALL]
        if pool["prompt_id"].nunique() < FEW:
            rows.append(found | {"reason": f"scored at {pool['prompt_id'].nunique()} prompts, {FEW} are needed"})
            continue
        wrote = 2.0 * setup.main.parameters * float(pool["generated_tokens"].mean())
        reads = READS.get(verifier)
        flops = 2.0 * setup.parameters(reads) * float(pool["scored_tokens"].mean()) if reads else 0.0
        try:
            found |= judge(pool, SIZES)
        except InvalidFile as error:
            rows.append(found | {"reason": str(error)})
            continue
        found |= {"flops": flops, "share": round(flops / wrote, 3)}
        if flops and len(large):
            tokens = float((large["generated_tokens"] + large["prompt_tokens"]).mean())
            found["break_even"] = round(2.0 * setup.parameters("large") * tokens / flops, 2)
        rows.append(found)
    return rows


def _by_log_prob(frame: pd.DataFrame) -> pd.DataFrame:
    """With exp(mean log-probability) of a token for a score, where the file has it; else as it was scored."""
    if "log_prob" not in frame or frame["log_prob"].isna().any():
        return frame
    return frame.assign(scores=[[math.exp(each)] for each in frame["log_prob"]])
