"""Reads the outcome log of a running router: what was decided, what it cost, and what became of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from router.attempts.prompts import Problem, digest_of, problem_json
from router.attempts.schema import SCHEMA
from router.outcomes import tables as database
from router.prompt import Prompt
from router.tasks import NO_INPUTS, load_task, opaque

_WANTED = (
    *("method", "prompt", "messages", "prompt_sha256", "arm", "propensity", "choice", "code", "stop", "answer", "text"),
    *("prompt_tokens", "generated_tokens", "scored_tokens", "correct", "score", "inputs", "task"),
)


@dataclass(frozen=True, slots=True)
class Served:
    """Served calls as attempts.

    attempts   with the columns of ``attempts.SCHEMA``: one row per call, a complete run of its arm on real traffic
    prompts    those whose right answer was recorded, which is their reference: to sample more attempts at
    decisions, explored  how many were in the log, and how many attempts ran an arm other than the policy's choice
    left_out   by reason, how many decisions are not attempts because of it
    """

    attempts: pd.DataFrame
    prompts: Sequence[Problem]
    decisions: int
    explored: int
    left_out: Mapping[str, int]


def served_attempts(url: str) -> Served:
    """Return what the log gives: runs of arms, where the policy or chance chose each prompt's arm.

    The log holds no pools, so by itself it shows neither how hard a prompt is nor how arms compare on one prompt. For
    levels and for a policy, sample attempts at its prompts. Token counts are the calls' bills, which include predicting
    the level. Raises InvalidRequest.
    """
    frame = pd.DataFrame(database.read(url, _WANTED), columns=list(_WANTED))
    kept, left_out = sift(
        frame,
        {
            "only routed, nothing was run": frame["method"] == "Route",
            "without the prompt (serve --outcome-prompts records it)": frame["prompt"].isna(),
            "failed": frame["code"] != "OK",
            "cut short by a limit, or of an earlier version": frame["stop"] != "complete",
            "without an outcome": frame["correct"].isna() & frame["score"].isna(),
            "with a score only, neither right nor wrong": frame["correct"].isna(),
        },
    )
    inputs = [given if isinstance(given, dict) else {} for given in kept["inputs"]]
    names = [
        digest[:16] + (f"-{digest_of(given)[:6]}" if given else "")
        for digest, given in zip(kept["prompt_sha256"], inputs, strict=True)
    ]
    kept = kept.assign(
        prompt_id=pd.Series(names, index=kept.index, dtype=object),
        correct=kept["correct"].astype("boolean"),
        inputs=[json.dumps(given, ensure_ascii=False) if given else None for given in inputs],
    )
    judges = {name: not (isinstance(name, str) and opaque(load_task(name))) for name in kept["task"].unique()}
    told = kept["task"].map(judges).astype(bool) & kept["answer"].notna()  # rows whose answer can serve as a reference
    right = kept[kept["correct"] & told].drop_duplicates("prompt_id")
    references = right.set_index("prompt_id")["answer"]
    attempts = kept.assign(
        reference=kept["prompt_id"].map(references),
        sample=kept.groupby(["prompt_id", "arm"]).cumcount(),
        text=kept["text"].fillna(""),
        scores=None,
        usage=None,
        seconds=None,  # they depend on the server's load
        score_seconds=None,
        log_prob=None,
    )
    prompts = [
        Problem(
            row.prompt_id,
            Prompt.read(row.messages or row.prompt),
            row.answer,
            inputs=json.loads(row.inputs) if row.inputs else NO_INPUTS,
            task=row.task,
        )
        for row in right.itertuples()
    ]
    explored = (kept["choice"].notna() & (kept["choice"] != kept["arm"])).sum()
    return Served(attempts[SCHEMA.names].reset_index(drop=True), prompts, len(frame), int(explored), left_out)


def sift(frame: pd.DataFrame, reasons: Mapping[str, pd.Series]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the rows for which no reason holds, and by reason how many rows it removed; the first reason counts."""
    left = pd.Series(True, index=frame.index)
    counts = {}
    for reason, holds in reasons.items():
        counts[reason] = int((left & holds).sum())
        left &= ~holds
    return frame[left], {reason: count for reason, count in counts.items() if count}


def write_prompts(prompts: Sequence[Problem], path: Path) -> None:
    """Write prompts as ``read_prompts`` reads them."""
    lines = (json.dumps(problem_json(problem), ensure_ascii=False) + "\n" for problem in prompts)
    path.write_text("".join(lines), encoding="utf-8")
