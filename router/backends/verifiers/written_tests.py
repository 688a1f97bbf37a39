"""A verifier by tests that a model writes, besides the caller's: a solution's score is the share of tests it passes.

The model writes tests once for each search, for all solutions. Solutions are also compared by their results on these
tests' calls, so that votes tell apart solutions that agree on the caller's tests alone.
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

# The prompt calls the task somebody else's, since a small model would otherwise just solve it once more.
PROMPT = """Here is a task in Python, which somebody else solves:

{question}

You test their solution. Write {count} lines like `assert {function}(ARGUMENTS) == RESULT`, with literal arguments \
other than those above and the literal result that a right solution returns, also for rare and extreme cases. Reply \
with one code block that holds these lines and nothing else."""


@dataclass(frozen=True, slots=True)
class Options:
    """The verifier's settings in models.json.

    prompt      the request to the model, with {question}, {count} and {function}, the name of the function to test
    count       most tests that are kept
    max_tokens  most tokens that the model writes
    """

    __pydantic_config__ = STRICT

    prompt: Annotated[str, Field(pattern=r"\{question\}")] = PROMPT
    count: Annotated[int, Field(ge=1, le=50)] = 5
    max_tokens: Positive = 512


class WrittenTests(ExecutedTests):
    """Scores by the caller's and the written tests. ``model``: name of the model that writes tests, as on the bill."""

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
