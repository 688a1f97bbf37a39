"""Searches run to their end, and arms made from a strategy's name."""

from collections.abc import AsyncIterator
from typing import Any

from router.solving.driver import Round, StopReason
from strategies import STRATEGIES, Result


def named(name: str, **parameters: Any) -> Any:
    """``named("majority", n=4)``. Of the strategy's own class, whose parameters may be read."""
    return STRATEGIES[name](**parameters)


async def finished(events: AsyncIterator[Any]) -> tuple[list[Round], Result, StopReason]:
    """What ``drive`` yields: its rounds, and the result with why it stopped."""
    *found, (result, stopped) = [event async for event in events]
    return [event for event in found if isinstance(event, Round)], result, stopped
