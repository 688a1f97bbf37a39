"""Who is logged in to the pages: a random name in a cookie stands for a bearer token, which no page ever holds."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from router.errors import Unauthenticated
from router.service.auth.callers import Caller, Peer, Token, bearer, digest_of
from router.service.middleware.authentication import Authentication
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler

COOKIE = "router_session"
SECURE_COOKIE = "__Host-router_session"  # browsers take it over TLS only, and send it to this host alone
SESSION_SECONDS = 12 * 3600
_MOST = 16  # sessions of one token; one more ends its oldest


@dataclass(frozen=True, slots=True)
class _Session:
    token: bytes  # its digest
    ends: float


class Sessions:
    """Sessions of this process, each at most 12 hours long. One ends at once where its token is no longer valid.

    tokens  those that are valid now
    clock   seconds that only rise
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]], clock: Callable[[], float] = time.monotonic):
        self._tokens, self._clock = tokens, clock
        self._sessions: dict[bytes, _Session] = {}  # by the digest of its name, the oldest first

    def begin(self, token: str) -> str:
        """The name of a new session. Raises Unauthenticated."""
        tokens = self._tokens()
        bearer(tokens, f"Bearer {token}")
        now, digest, valid = self._clock(), digest_of(token.strip()), {each.digest for each in tokens}
        self._sessions = {key: each for key, each in self._sessions.items() if each.ends > now and each.token in valid}
        own = [key for key, each in self._sessions.items() if each.token == digest]
        for key in own[: max(0, len(own) + 1 - _MOST)]:
            del self._sessions[key]
        name = secrets.token_urlsafe(32)
        self._sessions[digest_of(name)] = _Session(digest, now + SESSION_SECONDS)
        return name

    def caller(self, name: str) -> Caller:
        """Raises Unauthenticated."""
        session = self._sessions.get(digest_of(name))
        if session and session.ends > self._clock():
            for token in self._tokens():
                if token.digest == session.token:
                    return token.caller
        raise Unauthenticated("log in: this session has ended, or none was begun")

    def end(self, name: str) -> None:
        self._sessions.pop(digest_of(name), None)

    @property
    def count(self) -> int:
        return len(self._sessions)


def session_name(metadata: Mapping[str, str | bytes]) -> str:
    """What the cookie says; empty where there is none."""
    try:
        cookies = SimpleCookie(str(metadata.get("cookie", "")))
    except CookieError:
        return ""
    return next((cookies[name].value for name in (SECURE_COOKIE, COOKIE) if name in cookies), "")


class SessionAuthentication:
    """Stands in Authentication's place around the pages' calls: who has a session needs no bearer token.

    sessions  None: the server wants no tokens
    """

    def __init__(self, authentication: Authentication, sessions: Sessions | None):
        self._authentication, self._sessions = authentication, sessions

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        def handle(call: Call) -> Awaitable[Any]:
            call.progress.caller = self.caller(call.metadata, call.peer)
            return proceed(call)

        return handle

    def caller(self, metadata: Mapping[str, str | bytes], peer: Peer) -> Caller:
        """Who calls. Raises Unauthenticated."""
        if self._sessions is None or "authorization" in metadata:
            return self._authentication.caller(metadata, peer)
        return self._sessions.caller(session_name(metadata))
