"""Reads a call's message, after the caller's rights are checked."""

from typing import Any

from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class Receiving:
    """Stands inside Authentication, so that no stranger makes the server wait for a message, and around
    SearchAdmission, so that no place to search is held for a message that never comes."""

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            if call.receive:
                call.request = await call.receive()
            return await proceed(call)

        return handle
