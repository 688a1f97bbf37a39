"""Attempts that were not written by ``router collect``: answers judged as it does, token counts estimated."""

import json
import math
from collections.abc import Sequence

import pandas as pd

from router.attempts.judging import Judge
from router.attempts.pools import is_pool
from router.errors import InvalidFile
from router.tasks import Tasks, opaque
from strategies import parse

BYTES = 4  # of UTF-8 text to a token: what tokenizers of today make of English and mathematics, roughly
TOKENS = ("prompt_tokens", "generated_tokens", "scored_tokens")


async def judged(frame: pd.DataFrame, tasks: Tasks, origins: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """The rows with ``answer`` and ``correct`` as ``collect`` would have written them, and how many were judged here.

    An answer becomes the task's key. A row with a reference whose ``correct`` is null is judged by its answer, or where
    that is null too by the one that its text states. What a task judges by running it is judged by its text, and taken
    as it is where ``correct`` is given.
    Raises InvalidFile where ``correct`` says other than answer and reference; ``origins`` names each row's place.
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
    """The rows with the token counts that they lack, and how many lacked any.

    A token is :data:`BYTES` bytes. What is read is the messages; what is written is the text and an end-of-sequence,
    for a whole run as often as its arm writes a solution at most; the verifier read all that where there are scores.
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
    """That one row of the arm stands for."""
    if is_pool(arm):
        return 1.0
    strategy = parse(arm)
    return max(1.0, strategy.budget({model: 1.0 for model in strategy.models if model}))
