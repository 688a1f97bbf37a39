"""Attempts that ``router collect`` did not write: answers are judged as it does, token counts are estimated."""

import json
import math
from collections.abc import Sequence

import pandas as pd

from router.attempts.judging import Judge
from router.attempts.pools import is_pool
from router.errors import InvalidFile
from router.tasks import Tasks, opaque
from strategies import parse

BYTES = 4  # of UTF-8 text per token: about right for today's tokenizers on English and mathematics
TOKENS = ("prompt_tokens", "generated_tokens", "scored_tokens")


async def judged(frame: pd.DataFrame, tasks: Tasks, origins: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Return the rows with ``answer`` and ``correct`` as ``collect`` would write them, and how many were judged here.

    An answer becomes the task's key. A row with a reference whose ``correct`` is null is judged by its answer or, if
    that is null too, by the answer that its text states. A task that judges by running the answer judges the text, and
    takes ``correct`` as it is where it is given.

    Raises InvalidFile where ``correct`` contradicts answer and reference; ``origins`` names each row's place.
    """
    judge = Judge(tasks)
    answers, corrects, count = [], [], 0
    columns = [*("prompt_id", "text", "answer", "reference", "correct"), *("inputs", "task")]
    for origin, row in zip(origins, frame[columns].to_dict("records"), strict=True):
        task, text, given, reference, said = judge.task(row), *(row[name] for name in columns[1:5])
        known, open_to_judge = not pd.isna(reference), pd.isna(said)
        stated = None if pd.isna(given) else given
        if stated is None and known and open_to_judge:
            stated = task.extract(text)
        answer = await judge.key(task, stated)
        correct = None if open_to_judge else bool(said)
        if known and (open_to_judge or (answer is not None and not opaque(task))):
            written = task.extract(text) if opaque(task) else stated
            right = written is not None and answer is not None and await judge.right(task, written, reference)
            if not open_to_judge and right != correct:
                raise InvalidFile(
                    f"{origin}: correct is {json.dumps(correct)}, but answer {given[:60]!r} is "
                    f"{'not ' if correct else ''}what reference {reference[:60]!r} says; mend the row, or judge all "
                    "of them again with `router rejudge ATTEMPTS --out NEW`"
                )
            correct, count = right, count + open_to_judge
        answers.append(answer)
        corrects.append(correct)
    return frame.assign(answer=answers, correct=pd.array(corrects, dtype="boolean")), count


def with_tokens(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the rows with missing token counts filled in, and how many rows lacked any.

    A token is taken as :data:`BYTES` bytes. Read are the messages. Written are the text and an end-of-sequence token;
    for a complete run of an arm, that times the most solutions that the arm writes. The verifier reads what was written
    where there are scores.
    """
    lacking = frame[list(TOKENS)].isna().any(axis=1)
    if not lacking.any():
        return frame.astype(dict.fromkeys(TOKENS, "int64")), 0
    solutions = {arm: _solutions(arm) for arm in frame["arm"].unique()}
    rows = frame[lacking]
    written = [math.ceil(_size(text) * solutions[arm]) + 1 for text, arm in zip(rows["text"], rows["arm"], strict=True)]
    generated = rows["generated_tokens"].fillna(pd.Series(written, index=rows.index))
    estimates = {
        "prompt_tokens": [
            _read(prompt, messages) for prompt, messages in zip(rows["prompt"], rows["messages"], strict=True)
        ],
        "generated_tokens": generated,
        "scored_tokens": generated.where(rows["scores"].notna(), 0),
    }
    filled = frame.copy()
    for name, values in estimates.items():
        filled[name] = filled[name].fillna(pd.Series(values, index=rows.index))
    return filled.astype(dict.fromkeys(TOKENS, "int64")), int(lacking.sum())


def _size(text: str) -> int:
    return math.ceil(len(text.encode(errors="replace")) / BYTES)


def _read(prompt: str, messages: Sequence[dict[str, str]] | None) -> int:
    texts = [prompt] if messages is None or isinstance(messages, float) else [each["content"] for each in messages]
    return sum(map(_size, texts))


def _solutions(arm: str) -> float:
    """Return how many solutions one row of the arm stands for."""
    if is_pool(arm):
        return 1.0
    strategy = parse(arm)
    return max(1.0, strategy.budget({model: 1.0 for model in strategy.models if model}))
