"""What a failed test tells a model that is to correct its solution."""

from router.tasks.judging import Verdict

_MOST_OF_A_TEST = 250  # characters
_MOST_OF_WHAT_HAPPENED = 150


def finding(test: str, verdict: Verdict) -> str:
    """Return a few lines: the test, and what the solution did in it. Verdicts may quote what the solution says itself.

    The expected value is in the test. What was returned or raised is on one line, so that it can't pass for more.
    """
    # The test is in no code block of its own: small models took such a block for the form of the reply.
    between = "\n" if "\n" in test else " "
    return f"Your solution fails this test:{between}{_cut(test, _MOST_OF_A_TEST)}\n\n{_happened(verdict)}"


def _happened(verdict: Verdict) -> str:
    said, error = (" ".join(_cut(text, _MOST_OF_WHAT_HAPPENED).split()) for text in (verdict.said, verdict.error))
    if said.startswith("returned ") and error not in ("AssertionError", "time", "ended"):
        return f"The call {said}, on which the test raised {error}."
    if said.startswith(("returned ", "raised ")) and error not in ("time", "ended"):
        return f"The call {said}."
    ways = {"time": "it took too long", "ended": "its process ended"}
    return f"What happened: {ways.get(error) or said or error}."


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
