"""Reads the message of a call once it is known that its caller may make it."""

from dataclasses import replace
from typing import Any

from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class Receiving:
    """Stands within Authentication, so that no stranger makes the server wait for a message, and around
    SearchAdmission, so that no place to search is held for one that never comes."""

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            return await proceed(replace(call, request=await call.receive()) if call.receive else call)

        return handle
