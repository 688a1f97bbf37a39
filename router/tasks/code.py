"""Code: Python functions, judged by tests that run in a sandbox.

A caller's public tests come with the request, and a model may write more; hidden tests are the reference, offline only.
The share of tests that a solution passes serves as a verifier's score. Solutions vote by their behaviour on the inputs
of these tests.
"""

import ast
import builtins
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from router.errors import CodeNotAllowed, InvalidRequest
from router.tasks import code_blocks, findings, written_tests
from router.tasks.inputs import checked
from router.tasks.judging import Batch, Verdict
from router.tasks.python_code import UNREADABLE, one_spelling, parsed
from router.tasks.sandbox import Limits, Sandbox

_MOST_TESTS = 100
_MOST_CHARACTERS = 20_000  # characters of a test
_READ_AT_ONCE = 5_000  # characters of tests that are parsed in the event loop: in ten milliseconds, if they are hostile
_MOST_REMEMBERED = 4096
_KEY = re.compile(r"(?:does|text) [0-9a-f]{32}")


def allow_code(**options: Any) -> Sandbox:
    """Let this process's code tasks run code, in a sandbox with these options. Raises SandboxUnavailable."""
    CodeTask.sandbox = Sandbox(allow_code=True, **options)
    return CodeTask.sandbox


class CodeTask:
    """Answers that are Python code. See :class:`router.tasks.Task`.

    Finding code in a text needs no sandbox. Methods that run it raise CodeNotAllowed where no sandbox is allowed.
    """

    opaque_keys: ClassVar[bool] = True  # a key is a digest of what the code did
    sandbox: Sandbox | None = None  # where code may run, for tasks without their own: see allow_code

    def __init__(self, sandbox: Sandbox | None = None, limits: Limits | None = None):
        if sandbox is not None:
            self.sandbox = sandbox
        self._limits = limits or Limits()
        self._tests: tuple[str, ...] = ()
        self._written: tuple[str, ...] = ()
        self._inputs: tuple[str, ...] = ()
        self._wanted: frozenset[str] = frozenset()
        self._known: dict[tuple[str, tuple[str, ...]], list[Verdict]] = {}
        self._batch: Batch | None = None

    def bound(self, inputs: Mapping[str, Any]) -> "CodeTask":
        """Return the task for one prompt.

        tests   Python statements with asserts, one test each: the caller's public tests
        inputs  calls like ``f([1, 2])``: further inputs to compare solutions on

        Raises InvalidRequest.
        """
        tests, calls = _texts("tests", inputs), _texts("inputs", inputs)
        return self._with(tests, calls, called(tests, calls))

    async def bound_in_worker(self, inputs: Mapping[str, Any]) -> "CodeTask":
        """As :meth:`bound`; long tests are parsed in a worker."""
        tests, calls = _texts("tests", inputs), _texts("inputs", inputs)
        if sum(map(len, tests + calls)) <= _READ_AT_ONCE:
            return self.bound(inputs)
        return self._with(tests, calls, await checked("tests", "router.tasks.code:called", tests, calls))

    def _with(self, tests: tuple[str, ...], inputs: tuple[str, ...], wanted: frozenset[str]) -> "CodeTask":
        task = CodeTask(self.sandbox, self._limits)
        task._tests, task._inputs, task._wanted = tests, inputs, wanted
        return task

    def extract(self, text: str) -> str | None:
        return code_blocks.find(text, self._wanted)

    async def key(self, answer: str) -> str:
        """Return equal keys for equal behaviour on the public tests and further inputs or, without any, for equal
        programs.

        Empty for a solution whose calls never return a value: it gets no vote.
        """
        if _KEY.fullmatch(answer):
            return answer
        if not (self._tests or self._inputs):
            return f"text {_digest(one_spelling(answer))}"
        verdicts = await self.examine(answer)
        if not any(each.returned for each in verdicts):
            return ""
        return f"does {_digest(' '.join(each.behaviour for each in verdicts))}"

    async def why(self, answer: str | None) -> str:
        """Say why there is no answer, see :func:`router.tasks.why_none`."""
        if answer is None:
            return "has no code"
        verdicts = await self.examine(answer) if self._tests or self._inputs else []
        return f"fails: {', '.join(dict.fromkeys(each.error or 'returns nothing' for each in verdicts))}"

    def check_allowed(self, judged: bool) -> None:
        """Raise CodeNotAllowed where comparing or judging solutions means to run them, but there is no sandbox."""
        if self.sandbox is None and (judged or self._tests or self._inputs):
            raise _not_allowed()

    async def right(self, answer: str, reference: str) -> bool:
        """Whether the answer passes all tests of the reference: its asserts, each after the other statements before it.

        The answer must be code as written, since a key tells only what it did on public tests. Raises InvalidRequest
        for a key.
        """
        if _KEY.fullmatch(answer):
            raise InvalidRequest("answer", "code is judged as it was written, not by its key", reason="UNSPECIFIED")
        verdicts = await self._judged(answer, split(reference), until_failure=True)
        return all(each.passed for each in verdicts)

    @property
    def tests(self) -> tuple[str, ...]:
        """The caller's tests."""
        return self._tests

    @property
    def functions(self) -> list[str]:
        """Names of the functions that the tests and inputs call."""
        return sorted(self._wanted)

    def with_written(self, text: str, most: int) -> "CodeTask":
        """Return the task with further tests, at most ``most``, from what a model wrote.

        Their calls become inputs that tell votes apart, and half of :meth:`share` is their share.
        """
        written = written_tests.find(text, self._wanted, known=self._tests)[:most]
        calls = written_tests.calls(written, self._wanted)
        task = CodeTask(self.sandbox, self._limits)
        task._tests, task._written, task._wanted = self._tests, tuple(written), self._wanted
        task._inputs = tuple(dict.fromkeys((*self._inputs, *calls)))
        return task

    async def share(self, answer: str) -> float | None:
        """Return the share of the tests that the answer passes, each run by itself; None without tests.

        With tests of both the caller and a model, this is the mean of the two shares, since the model's tests may be
        wrong.
        """
        groups = [tests for tests in (self._tests, self._written) if tests]
        if not groups:
            return None
        verdicts = await self._judged(answer, (*self._tests, *self._inputs, *self._written), until_failure=False)
        passed = [each.passed for each in verdicts]
        shares = [passed[: len(self._tests)], passed[len(verdicts) - len(self._written) :]]
        return sum(sum(each) / len(each) for each in shares if each) / len(groups)

    async def finding(self, answer: str | None) -> str:
        """Return which test of :meth:`share` the answer fails first, and how, for a model to read; "" if it fails none.

        Tests of the reference are never among them.
        """
        if answer is None:
            wanted = " that defines " + ", ".join(self.functions) if self._wanted else ""
            return f"Your solution has no block of Python code{wanted}."
        tests = (*self._tests, *self._inputs, *self._written)
        for test, verdict in zip(tests, await self._judged(answer, tests, until_failure=False), strict=True):
            if not verdict.passed and test not in self._inputs:
                return findings.finding(test, verdict)
        return ""

    async def examine(self, answer: str) -> list[Verdict]:
        """Return what the answer does on each public test, then on each further input."""
        verdicts = await self._judged(answer, (*self._tests, *self._inputs, *self._written), until_failure=False)
        return verdicts[: len(self._tests) + len(self._inputs)]

    async def _judged(self, answer: str, tests: tuple[str, ...], *, until_failure: bool) -> list[Verdict]:
        if self.sandbox is None:
            raise _not_allowed()
        known = self._known.get((answer, tests))
        if known is not None and (len(known) == len(tests) or until_failure):
            return known
        if self._batch is None or not self._batch.takes(tests, until_failure):
            self._batch = Batch(self.sandbox, tests, self._limits, until_failure=until_failure)
        verdicts = await self._batch.of(answer)
        self._known[answer, tests] = verdicts
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        return verdicts


def _not_allowed() -> CodeNotAllowed:
    return CodeNotAllowed("running code is not allowed here: leave tests and inputs out, or start with --allow-code")


def split(reference: str) -> tuple[str, ...]:
    """Return one test per assert, each with the other statements before it. Raises InvalidRequest."""
    try:
        body = parsed(reference).body
    except UNREADABLE as error:
        raise InvalidRequest("reference", f"the tests don't parse: {error}", reason="UNSPECIFIED") from error
    before: list[str] = []
    tests = []
    for node in body:
        source = ast.get_source_segment(reference, node) or ast.unparse(node)
        if isinstance(node, ast.Assert):
            tests.append("\n".join([*before, source]))
        else:
            before.append(source)
    if not tests:
        raise InvalidRequest("reference", "the reference has no assert", reason="UNSPECIFIED")
    return tuple(tests)


def _texts(field: str, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a list of the inputs, whose texts are still to be parsed. Raises InvalidRequest."""
    for name in inputs.keys() - {"tests", "inputs"}:
        raise InvalidRequest(name, "unknown input; there are tests and inputs", reason="UNSPECIFIED")
    values = inputs.get(field, ())
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InvalidRequest(field, f"{field} is a list of Python statements", reason="UNSPECIFIED")
    if len(values) > _MOST_TESTS:
        raise InvalidRequest(field, f"at most {_MOST_TESTS} {field}", reason="UNSPECIFIED")
    for i, each in enumerate(values):
        if not isinstance(each, str) or len(each) > _MOST_CHARACTERS:
            raise InvalidRequest(
                f"{field}[{i}]", f"text of at most {_MOST_CHARACTERS} characters", reason="UNSPECIFIED"
            )
    return tuple(values)


def called(tests: Sequence[str], inputs: Sequence[str]) -> frozenset[str]:
    """Return the names of the functions that a caller's tests and inputs call. Raises InvalidRequest."""
    names: frozenset[str] = frozenset()
    for field, values in (("tests", tests), ("inputs", inputs)):
        for i, each in enumerate(values):
            names |= _called(each, field, f"{field}[{i}]")
    return names


def _called(code: str, field: str, place: str) -> frozenset[str]:
    """Return the names of functions that code calls, without builtins unless it calls nothing else."""
    try:
        tree = parsed(code)
    except (RecursionError, MemoryError) as error:
        raise InvalidRequest(place, "nested too deeply; use a literal instead", reason="UNSPECIFIED") from error
    except UNREADABLE as error:
        raise InvalidRequest(place, f"not valid Python: {error}", reason="UNSPECIFIED") from error
    nodes = list(ast.walk(tree))
    if field == "tests" and not any(isinstance(node, ast.Assert | ast.Raise) for node in nodes):
        raise InvalidRequest(place, "a test needs an assert", reason="UNSPECIFIED")
    if field == "inputs" and [type(node) for node in tree.body] != [ast.Expr]:
        raise InvalidRequest(place, "an input is a call, e.g. f([1, 2])", reason="UNSPECIFIED")
    names = frozenset(node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return frozenset(name for name in names if not hasattr(builtins, name)) or names


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
