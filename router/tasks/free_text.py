"""Free text, which can't be compared: for choosing among whole texts by a judge's scores."""

import hashlib
from typing import ClassVar

from router.tasks import PlainTask
from router.tasks.statements import thoughtless


class FreeTextTask(PlainTask):
    """The whole text without its thoughts is the answer. Two answers are equal if the texts are."""

    opaque_keys: ClassVar[bool] = True

    def extract(self, text: str) -> str | None:
        return (thoughtless(text) or "").strip() or None

    async def key(self, answer: str) -> str:
        text = " ".join(answer.split())
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32] if text else ""
