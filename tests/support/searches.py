"""Runs searches to their end, and makes arms from a strategy's name."""

from collections.abc import AsyncIterator
from typing import Any

from router.solving.driver import Round, StopReason
from strategies import STRATEGIES, Result


def named(name: str, **parameters: Any) -> Any:
    """Return an arm by its strategy's name: ``named("majority", n=4)``. Typed Any, so that parameters can be read."""
    return STRATEGIES[name](**parameters)


async def finished(events: AsyncIterator[Any]) -> tuple[list[Round], Result, StopReason]:
    """Return what ``drive`` yields: its rounds, the result, and why it stopped."""
    *found, (result, stopped) = [event async for event in events]
    return [event for event in found if isinstance(event, Round)], result, stopped
