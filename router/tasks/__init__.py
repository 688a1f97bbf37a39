"""What kind of answer is wanted: how it is found in a text, when two answers are the same, when one is right."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from router.errors import InvalidRequest
from router.tasks.workers import Allowance, LimitReached, within

__all__ = ["TASKS", "Allowance", "LimitReached", "PlainTask", "Task", "load_task", "register", "within"]


class Task(Protocol):
    """One kind of answer. Methods that may take long are coroutines, and free the event loop while they work."""

    def bound(self, inputs: Mapping[str, Any]) -> "Task":
        """The task for one prompt, given what its request brings: choices, a schema, tests. Raises InvalidRequest."""

    def extract(self, text: str) -> str | None:
        """The final answer that a solution states, as written; None where it states none. In linear time."""

    async def key(self, answer: str) -> str:
        """One spelling for all answers that are equal: what votes are counted by. Empty: it is no answer."""

    async def right(self, answer: str, reference: str) -> bool:
        """Whether an answer, as written or as its key, is what the reference says."""


class PlainTask:
    """A task that is a text and takes nothing from requests: a base for one's own, which says only what differs."""

    def bound(self, inputs: Mapping[str, Any]) -> Task:
        """The task itself. Inputs are refused, so that none is ignored in silence."""
        for name in inputs:
            raise InvalidRequest(name, f"the task {type(self).__name__} takes no {name}", reason="UNSPECIFIED")
        return self

    def extract(self, text: str) -> str | None:
        return text.strip() or None

    async def key(self, answer: str) -> str:
        return " ".join(answer.split())

    async def right(self, answer: str, reference: str) -> bool:
        key = await self.key(answer)
        return key != "" and key == await self.key(reference)


_TASKS: dict[str, str] = {
    "math": "router.tasks.math:MathTask",
    "number": "router.tasks.number:NumberTask",
    "choice": "router.tasks.choice:ChoiceTask",
    "exact": "router.tasks.exact:ExactTask",
    "json": "router.tasks.json_values:JsonTask",
    "code": "router.tasks.code:CodeTask",
}
TASKS: Mapping[str, str] = _TASKS  # by name: where its class is, imported on use


def register(name: str, place: str) -> None:
    """Make a task known by name. ``place`` is module:object, a class without arguments or a task."""
    _TASKS[name] = place


def load_task(name: str) -> Task:
    """The task of this name, or a user's own by ``module:object``; made once. Raises InvalidRequest."""
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
            f"{name!r} is no task: it has no method {lacking[0]}; inherit from router.tasks.PlainTask",
            reason="UNSPECIFIED",
        )
    return task  # type: ignore[return-value]  # it has the methods
