"""Keeps who is logged in to the pages. A cookie with a random name stands for a bearer token; no page holds a token."""

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
SECURE_COOKIE = "__Host-router_session"  # browsers accept it only over TLS, and send it to this host alone
SESSION_SECONDS = 12 * 3600
_MOST = 16  # sessions of one token; a further one ends the oldest


@dataclass(frozen=True, slots=True)
class _Session:
    token: bytes  # the token's digest
    ends: float


class Sessions:
    """Sessions of this process, each at most 12 hours long. A session ends at once when its token is no longer valid.

    tokens  returns the tokens that are valid now
    clock   returns seconds, and never goes back
    """

    def __init__(self, tokens: Callable[[], Sequence[Token]], clock: Callable[[], float] = time.monotonic):
        self._tokens, self._clock = tokens, clock
        self._sessions: dict[bytes, _Session] = {}  # by the digest of their names, oldest first

    def begin(self, token: str) -> str:
        """Begin a session for a bearer token; return its name. Raises Unauthenticated."""
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
        raise Unauthenticated("log in: there is no session, or it has ended")

    def end(self, name: str) -> None:
        self._sessions.pop(digest_of(name), None)

    @property
    def count(self) -> int:
        return len(self._sessions)


def session_name(metadata: Mapping[str, str | bytes]) -> str:
    """Return the session's name from the cookie; empty where there is none."""
    try:
        cookies = SimpleCookie(str(metadata.get("cookie", "")))
    except CookieError:
        return ""
    return next((cookies[name].value for name in (SECURE_COOKIE, COOKIE) if name in cookies), "")


class SessionAuthentication:
    """Replaces Authentication around the pages' calls: a session stands for a bearer token.

    sessions  None: the server needs no tokens
    """

    def __init__(self, authentication: Authentication, sessions: Sessions | None):
        self._authentication, self._sessions = authentication, sessions

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        def handle(call: Call) -> Awaitable[Any]:
            call.progress.caller = self.caller(call.metadata, call.peer)
            return proceed(call)

        return handle

    def caller(self, metadata: Mapping[str, str | bytes], peer: Peer) -> Caller:
        """Return the caller. Raises Unauthenticated."""
        if self._sessions is None or "authorization" in metadata:
            return self._authentication.caller(metadata, peer)
        return self._sessions.caller(session_name(metadata))
