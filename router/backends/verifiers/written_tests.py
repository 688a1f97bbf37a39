"""Tests that a model writes as a verifier, beside the caller's: a solution's score is the share of them that it passes.

One model writes them once a prompt and search, for all its solutions. Their calls also are what solutions are compared
on, so votes are told apart by more behaviour than the caller's tests show.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from router.backends import Asked, Generator, Usage
from router.backends.verifiers.asking import filled_in
from router.backends.verifiers.executed_tests import ExecutedTests
from router.prompt import Prompt
from router.schema import STRICT, Positive
from strategies import Candidate

# The task is somebody else's: a small model that reads it as its own solves it once more.
PROMPT = """Here is a task in Python, which somebody else solves:

{question}

You test their solution. Write {count} lines like `assert {function}(ARGUMENTS) == RESULT`, with literal arguments \
other than those above and the literal result that a right solution returns, also for rare and extreme cases. Reply \
with one code block that holds these lines and nothing else."""


@dataclass(frozen=True, slots=True)
class Options:
    """``prompt``: what the model is asked, with {question}, {count} and {function}, its name

    count       tests that are kept, at most
    max_tokens  that it may write
    """

    __pydantic_config__ = STRICT

    prompt: Annotated[str, Field(pattern=r"\{question\}")] = PROMPT
    count: Annotated[int, Field(ge=1, le=50)] = 5
    max_tokens: Positive = 512


class WrittenTests(ExecutedTests):
    """``model``: name of the model that writes the tests, on whose line of the bill they stand."""

    def __init__(self, generator: Generator, model: str, options: Options):
        super().__init__(None, model)
        self._generator, self._options = generator, options
        self.parameters = generator.parameters

    async def prepared(self, asked: Asked, usage: Usage) -> tuple[ExecutedTests, Any]:  # type: ignore[override]
        task, options = asked.task, self._options
        left = asked.may_generate()
        if hasattr(task, "with_written") and left != 0:
            most = options.max_tokens if left is None else min(left, options.max_tokens)
            name = next(iter(getattr(task, "functions", ())), "FUNCTION")
            question, count = asked.prompt.transcript, str(options.count)
            text = filled_in(options.prompt, question=question, count=count, function=name)
            (written,) = await self._generator.extend(
                Prompt.of(text),
                [Candidate()],
                steps=None,
                temperature=0,
                max_tokens=most,
                deadline=None,
                seed=0,
                usage=usage,
            )
            task = task.with_written(written.text, options.count)
        return ExecutedTests(task, self.model), task


def load(spec: Any, options: Options, generator: Generator) -> WrittenTests:
    return WrittenTests(generator, spec.model, options)
