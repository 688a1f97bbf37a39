"""The answers of existing attempts, found, compared and judged again from their texts."""

from collections.abc import Mapping

import pandas as pd

from router.attempts.pools import is_pool
from router.tasks import Task


async def rejudge(frame: pd.DataFrame, task: Task, references: Mapping[str, str | None] | None = None) -> pd.DataFrame:
    """The same rows with ``answer`` and ``correct`` as the task sees them.

    references  by prompt_id, instead of the rows' own; a prompt that is not among them has none

    A text that was cut states no answer, as when it was collected: a pool's row that had none and is as long as the
    longest ones is taken to be cut.
    """
    keys: dict[str, str | None] = {}
    rights: dict[tuple[str, str], bool] = {}
    answers, corrects, known = [], [], []
    cut = _cut(frame)
    for row, was_cut in zip(frame.to_dict("records"), cut, strict=True):
        reference = row["reference"] if references is None else references.get(row["prompt_id"])
        reference = None if pd.isna(reference) else reference
        stated = None if was_cut else task.extract(row["text"])
        if stated is not None and stated not in keys:
            keys[stated] = await task.key(stated) or None
        answer = keys[stated] if stated is not None else None
        correct: bool | None = None
        if reference is not None:
            pair = (answer or "", reference)
            if answer is not None and pair not in rights:
                rights[pair] = await task.right(answer, reference)
            correct = answer is not None and rights[pair]
        answers.append(answer)
        corrects.append(correct)
        known.append(reference)
    return frame.assign(answer=answers, correct=pd.array(corrects, dtype="boolean"), reference=known)


def _cut(frame: pd.DataFrame) -> list[bool]:
    pools = frame["arm"].map(is_pool)
    longest = frame["generated_tokens"].where(pools).groupby(frame["arm"]).transform("max")
    return list((pools & (frame["generated_tokens"] == longest) & frame["answer"].isna()).fillna(False))
