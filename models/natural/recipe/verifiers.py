"""Verifiers on the same attempts of the small model: what they cost, and what choosing by them is worth."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from attempts import LARGE, SMALL, TASKS, VERIFIERS, TooFew, known_scores, of_task

from router.bundle.setup import Setup, read_setup
from router.errors import InvalidFile
from router.evaluation.curves import estimate
from router.evaluation.judge import by_prompt, judge
from router.tuning.evidence import resamples

SIZES = (4, 8, 16)
FREE, VOTES = "log_prob", "votes"
FEW = 10
LATER = ("tests", "written-tests", "judge-small", "judge-large")
READS = {"written-tests": "small", "judge-small": "small", "judge-large": "large"}


def compared(bundle: str, folder: Path) -> list[dict[str, Any]]:
    """A row a verifier, as `router judge` finds it on held-out prompts, with FLOPs of judging a solution.

    ``flops`` are those of a verdict, ``share`` is that in solutions of the model that wrote it: below what drawing one
    more costs, a verdict may be worth more. ``break_even``: so many verdicts cost what one solution of the larger model
    does. ``above_log_prob``: see :func:`_beside`.
    """
    if bundle == "mixed":
        return []
    setup = read_setup(folder)
    whole_file = of_task(bundle, "heldout")
    large = whole_file[whole_file["arm"] == LARGE]
    free = by_log_prob(whole_file)
    used = VERIFIERS[bundle] == FREE
    rows = [{"file": f"{bundle}, {FREE}", "verifier": FREE, "used": used} | _row(free, setup, FREE)]
    rows.append({"file": f"{bundle}, {VOTES}", "verifier": VOTES, "used": False} | _votes_row(whole_file, setup))
    for verifier in LATER:
        if "tests" in verifier and TASKS[bundle] != "code":
            continue
        found: dict[str, Any] = {"file": f"{bundle}, {verifier}", "verifier": verifier}
        found["used"] = verifier == VERIFIERS[bundle]
        try:
            frame = of_task(bundle, "heldout", verifier, [SMALL])
        except TooFew as error:
            rows.append(found | {"reason": str(error)})
            continue
        looked = known_scores(verifier)["prompt_id"]
        pool = frame[frame["prompt_id"].isin(looked)]
        found |= _row(pool, setup, verifier)
        if "auc" in found:
            found["above_log_prob"] = _beside(pool, free)
            if found["flops"] and len(large):
                tokens = float((large["generated_tokens"] + large["prompt_tokens"]).mean())
                found["break_even"] = round(2.0 * setup.parameters("large") * tokens / found["flops"], 2)
        rows.append(found)
    return rows


def by_log_prob(frame: pd.DataFrame) -> pd.DataFrame:
    """The small model's samples with exp(mean log-probability of a token) for a score, whatever scored them before.

    Prompts are left out that have a sample without log-probabilities.
    """
    pool = frame[frame["arm"] == SMALL]
    lacking = set(pool.loc[pool["log_prob"].isna(), "prompt_id"])
    pool = pool[~pool["prompt_id"].isin(lacking)]
    return pool.assign(scores=[[math.exp(each)] for each in pool["log_prob"]], scored_tokens=0)


def by_votes(frame: pd.DataFrame) -> pd.DataFrame:
    """The small model's samples, each with the share of a prompt's other samples that have its answer for a score.

    The score is 0 without an answer.
    """
    pool = frame[frame["arm"] == SMALL]
    same = pool.groupby(["prompt_id", "answer"])["sample"].transform("size").fillna(1) - 1
    others = pool.groupby("prompt_id")["sample"].transform("size") - 1
    return pool.assign(scores=[[each] for each in same / others], scored_tokens=0)


def _votes_row(frame: pd.DataFrame, setup: Setup) -> dict[str, Any]:
    """As :func:`_row`, with best-of-N of the whole pool only: fewer samples would be chosen by the votes of all."""
    found = _row(by_votes(frame), setup, VOTES)
    if "best_of" in found:
        found["best_of"] = dict(list(found["best_of"].items())[-1:])
    return found


def _row(pool: pd.DataFrame, setup: Setup, verifier: str) -> dict[str, Any]:
    """What `router judge` finds, with the cost of a verdict; or the reason why nothing is found."""
    if pool["prompt_id"].nunique() < FEW:
        return {"reason": f"scored at {pool['prompt_id'].nunique()} prompts, {FEW} are needed"}
    wrote = 2.0 * setup.main.parameters * float(pool["generated_tokens"].mean())
    reads = READS.get(verifier)
    flops = 2.0 * setup.parameters(reads) * float(pool["scored_tokens"].mean()) if reads else 0.0
    try:
        return judge(pool, SIZES) | {"flops": flops, "share": round(flops / wrote, 3)}
    except InvalidFile as error:
        return {"reason": str(error)}


def _beside(pool: pd.DataFrame, free: pd.DataFrame) -> dict[str, Any]:
    """What a verifier has above log-probabilities on the prompts that both scored, with intervals over these prompts.

    ``auc_within``, and best-of-N's accuracy at the largest N for which there are enough samples.
    """
    prompts = set(pool["prompt_id"]) & set(free["prompt_id"])
    tables = [by_prompt(each[each["prompt_id"].isin(prompts)], SIZES) for each in (pool, free)]
    chosen = [name for name in tables[0].columns if name.startswith("best_of_n")]
    found: dict[str, Any] = {"prompts": len(prompts)}
    for name, column in (("auc_within", "auc_within"), ("best_of_n", chosen[-1])):
        above = (tables[0][column] - tables[1][column]).dropna().to_numpy()
        found[name] = asdict(estimate(above, resamples(len(above), np.random.default_rng(0))))
    return found
