"""Finds, compares and judges the answers of many attempts by the tasks of their prompts; equal ones only once."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from router.errors import InvalidFile, InvalidRequest
from router.tasks import NO_INPUTS, Task, Tasks

_Found = TypeVar("_Found")


class Judge:
    """Judges attempts by their tasks and caches the results. An instance belongs to one event loop."""

    def __init__(self, tasks: Tasks):
        self._tasks = tasks
        self._bound: dict[tuple[str | None, str], Task] = {}
        self._known: dict[tuple[Any, ...], asyncio.Future[Any]] = {}

    def task(self, row: Mapping[str, Any]) -> Task:
        """Return the task of an attempt's prompt, bound to its inputs. Raises InvalidFile."""
        name, inputs = task_of(row), inputs_of(row)
        place = name, json.dumps(inputs) if inputs else ""
        if place not in self._bound:
            try:
                self._bound[place] = self._tasks.of(name, inputs)
            except InvalidRequest as error:
                raise InvalidFile(f"prompt_id {row['prompt_id']!r}: {error}") from error
        return self._bound[place]

    async def key(self, task: Task, stated: str | None) -> str | None:
        """Return the task's key of an answer; None where it is no answer."""
        return None if stated is None else await self._once(("key", task, stated), task.key(stated)) or None

    async def right(self, task: Task, stated: str, reference: str) -> bool:
        """Whether an answer, as its text states it, is right. A key may not parse as the answer that it stands for."""
        return await self._once(("right", task, stated, reference), task.right(stated, reference))

    async def _once(self, place: tuple[Any, ...], work: Coroutine[Any, Any, _Found]) -> _Found:
        if place in self._known:
            work.close()
        else:
            self._known[place] = asyncio.ensure_future(work)
        found: _Found = await self._known[place]
        return found


def inputs_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the inputs of a row's prompt. Raises InvalidFile."""
    text = row.get("inputs")
    if not isinstance(text, str):
        return NO_INPUTS
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InvalidFile(f"prompt_id {row['prompt_id']!r}: inputs {text[:60]!r} are not a JSON object")
    return found


def task_of(row: Mapping[str, Any]) -> str | None:
    """Return the name of the task of a row's prompt; None: the bundle's first one."""
    name = row.get("task")
    return name if isinstance(name, str) else None
