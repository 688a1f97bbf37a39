"""Finds, compares and judges the answers of existing attempts again, from their texts."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pandas as pd

from router.attempts.judging import Judge
from router.attempts.pools import is_pool
from router.attempts.prompts import Problem, inputs_json
from router.errors import InvalidFile
from router.tasks import Tasks

_AT_ONCE = 64  # attempts judged at the same time; code among them shares a sandbox


async def rejudge(frame: pd.DataFrame, tasks: Tasks, problems: Mapping[str, Problem] | None = None) -> pd.DataFrame:
    """Return the same rows, with ``answer`` and ``correct`` from their tasks.

    problems  by prompt_id: references, inputs and tasks to use instead of the rows' own; a prompt that is not among
              them, see :func:`missing`, keeps its own

    A cut text states no answer, as when it was collected. A pool's row counts as cut if it had no answer and is as long
    as the longest rows of its pool.

    Raises InvalidFile where no prompt is among ``problems``.
    """
    frame = frame if problems is None else _replaced(frame, problems)
    judge = Judge(tasks)
    rows = frame.assign(cut=_cut(frame)).to_dict("records")
    found: list[tuple[str | None, bool | None]] = []
    for start in range(0, len(rows), _AT_ONCE):
        found += await asyncio.gather(*(_judged(row, judge) for row in rows[start : start + _AT_ONCE]))
    answers, corrects = zip(*found, strict=True)
    return frame.assign(answer=answers, correct=pd.array(corrects, dtype="boolean"))


def missing(frame: pd.DataFrame, problems: Mapping[str, Problem]) -> list[str]:
    """Return the ids of the attempts' prompts that are not among ``problems``, each once."""
    return [prompt_id for prompt_id in frame["prompt_id"].unique() if prompt_id not in problems]


async def _judged(row: dict[str, Any], judge: Judge) -> tuple[str | None, bool | None]:
    task = judge.task(row)
    stated = None if row["cut"] else task.extract(row["text"])
    answer = await judge.key(task, stated)
    if pd.isna(row["reference"]):
        return answer, None
    return answer, stated is not None and answer is not None and await judge.right(task, stated, row["reference"])


def _replaced(frame: pd.DataFrame, problems: Mapping[str, Problem]) -> pd.DataFrame:
    unknown = missing(frame, problems)
    if len(unknown) == frame["prompt_id"].nunique():
        raise InvalidFile(
            f"none of the attempts' {len(unknown)} prompts is in the prompts files, first {unknown[0]!r}; give prompts "
            "the ids that they have in the attempts"
        )
    columns = ["reference", "inputs", "task"]
    rows = []
    for prompt_id, *own in frame[["prompt_id", *columns]].itertuples(index=False):
        problem = problems.get(prompt_id)
        rows.append([problem.reference, inputs_json(problem), problem.task] if problem else own)
    return frame.assign(**dict(zip(columns, zip(*rows, strict=True), strict=True)))


def _cut(frame: pd.DataFrame) -> list[bool]:
    pools = frame["arm"].map(is_pool)
    longest = frame["generated_tokens"].where(pools).groupby(frame["arm"]).transform("max")
    return list((pools & (frame["generated_tokens"] == longest) & frame["answer"].isna()).fillna(False))
