"""What kind of answer is wanted: how it is found in a text, when two answers are the same, when one is right."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Protocol

from router.errors import InvalidRequest


class Task(Protocol):
    """One kind of answer. Methods that may take long are coroutines, and free the event loop while they work."""

    def extract(self, text: str) -> str | None:
        """The final answer that a solution states, as written; None where it states none."""

    async def key(self, answer: str) -> str:
        """One spelling for all answers that are equal: what votes are counted by. Empty: it is no answer."""

    async def right(self, answer: str, reference: str) -> bool:
        """Whether an answer, as written or as its key, is what the reference says."""


_TASKS: dict[str, str] = {"math": "router.tasks.math:MathTask", "code": "router.tasks.code:CodeTask"}
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
    if lacking := [each for each in ("extract", "key", "right") if not callable(getattr(task, each, None))]:
        raise InvalidRequest(
            "task", f"{name!r} is no task: it has no method {lacking[0]}; see router.tasks.Task", reason="UNSPECIFIED"
        )
    return task  # type: ignore[return-value]  # it has the three methods
