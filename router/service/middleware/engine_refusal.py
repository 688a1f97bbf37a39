"""Refuses searches at once while no engine answers: waiting would only tell the caller later."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from router.errors import EngineUnavailable
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class EngineRefusal:
    """``alive`` says whether any engine answers; calls of other methods than ``methods`` need none."""

    def __init__(self, alive: Callable[[], bool], methods: Collection[str]):
        self._alive = alive
        self._methods = methods

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        if method not in self._methods:
            return proceed

        def handle(call: Call) -> Awaitable[Any]:
            if not self._alive():
                raise EngineUnavailable("no engine answers; this server looks for one all the time, so try again")
            return proceed(call)

        return handle
