"""What a caller or a model writes is read in time that grows with the text only, whatever the text.

In seconds of this thread, so that a busy machine fails no test. What finds answers for `math`, `exact` and `json` is
tried in tasks/test_statements.py, what reads arms in test_parse_linear.py.
"""

import time
from collections.abc import Callable
from functools import partial

import pytest

from difficulty.features import description, phrases
from router.backends.steps import split_text
from router.prompt import Message, Prompt
from router.tasks import code_blocks, load_task
from tests.unit.tasks.test_statements import ADVERSARIAL

PIECES = ADVERSARIAL | {
    "carets": "2^",
    "factors": "9!",
    "options": "(A) ",
    "letters": "A. ",
    "definitions": "def f\n",
    "indents": "    ",
    "quoted": "> ",
    "fence marks": "`",
    "tildes": "~~~\n",
    "numbers": "7.7,",
    "points": "1.",
    "words": "word ",
    "blank lines": "a\n\n",
    "emoji": "\U0001f600",
    "combining": "e\u0301",
    "full width": "７",
    "nul": "\0",
}


def answer(task: str) -> Callable[[str], object]:
    return load_task(task).extract


def stated(prompt: str) -> object:
    """What a request's prompt is asked for."""
    asked = Prompt((Message("system", prompt), Message("user", prompt)))
    return asked.characters, asked.digest, asked.json, asked.question


READERS: dict[str, Callable[[str], object]] = {
    "number": answer("number"),
    "choice": answer("choice"),
    "program": code_blocks.find,
    "description": description,
    "phrases": phrases,
    "steps": partial(split_text, delimiter="\n"),
    "steps of paragraphs": partial(split_text, delimiter="\n\n"),
    "prompt": stated,
}


def seconds(read: Callable[[str], object], piece: str, size: int) -> float:
    text = piece * (size // len(piece))
    begun = time.thread_time()
    read(text)
    return time.thread_time() - begun


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_time_grows_with_the_text_only(reader):
    read = READERS[reader]
    for name, piece in PIECES.items():
        small = min(seconds(read, piece, 8_000) for _ in range(3))
        # Eight times the text; quadratic were 64 times. A single one of three may be slow for another reason.
        assert any(seconds(read, piece, 64_000) < 20 * small + 0.01 for _ in range(3)), name


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_the_longest_prompt_is_read_at_once(reader):
    """Made of the pieces that take the reader longest: time grows with the text only, see above."""
    read = READERS[reader]
    slowest = sorted(PIECES, key=lambda name: seconds(read, PIECES[name], 16_000))[-4:]
    for name in slowest:
        assert seconds(read, PIECES[name], 400_000) < 2, name
