"""The caller's tests as a verifier: a solution's score is the share of them that it passes; one that fails is named."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from router.backends import Asked, Usage
from router.prompt import Prompt
from router.schema import STRICT
from strategies import Candidate

_MOST = 500  # characters of what is found wrong


@dataclass(frozen=True, slots=True)
class Options:
    """This verifier has no options."""

    __pydantic_config__ = STRICT


class ExecutedTests:
    """Asks a prompt's task what share of the tests each solution passes (``task.share``). No model reads anything.

    What is wrong with a solution that fails one says the task's coroutine ``finding(answer)``, where it has one; the
    answer is None where the solution states none.

    Where a prompt has no tests, or its task runs none, solutions stay unscored. Arms that choose by score then choose
    by votes.
    """

    parameters = 0

    def __init__(self, task: Any = None, model: str | None = None):
        """task: the prompt's task;  model: name of the model on whose line of the bill the verifier's cost stands"""
        self._task = task
        self.model = model

    async def prepared(self, asked: Asked, usage: Usage) -> tuple[Self, Any]:
        return type(self)(asked.task), asked.task

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        return list(await asyncio.gather(*map(self._scored, candidates)))

    async def _scored(self, candidate: Candidate) -> Candidate:
        share = getattr(self._task, "share", None)
        if share is None or not candidate.steps or candidate.end in ("length", "cut"):
            return candidate
        stated = self._task.extract(candidate.text)
        passed = 0.0 if stated is None else await share(stated)
        if passed is None:
            return candidate
        wrong = "" if passed == 1 else await self._wrong(stated, passed)
        return replace(candidate, scores=(passed,) * len(candidate.steps), finding=wrong)

    async def _wrong(self, stated: str | None, passed: float) -> str:
        """Return what is wrong with an answer that fails a test, or with a solution that states none; never ""."""
        find = getattr(self._task, "finding", None)
        found = str(await find(stated)) if find else ""
        return readable(found) or f"Your solution passes {passed:.0%} of the tests."

    async def close(self) -> None:
        return None


def readable(finding: str) -> str:
    """Return the text without control characters and lone surrogates, which no tokenizer takes, and not too long.

    It may quote what the solution returned or raised. Control tokens in it are text: see ``backends.template.encode``.
    """
    found = "".join(each if each.isprintable() or each == "\n" else " " for each in finding).strip()
    return found if len(found) <= _MOST else found[: _MOST - 1] + "…"


def load(spec: Any, options: Options, generator: None) -> ExecutedTests:
    return ExecutedTests()
