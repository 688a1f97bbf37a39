"""Finds out who is calling, and refuses callers who may not."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from router.errors import PermissionDenied
from router.service.auth.callers import Caller, Peer, Token, bearer, caller_of
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler


class Authentication:
    """Names callers by their bearer token where the server has tokens, else by certificate or address.

    tokens          returns the tokens that are valid now; None: everybody who can connect may call
    admin_services  only callers with ``admin`` may call these
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]] | None, admin_services: Collection[str]):
        self.tokens = tokens
        self._admin_services = admin_services

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        admin_only = service in self._admin_services

        def handle(call: Call) -> Awaitable[Any]:
            caller = call.progress.caller = self.caller(call.metadata, call.peer)
            if admin_only and not caller.admin:
                raise PermissionDenied(
                    f"{method} needs a bearer token with admin = true; see `router token --help` and `serve --tokens`"
                )
            return proceed(call)

        return handle

    def caller(self, metadata: Mapping[str, str | bytes], peer: Peer) -> Caller:
        """Return the caller. Raises Unauthenticated."""
        if self.tokens:
            return bearer(self.tokens(), str(metadata.get("authorization", "")))
        return caller_of(peer)
