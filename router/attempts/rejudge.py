"""Finds, compares and judges the answers of existing attempts again, from their texts."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pandas as pd

from router.attempts.judging import Judge
from router.attempts.pools import is_pool
from router.attempts.prompts import Problem, inputs_json
from router.tasks import Tasks

_AT_ONCE = 64  # attempts judged at the same time; code among them shares a sandbox


async def rejudge(frame: pd.DataFrame, tasks: Tasks, problems: Mapping[str, Problem] | None = None) -> pd.DataFrame:
    """Return the same rows, with ``answer`` and ``correct`` from their tasks.

    problems  by prompt_id: references, inputs and tasks to use instead of the rows' own; a prompt that is not among
              them gets no reference, and keeps its inputs and task

    A cut text states no answer, as when it was collected. A pool's row counts as cut if it had no answer and is as long
    as the longest rows of its pool.
    """
    frame = frame if problems is None else _replaced(frame, problems)
    judge = Judge(tasks)
    rows = frame.assign(cut=_cut(frame)).to_dict("records")
    found: list[tuple[str | None, bool | None]] = []
    for start in range(0, len(rows), _AT_ONCE):
        found += await asyncio.gather(*(_judged(row, judge) for row in rows[start : start + _AT_ONCE]))
    answers, corrects = zip(*found, strict=True)
    return frame.assign(answer=answers, correct=pd.array(corrects, dtype="boolean"))


async def _judged(row: dict[str, Any], judge: Judge) -> tuple[str | None, bool | None]:
    task = judge.task(row)
    stated = None if row["cut"] else task.extract(row["text"])
    answer = await judge.key(task, stated)
    if pd.isna(row["reference"]):
        return answer, None
    return answer, stated is not None and answer is not None and await judge.right(task, stated, row["reference"])


def _replaced(frame: pd.DataFrame, problems: Mapping[str, Problem]) -> pd.DataFrame:
    own: dict[str, list[str | None]] = {"reference": [], "inputs": [], "task": []}
    for prompt_id, inputs, task in zip(frame["prompt_id"], frame["inputs"], frame["task"], strict=True):
        problem = problems.get(prompt_id)
        own["reference"].append(problem.reference if problem else None)
        own["inputs"].append(inputs_json(problem) if problem else inputs)
        own["task"].append(problem.task if problem else task)
    return frame.assign(**own)


def _cut(frame: pd.DataFrame) -> list[bool]:
    pools = frame["arm"].map(is_pool)
    longest = frame["generated_tokens"].where(pools).groupby(frame["arm"]).transform("max")
    return list((pools & (frame["generated_tokens"] == longest) & frame["answer"].isna()).fillna(False))
