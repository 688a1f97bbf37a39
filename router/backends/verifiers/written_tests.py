"""A verifier by tests that a model writes, besides the caller's: a solution's score is the share of tests it passes.

The model writes tests once for each search, for all solutions. Solutions are also compared by their results on these
tests' calls, so that votes tell apart solutions that agree on the caller's tests alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from router.backends import Asked, Generator, Usage
from router.backends.verifiers.asking import filled_in
from router.backends.verifiers.executed_tests import ExecutedTests
from router.errors import InvalidRequest
from router.prompt import Message, Prompt
from router.schema import STRICT, Positive
from strategies import Candidate

# The prompt calls the task somebody else's, since a small model would otherwise just solve it once more.
PROMPT = """Here is a task in Python, which somebody else solves:

{question}

You test their solution, by lines like `assert {function}(ARGUMENTS) == RESULT`, with literal arguments and \
the literal result that a right solution returns. Reply with one code block of such lines, {count} in all, and \
nothing else."""
MORE = """Now write {count} more such lines, which call {function} with other arguments, also for rare and extreme \
cases. Reply with one code block that holds these lines and nothing else."""
# A worked example goes before, and the caller's tests are shown as what the model itself wrote so far: without either,
# models of half a billion parameters solve the task or repeat the caller's tests.
_QUESTION = "Write a function second_largest(items) that returns the second largest of the different numbers in a list."
_EXAMPLES = (
    "assert second_largest([3, 1, 2]) == 2",
    "assert second_largest([5, 5, 4]) == 4",
    "assert second_largest([-1, -2, -3]) == -2",
    "assert second_largest([0.5, 2, 1.5]) == 1.5",
    "assert second_largest([7]) is None",
    "assert second_largest([]) is None",
)
_SHOWN = 3  # of the caller's tests


@dataclass(frozen=True, slots=True)
class Options:
    """The verifier's settings in models.json.

    prompt      the request to the model, with {question}, {count} and {function}, the name of the function to test. The
                model answers it for an example first and, where the caller gave tests, with these; then it is asked
                for more
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
            try:
                (written,) = await self._generator.extend(
                    request(options, asked.prompt.transcript, name, getattr(task, "tests", ())[:_SHOWN]),
                    [Candidate()],
                    steps=None,
                    temperature=0,
                    max_tokens=most,
                    deadline=None,
                    seed=0,
                    usage=usage,
                )
            except InvalidRequest as error:
                if error.reason != "PROMPT_TOO_LONG":
                    raise
                # The request is longer than the prompt, which fits: it is solved without written tests.
            else:
                task = task.with_written(written.text, options.count)
        return ExecutedTests(task, self.model), task


def request(options: Options, question: str, function: str, known: Sequence[str]) -> Prompt:
    """Return the conversation that ends with the request for tests; ``known``: the caller's own tests."""

    def turns(question: str, function: str, known: Sequence[str], count: int) -> list[Message]:
        first = str(len(known) or count)
        asked = [Message("user", filled_in(options.prompt, question=question, count=first, function=function))]
        if known:
            more = filled_in(MORE, count=str(count), function=function)
            asked += [Message("assistant", _block(known)), Message("user", more)]
        return asked

    given = _EXAMPLES[: 1 if known else 0]
    wanted = _EXAMPLES[len(given) :][: options.count]
    example = [*turns(_QUESTION, "second_largest", given, len(wanted)), Message("assistant", _block(wanted))]
    return Prompt((*example, *turns(question, function, known, options.count)))


def _block(lines: Sequence[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def load(spec: Any, options: Options, generator: Generator) -> WrittenTests:
    return WrittenTests(generator, spec.model, options)
