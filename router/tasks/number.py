"""Numbers, compared exactly: for prompts that ask for one. Anything else is no answer."""

from router.tasks import PlainTask, math_extraction, numerals


class NumberTask(PlainTask):
    """A decimal, a fraction, a percentage or a mixed number, with or without a unit; see docs/tasks.md for the rules.

    It is like math without expressions, and needs no sympy: ``2 + 3`` is no answer, but ``2 + 3 = 5`` states 5.
    """

    def extract(self, text: str) -> str | None:
        stated = math_extraction.find(text)
        return stated if stated is not None and _value(stated) else None

    async def key(self, answer: str) -> str:
        return _value(answer)


def _value(answer: str) -> str:
    for part in (answer, answer.rpartition("=")[2]):
        number = numerals.read(part)
        if number is not None:
            return str(number)
    return ""
