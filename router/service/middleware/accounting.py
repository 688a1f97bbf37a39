"""Counts the work of a call, in worker processes and sandboxes, to its caller."""

from typing import Any

from router.service.middleware.call import Call
from router.service.middleware.chain import Handler
from router.tasks.turns import on_behalf_of


class Accounting:
    """Stands inside Authentication, since callers take turns at worker processes and sandboxes."""

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            caller = call.progress.caller
            with on_behalf_of(caller.name if caller else call.peer.address):
                return await proceed(call)

        return handle
