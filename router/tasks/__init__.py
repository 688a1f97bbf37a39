"""Tasks: kinds of answers. A task finds an answer in a text, and says which are equal and which are right."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol

from router.errors import InvalidRequest
from router.tasks.workers import Allowance, LimitReached, NoWorkers, within

__all__ = [
    "LARGEST_INPUTS",
    "NO_INPUTS",
    "TASKS",
    "Allowance",
    "LimitReached",
    "PlainTask",
    "Task",
    "Tasks",
    "load_task",
    "opaque",
    "register",
    "runnable",
    "why_none",
    "within",
]

NO_INPUTS: Mapping[str, Any] = {}  # not a read-only proxy, which can't be pickled for workers
LARGEST_INPUTS = 100_000  # characters of JSON


class Task(Protocol):
    """One kind of answer. Methods that may take long are coroutines that don't block the event loop."""

    def bound(self, inputs: Mapping[str, Any]) -> "Task":
        """Return the task for one prompt, given its inputs: choices, a schema, tests. Raises InvalidRequest.

        Where this may take long, a task also has a coroutine ``bound_in_worker``: see :meth:`Tasks.of_caller`.
        """

    def extract(self, text: str) -> str | None:
        """Return the final answer that a solution states, as written; None where it states none. Takes linear time."""

    async def key(self, answer: str) -> str:
        """Return one spelling for all equal answers; votes are counted by it. Empty: not an answer."""

    async def right(self, answer: str, reference: str) -> bool:
        """Whether an answer, as written or as its key, agrees with the reference."""


class PlainTask:
    """A task whose answers are texts and that takes no inputs: a base class for your own tasks, which override what
    differs.

    opaque_keys  whether keys are digests, which can't be shown to a caller, judged, or used as a reference
    """

    opaque_keys: ClassVar[bool] = False

    def bound(self, inputs: Mapping[str, Any]) -> Task:
        """Return the task itself. Inputs are refused, so that none is silently ignored."""
        for name in inputs:
            raise InvalidRequest(name, "unknown input; leave it out", reason="UNSPECIFIED")
        return self

    def extract(self, text: str) -> str | None:
        return text.strip() or None

    async def key(self, answer: str) -> str:
        return " ".join(answer.split())

    async def right(self, answer: str, reference: str) -> bool:
        key = await self.key(answer)
        return key != "" and key == await self.key(reference)


async def why_none(task: Task, text: str, stated: str | None) -> str:
    """Say in a few words why a whole text has no answer. ``stated``: what the task extracts from it.

    A task may give a better reason by a coroutine ``why(stated)``.
    """
    if text.rpartition("<think>")[1] and "</think>" not in text.rpartition("<think>")[2]:
        return "ends while it is thinking"
    if why := getattr(task, "why", None):
        return str(await why(stated))
    return "states no answer" if stated is None else f"states {stated[:60]!r}, which is not an answer of this task"


def runnable(task: Task, *, judged: bool = False) -> Task:
    """Return the task, to solve with. Raises CodeNotAllowed where it would have to run code but may not.

    judged: whether solutions will also be judged by a reference
    """
    if check := getattr(task, "check_allowed", None):
        check(judged)
    return task


def opaque(task: Task) -> bool:
    """Return ``opaque_keys`` of :class:`PlainTask`, from which a task need not inherit."""
    return bool(getattr(task, "opaque_keys", False))


_TASKS: dict[str, str] = {
    "math": "router.tasks.math:MathTask",
    "number": "router.tasks.number:NumberTask",
    "choice": "router.tasks.choice:ChoiceTask",
    "exact": "router.tasks.exact:ExactTask",
    "json": "router.tasks.json_values:JsonTask",
    "code": "router.tasks.code:CodeTask",
    "text": "router.tasks.free_text:FreeTextTask",
}
TASKS: Mapping[str, str] = _TASKS  # the place of each class by name, imported on use


def register(name: str, place: str) -> None:
    """Make a task known by name. ``place`` is module:object: a task, or a class that is called without arguments."""
    _TASKS[name] = place


def load_task(name: str) -> Task:
    """Return the task of this name, or your own by ``module:object``; it is made once. Raises InvalidRequest."""
    return _task(name, TASKS.get(name, name))


@cache
def _task(name: str, place: str) -> Task:
    module, colon, attribute = place.partition(":")
    if not colon or not attribute:
        raise InvalidRequest(
            "task",
            f"unknown task {name!r}; known: {', '.join(TASKS)}, or your own as module:object",
            reason="UNSPECIFIED",
        )
    try:
        found: Callable[[], Task] | Task = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidRequest("task", f"can't import the task {name!r}: {error}", reason="UNSPECIFIED") from error
    task = found() if isinstance(found, type) else found
    methods = ("bound", "extract", "key", "right")
    if lacking := [each for each in methods if not callable(getattr(task, each, None))]:
        raise InvalidRequest(
            "task",
            f"{name!r} is not a task: it has no method {lacking[0]}; inherit from router.tasks.PlainTask",
            reason="UNSPECIFIED",
        )
    return task  # type: ignore[return-value]  # checked above: it has the methods


@contextmanager
def _naming_inputs(name: str) -> Iterator[None]:
    """Have errors in inputs name them and the task, which does not know by which name callers ask for it."""
    try:
        yield
    except InvalidRequest as error:
        field = f"inputs.{error.field}" if error.field else "inputs"
        raise InvalidRequest(field, f"{field}: {error} (task {name})", reason="INPUTS_INVALID") from error


def _check_size(inputs: Mapping[str, Any]) -> None:
    if inputs and len(json.dumps(inputs, ensure_ascii=False, default=str)) > LARGEST_INPUTS:
        raise InvalidRequest("", f"inputs take at most {LARGEST_INPUTS} characters", reason="UNSPECIFIED")


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of a bundle, loaded on use, so that an instance can be sent to workers.

    names       names of the tasks; the first is used by prompts that name none
    allow_code  whether tasks may run code, in each process that uses them: see docs/sandbox.md
    """

    names: Sequence[str] = ("math",)
    allow_code: bool = False

    def of(self, name: str | None = None, inputs: Mapping[str, Any] = NO_INPUTS) -> Task:
        """Return the task of a prompt, bound to its inputs.

        Raises InvalidRequest, naming ``task`` or ``inputs.NAME``, CodeNotAllowed, SandboxUnavailable.
        """
        task = self._named(name)
        with _naming_inputs(name or self.names[0]):
            _check_size(inputs)
            return task.bound(inputs)

    async def of_caller(self, name: str | None = None, inputs: Mapping[str, Any] = NO_INPUTS) -> Task:
        """As :meth:`of`, for inputs that a caller sent: what may take long is checked in a worker process.

        A task whose inputs may take long has a coroutine ``bound_in_worker(inputs)`` that does so.
        """
        task = self._named(name)
        with _naming_inputs(name or self.names[0]):
            _check_size(inputs)
            if inputs and (bound := getattr(task, "bound_in_worker", None)):
                try:
                    found: Task = await bound(inputs)
                    return found
                except NoWorkers:  # rather a server that may be slow than one that takes wrong inputs
                    pass
            return task.bound(inputs)

    def _named(self, name: str | None) -> Task:
        name = name or self.names[0]
        if name not in self.names:
            raise InvalidRequest(
                "task", f"the bundle has no task {name!r}; it has {', '.join(self.names)}", reason="TASK_UNKNOWN"
            )
        if self.allow_code:
            self._allow()
        return load_task(name)

    def check(self) -> None:
        """Load all tasks. Raises InvalidRequest, SandboxUnavailable."""
        for name in self.names:
            self.of(name)

    def _allow(self) -> None:
        from router.tasks.code import CodeTask, allow_code

        if CodeTask.sandbox is None:
            allow_code()
