"""Exact text: answers agree up to case, spaces, typography and the punctuation around them."""

import re
import unicodedata

from router.tasks import PlainTask
from router.tasks.notation import prose
from router.tasks.statements import final_part, statements

_SIGN = re.compile(r"[-−–](?=\d|\.\d|[\\(]|[a-zA-Z](?![a-zA-Z]))")  # a minus sign, not a dash


class ExactTask(PlainTask):
    """The last stated answer; without one, the last line that is not empty.

    ``The Hague`` and ``"the hague."`` are equal. Articles count: ``Hague`` is another answer.
    """

    def extract(self, text: str) -> str | None:
        part = final_part(text)
        if part is None:
            return None
        for statement in reversed(statements(part)):
            if normal(statement.text):
                return statement.text
        return next((line.strip() for line in reversed(part.splitlines()) if line.strip() and normal(line)), None)

    async def key(self, answer: str) -> str:
        return normal(answer)


def normal(text: str) -> str:
    """Return one spelling of a text: NFKC, casefolded, spaces collapsed, no punctuation around it but a minus sign."""
    words = signed(prose(text))
    start, end = 0, len(words)
    while start < end and _surrounds(words[start]) and not _SIGN.match(words, start):
        start += 1
    while start < end and _surrounds(words[end - 1]):
        end -= 1
    return " ".join(words[start:end].split())


def signed(text: str) -> str:
    """Return the text with one character for all minus signs."""
    return _SIGN.sub("-", text)


def _surrounds(character: str) -> bool:
    return character.isspace() or unicodedata.category(character).startswith("P")
