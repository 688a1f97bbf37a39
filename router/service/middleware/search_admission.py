"""Has a call that searches wait for a place, or refuses it; ends it where others have waited for the place."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

from router.service.admission import Admission
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class SearchAdmission:
    """Stands inside Authentication, since places are shared fairly between callers.

    methods  names of the methods that search; other methods need no place
    """

    def __init__(self, admission: Admission, methods: Collection[str]):
        self._admission = admission
        self._methods = methods

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        if method not in self._methods:
            return proceed

        async def handle(call: Call) -> Any:
            progress, arrived = call.progress, time.monotonic()
            assert progress.caller
            with await self._admission.place(progress.caller.name, call.seconds_left) as place:
                progress.queue_seconds = time.monotonic() - arrived
                progress.release_place = place.release
                try:
                    async with asyncio.timeout(None) as limit:
                        place.on_end = lambda: limit.reschedule(asyncio.get_running_loop().time())
                        return await proceed(call)
                except TimeoutError:
                    if not limit.expired():
                        raise
                    error = self._admission.gives_way(progress.caller.name)
                    error.bill = progress.bill
                    raise error from None

        return handle
