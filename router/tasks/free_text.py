"""Free text, which nothing compares: for choosing among whole texts by a judge's scores."""

import hashlib
from typing import ClassVar

from router.tasks import PlainTask
from router.tasks.statements import thoughtless


class FreeTextTask(PlainTask):
    """The whole text is the answer, less its thoughts. Two texts are one answer where they are the same."""

    opaque_keys: ClassVar[bool] = True

    def extract(self, text: str) -> str | None:
        return (thoughtless(text) or "").strip() or None

    async def key(self, answer: str) -> str:
        text = " ".join(answer.split())
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32] if text else ""
