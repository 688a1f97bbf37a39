"""Keeps who is logged in to the pages. A cookie with a random name stands for a bearer token; no page holds a token."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.errors import Unauthenticated
from router.service.auth.callers import Caller, Peer, Token, bearer, digest_of
from router.service.middleware.authentication import Authentication
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler
from router.service.ui.origins import secure

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

    def caller(self, *names: str) -> Caller:
        """Return the caller of the first of these that is a session's name. Raises Unauthenticated."""
        callers = {each.digest: each.caller for each in self._tokens()}
        for name in names:
            session = self._sessions.get(digest_of(name))
            if session and session.ends > self._clock() and session.token in callers:
                return callers[session.token]
        raise Unauthenticated("log in: there is no session, or it has ended")

    def end(self, *names: str) -> None:
        for name in names:
            self._sessions.pop(digest_of(name), None)

    @property
    def count(self) -> int:
        return len(self._sessions)


def session_names(metadata: Mapping[str, str | bytes], *, encrypted: bool) -> list[str]:
    """Return what may be the session's name, from the cookies.

    Other programs on this host, and sites above it, set cookies that come along: malformed ones, and some of the same
    name. So all of that name are returned, but over TLS none that others can set.
    """
    sent = [each.strip().partition("=") for each in str(metadata.get("cookie", "")).split(";")]
    ours = (SECURE_COOKIE,) if secure(metadata, encrypted=encrypted) else (SECURE_COOKIE, COOKIE)
    return [value for cookie in ours for name, _, value in sent if name == cookie]


class SessionAuthentication:
    """Replaces Authentication around the pages' calls: a session stands for a bearer token.

    sessions   None: the server needs no tokens
    encrypted  whether the server has TLS
    """

    def __init__(self, authentication: Authentication, sessions: Sessions | None, *, encrypted: bool):
        self._authentication, self._sessions, self._encrypted = authentication, sessions, encrypted

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        def handle(call: Call) -> Awaitable[Any]:
            call.progress.caller = self.caller(call.metadata, call.peer)
            return proceed(call)

        return handle

    def caller(self, metadata: Mapping[str, str | bytes], peer: Peer) -> Caller:
        """Return the caller. Raises Unauthenticated."""
        if self._sessions is None or "authorization" in metadata:
            return self._authentication.caller(metadata, peer)
        return self._sessions.caller(*session_names(metadata, encrypted=self._encrypted))
