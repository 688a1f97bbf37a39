"""Refuses searches at once while no engine answers, since waiting would only tell the caller later."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from router.errors import EngineUnavailable
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class EngineRefusal:
    """Refuses calls of ``methods`` while ``alive`` says that no engine answers. Other methods need no engine."""

    def __init__(self, alive: Callable[[], bool], methods: Collection[str]):
        self._alive = alive
        self._methods = methods

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        if method not in self._methods:
            return proceed

        def handle(call: Call) -> Awaitable[Any]:
            if not self._alive():
                raise EngineUnavailable("no engine answers; this server keeps trying to reach one, so try again")
            return proceed(call)

        return handle
