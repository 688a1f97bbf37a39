"""Maps addresses to pages. Each page is a call inside the server's middleware, so it is counted, logged and limited."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from router.errors import DeadlineExceeded, InvalidRequest, RouterError, StreamNotRead, Unauthenticated
from router.policy import seconds
from router.service.auth.callers import Caller
from router.service.http.asgi import Asgi
from router.service.http.request import Inbound
from router.service.middleware.authentication import Authentication
from router.service.middleware.call import Call
from router.service.middleware.chain import Middleware, chain, refuse, replying, streaming
from router.service.middleware.open_calls import OpenCalls
from router.service.router_service import ROUTER, RouterService
from router.service.ui import asking, calls, origins, pages, policy
from router.service.ui.pages import BASE
from router.service.ui.search import Part, Watched
from router.service.ui.sessions import (
    COOKIE,
    SECURE_COOKIE,
    SESSION_SECONDS,
    SessionAuthentication,
    Sessions,
    session_names,
)
from router.service.ui.stream import SCRIPT, AsPage, ToScript, Writer
from router.v1 import router_pb2 as pb

_PAGE_SECONDS = 15.0  # time limit of a page without a search
_LONGEST_TOKEN = 1000
_LOGIN_BYTES = 4096  # of the form for a login, which strangers send


def routes(
    around: Callable[[Middleware], Sequence[Middleware]],
    telling: Callable[[Middleware], Sequence[Middleware]],
    router: RouterService,
    authentication: Authentication,
    *,
    open_calls: OpenCalls,
    check: Callable[[Mapping[str, str]], None],
    encrypted: bool,
    write_seconds: float,
) -> Sequence[BaseRoute]:
    """Return the pages' routes.

    around         returns a call's middleware, with its argument in the place of Authentication
    telling        the same for requests that are refused before they are calls
    open_calls     counts forms while they are read; it is also among the middleware
    check          raises the error for a request that names another host than this server, by its headers
    encrypted      whether the server has TLS
    write_seconds  after which a reply ends that its caller does not read
    """
    ui = _Ui(around, telling, router, authentication, open_calls=open_calls, check=check, encrypted=encrypted)

    def get(path: str, endpoint: Callable[[Inbound], Awaitable[Response | None]]) -> Route:
        return Route(BASE + path, Asgi(endpoint, write_seconds, reads=False, failed=ui.failed), methods=["GET"])

    def post(path: str, endpoint: Callable[[Inbound], Awaitable[Response | None]]) -> Route:
        return Route(BASE + path, Asgi(endpoint, write_seconds, reads=True, failed=ui.failed), methods=["POST"])

    return [
        get("", ui.home),
        post("/search", ui.search),
        get("/policy", ui.policy),
        get("/calls", ui.calls),
        post("/login", ui.log_in),
        post("/logout", ui.log_out),
        get("/static/{name}", ui.static),
        # Addresses that a browser keeps of a form or its reply, and wrong ones. All others are above.
        *(get(path, ui.to_home) for path in ("/", "/search", "/login", "/logout")),
        get("/{path:path}", ui.missing),
    ]


class _Ui:
    def __init__(
        self,
        around: Callable[[Middleware], Sequence[Middleware]],
        telling: Callable[[Middleware], Sequence[Middleware]],
        router: RouterService,
        authentication: Authentication,
        *,
        open_calls: OpenCalls,
        check: Callable[[Mapping[str, str]], None],
        encrypted: bool,
    ):
        self._router, self._open_calls, self._check_host, self._encrypted = router, open_calls, check, encrypted
        self._recorded = calls.RecordedCalls(router.recorder)
        self._sessions = Sessions(authentication.tokens) if authentication.tokens else None
        self._who = SessionAuthentication(authentication, self._sessions, encrypted=encrypted)
        within, entering = around(self._who), around(authentication)
        self._handlers = {
            "GetBundle": chain(within, ROUTER, "GetBundle", self._looked),
            "StreamSolve": chain(within, ROUTER, "StreamSolve", streaming(self._parts)),
            "ReadCalls": chain(within, ROUTER, "ReadCalls", replying(self._read)),
            "Login": chain(entering, ROUTER, "Login", self._entered),
        }
        self._refuse = chain(telling(self._who), ROUTER, "StreamSolve", refuse)

    # Views

    async def home(self, inbound: Inbound) -> Response:
        user, solver = await self._shown(inbound)
        arms = sorted({str(arm) for arm in solver.policy.arms})
        return pages.page(
            "search.html",
            choices=asking.choices(solver),
            timed=seconds.measured(solver.policy),
            tasks=solver.tasks.names,
            bundle=solver.bundle,
            arms=arms,
            here="search",
            user=user,
        )

    async def search(self, inbound: Inbound) -> None:
        self._check(inbound)
        origins.check_origin(inbound.metadata)
        try:
            inbound.set_deadline()
            caller = self._who.caller(inbound.metadata, inbound.peer)  # checked before the body is read
            with self._open_calls.place(caller.name):
                form = await inbound.form()
            request = asking.request(form)
        except RouterError as error:
            await self._refuse(inbound.call("StreamSolve", error))
            raise
        writer: Writer = ToScript(inbound) if _by_script(inbound) else AsPage(inbound, self._name(caller))
        call = inbound.call("StreamSolve", request, writer.write)
        try:
            await self._answer(call, call.seconds_left)
        except StreamNotRead:
            raise
        except RouterError as error:
            if not inbound.begun:
                raise
            await writer.write(("error", pages.render("parts/error.html", error=error)))
        await writer.end()

    async def _parts(self, message: pb.StreamSolveRequest, call: Call) -> AsyncGenerator[Part, None]:
        with self._router.bundles.solver() as solver:
            watched = Watched(solver)
            async with aclosing(self._router.search(solver, message, call)) as events:
                async for event in events:
                    for part in watched.parts(event):
                        yield part

    async def policy(self, inbound: Inbound) -> Response:
        user, solver = await self._shown(inbound)
        return pages.page("policy.html", **policy.view(solver), here="policy", user=user)

    async def calls(self, inbound: Inbound) -> Response:
        self._check(inbound)
        call = inbound.call("ReadCalls", inbound.scope["query_string"].decode("latin-1"))
        rows, before = await self._answer(call)
        caller = call.progress.caller
        assert caller
        shown = calls.view(rows, caller, first=before is None)
        return pages.page("calls.html", **shown, here="calls", user=self._name(caller))

    async def static(self, inbound: Inbound) -> Response:
        found = pages.static(inbound.scope["path_params"]["name"])
        if found is None:
            raise InvalidRequest("path", "there is no such file", reason="MODEL_UNKNOWN")
        return found

    async def to_home(self, inbound: Inbound) -> Response:
        self._check(inbound)
        return self._to("")

    async def missing(self, inbound: Inbound) -> Response:
        self._check(inbound)
        return pages.page("missing.html", 404, here="", user="")

    # Who is there

    async def log_in(self, inbound: Inbound) -> Response:
        self._check(inbound)
        origins.check_origin(inbound.metadata)
        form = await inbound.form(_LOGIN_BYTES)
        token, next_page = form.get("token", "").strip(), form.get("next", "")
        if self._sessions is None:
            return self._to(next_page)
        try:
            if not token or len(token) > _LONGEST_TOKEN or not token.isascii():
                token = "none"  # refused and logged like any other unknown token
            call = inbound.call("Login", token)
            name = await self._answer(replace(call, metadata={**call.metadata, "authorization": f"Bearer {token}"}))
        except Unauthenticated:
            return pages.page("login.html", 401, here=_own(next_page), user="", refused=True)
        response = self._to(next_page)
        secure = origins.secure(inbound.metadata, encrypted=self._encrypted)
        response.set_cookie(
            SECURE_COOKIE if secure else COOKIE,
            name,
            max_age=SESSION_SECONDS,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )
        return response

    async def log_out(self, inbound: Inbound) -> Response:
        self._check(inbound)
        origins.check_origin(inbound.metadata)
        if self._sessions is not None:
            self._sessions.end(*session_names(inbound.metadata, encrypted=self._encrypted))
        response = self._to("")
        for cookie in (COOKIE, SECURE_COOKIE):
            response.delete_cookie(cookie, path="/", secure=cookie == SECURE_COOKIE, httponly=True, samesite="strict")
        return response

    def failed(self, error: RouterError, inbound: Inbound) -> Response:
        """Return the reply to a request that failed; where a login is missing, the login page."""
        if isinstance(error, Unauthenticated) and self._sessions is not None and inbound.scope["method"] == "GET":
            here = _own(inbound.scope["path"].removeprefix(f"{BASE}/"))
            return pages.page("login.html", 401, here=here, user="", refused=False)
        return pages.failed(error, partial=_by_script(inbound))

    # Calls

    async def _shown(self, inbound: Inbound) -> tuple[str, Any]:
        """Return the name of who is logged in, if any, and the solver that decides now."""
        self._check(inbound)
        call = inbound.call("GetBundle", None)
        solver = await self._answer(call)
        assert call.progress.caller
        return self._name(call.progress.caller), solver

    def _name(self, caller: Caller) -> str:
        """Return the name that pages show for the caller; empty where the server has no logins."""
        return "" if self._sessions is None else caller.name

    async def _looked(self, call: Call) -> Any:
        return self._router.bundles.active

    async def _read(self, query: str, call: Call) -> Any:
        """Return the rows of a page of calls, and the place where it begins."""
        assert call.progress.caller
        before = calls.place(query)
        return await self._recorded.page(call.progress.caller, before), before

    async def _entered(self, call: Call) -> str:
        assert self._sessions is not None
        return self._sessions.begin(call.request)

    async def _answer(self, call: Call, seconds: float | None = _PAGE_SECONDS) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await self._handlers[call.method](call)
        except TimeoutError:
            raise DeadlineExceeded("this took too long; try again, or ask for less") from None

    def _check(self, inbound: Inbound) -> None:
        self._check_host(inbound.metadata)

    @staticmethod
    def _to(next_page: str) -> Response:
        return RedirectResponse(f"{BASE}/{_own(next_page)}".rstrip("/"), 303, pages.HEADERS)


def _own(name: str) -> str:
    """Return ``name`` where it is one of these pages, else the home page: a login leads nowhere else."""
    return name if name in ("policy", "calls") else ""


def _by_script(inbound: Inbound) -> bool:
    return SCRIPT in inbound.metadata.get("accept", "")
