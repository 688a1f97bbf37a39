"""Mathematics: answers that are numbers, expressions, tuples, sets, intervals, equations or a few words.

router.tasks.math_extraction finds the answer in a solution; router.tasks.math_equality says when two answers are equal.
"""

from router.tasks import PlainTask, math_equality, math_extraction
from router.tasks.workers import close

__all__ = ["MathTask", "close"]


class MathTask(PlainTask):
    """Answers that are numbers or expressions. See :class:`router.tasks.Task`."""

    def extract(self, text: str) -> str | None:
        return math_extraction.find(text)

    async def key(self, answer: str) -> str:
        return await math_equality.key(answer)

    async def right(self, answer: str, reference: str) -> bool:
        return await math_equality.equal(answer, reference)
