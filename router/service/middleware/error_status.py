"""Gives every failure a status."""

import logging
import traceback
from typing import Any

from router.errors import InternalError, RouterError
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler

_log = logging.getLogger(__name__)


class ErrorStatus:
    """Lets RouterErrors pass, which carry a status. Other exceptions are bugs: they are logged, and the caller gets an
    InternalError."""

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            try:
                return await proceed(call)
            except RouterError:
                raise
            except Exception as error:
                log_bug(method, error, call.id)
                raise InternalError("internal error; the server's log says more") from None

        return handle


def log_bug(where: str, error: Exception, call_id: str) -> None:
    """Log where an unexpected error was raised, but not its text, which could quote a prompt."""
    lines = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s failed: %s", where, type(error).__name__, extra={"call_id": call_id, "traceback": lines})
