"""The ASGI application: turns each HTTP request into a Call, and the result into an HTTP reply."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import Message as ProtoMessage
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from router.backends.specs import ModelSpec
from router.errors import DeadlineExceeded, InvalidRequest, RouterError, StreamNotRead
from router.service import conversion
from router.service.auth.callers import Caller, Peer
from router.service.http import errors, replies, stream
from router.service.http.asgi import Asgi, Endpoint
from router.service.http.direct import Direct, endpoint, limited
from router.service.http.messages import parse
from router.service.http.request import Inbound
from router.service.http.requests import ALIAS, Chat, as_written, read
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler, Middleware, chain, refuse, replying, streaming
from router.service.middleware.open_calls import OpenCalls
from router.service.router_service import ROUTER, RouterService
from router.solving.bill import Bill
from router.v1 import router_pb2 as pb


def application(
    middleware: Sequence[Middleware],
    telling: Sequence[Middleware],
    router: RouterService,
    *,
    authenticate: Callable[[Mapping[str, str], Peer], Caller],
    open_calls: OpenCalls,
    stopping: asyncio.Event,
    write_seconds: float,
    serving: Callable[[], bool] = lambda: True,
    direct: bool = True,
    pages: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the application. ``router`` answers calls, inside ``middleware``.

    telling        middleware of requests that are refused before they are calls
    authenticate   returns the caller, or raises the error for one who may not call, before the body is read
    open_calls     counts bodies while they are read; it is also among the middleware
    stopping       set once new calls are refused
    write_seconds  after which a reply ends that its caller does not read
    serving        tells whether any engine answers
    direct         whether the reference model alone answers what no search can serve; otherwise it is refused
    pages          further routes, besides the API's
    """
    api = _Api(middleware, telling, router, authenticate=authenticate, open_calls=open_calls, direct=direct)

    def post(path: str, answer: Endpoint) -> Route:
        return Route(path, Asgi(answer, write_seconds, reads=True, failed=_error), methods=["POST"])

    def get(path: str, answer: Endpoint) -> Route:
        return Route(path, Asgi(answer, write_seconds, reads=False, failed=_error), methods=["GET"])

    async def health(request: Request) -> Response:
        if stopping.is_set():
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "serving"}) if serving() else JSONResponse({"status": "no engine answers"}, 503)

    answers = Starlette(
        routes=[
            post("/v1/chat/completions", api.chat),
            get("/v1/models", api.models),
            get("/v1/models/{model}", api.model),
            post("/v1/router/route", partial(api.called, "Route", pb.RouteRequest)),
            post("/v1/router/outcomes", partial(api.called, "RecordOutcome", pb.RecordOutcomeRequest)),
            get("/v1/router/bundle", api.bundle),
            Route("/health", health, methods=["GET"]),
            *pages,
        ],
        exception_handlers={HTTPException: _no_such_page},
    )
    # It would send to whatever host the request names, before that is checked.
    answers.router.redirect_slashes = False
    return answers


class _Api:
    """The API's endpoints, each inside the middleware of the RouterService's method that it stands for."""

    def __init__(
        self,
        middleware: Sequence[Middleware],
        telling: Sequence[Middleware],
        router: RouterService,
        *,
        authenticate: Callable[[Mapping[str, str], Peer], Caller],
        open_calls: OpenCalls,
        direct: bool,
    ):
        self._router, self._authenticate, self._direct = router, authenticate, direct
        self._open_calls = open_calls
        model = Direct(router.bundles)
        endpoints: dict[str, Handler] = {
            "Route": replying(router.Route),
            "Solve": replying(router.Solve),
            "StreamSolve": streaming(router.StreamSolve),
            "Complete": limited(replying(model.reply), router.longest_search),
            "StreamComplete": limited(streaming(model.events), router.longest_search),
            "GetBundle": replying(router.GetBundle),
            "RecordOutcome": replying(router.RecordOutcome),
        }
        self._handlers = {name: chain(middleware, ROUTER, name, each) for name, each in endpoints.items()}
        self._refusals = {name: chain(telling, ROUTER, name, refuse) for name in endpoints}

    async def chat(self, inbound: Inbound) -> Response | None:
        chat = await self._read(inbound, "Solve", self._chat)
        events = stream.Events(inbound, chat)
        match bool(chat.direct), chat.fields.stream:
            case False, False:
                call = inbound.call("Solve", chat.message)
                reply = await self._completed(call)
                return _json(replies.completion(chat, reply.solution, call.progress.solution, self._writers(call)))
            case True, False:
                call = inbound.call("Complete", chat)
                told = await self._completed(call)
                more = {"usage": replies.usage(_bill(call)), "router": self._direct_notes(chat, call)}
                return _json({**replies.forwarded(call.id, "chat.completion", told), **more})
            case False, True:
                call = inbound.call("StreamSolve", chat.message, events.take)
            case _:
                call = inbound.call("StreamComplete", chat, events.forward)
        try:
            async with events.kept_alive(lambda: call.progress.decision is not None):
                await self._completed(call)
            if chat.direct:
                await events.end_forwarding(_bill(call), self._direct_notes(chat, call))
            else:
                await events.end(call.progress.solution, self._writers(call))
        except StreamNotRead:
            raise
        except RouterError as error:
            if not inbound.begun:
                raise
            await events.fail(errors.body(error, call.id))
        return None

    def _chat(self, body: Any) -> Chat:
        chat = read(body, self._names())
        if chat.direct and not self._direct:
            raise InvalidRequest(
                chat.direct[0],
                f"{', '.join(chat.direct[:5])}: a search can't do this, and this server passes nothing on to a model",
                reason="NOT_SEARCHABLE",
            )
        return chat

    def _direct_notes(self, chat: Chat, call: Call) -> Mapping[str, Any]:
        active = self._router.bundles.active
        setup, unread = active.bundle.setup, () if endpoint(active) else chat.unread
        return replies.direct(chat, call.id, _bill(call), setup.reference, [setup.main], unread=unread)

    async def models(self, inbound: Inbound) -> Response:
        return _json(replies.models(await self._served(inbound), self._names()))

    async def model(self, inbound: Inbound) -> Response:
        name = inbound.scope["path_params"]["model"]
        served = await self._served(inbound)
        if name in self._names():
            return _json(replies.model(served, name))
        raise InvalidRequest("model", f"the model {name[:100]!r} is not served", reason="MODEL_UNKNOWN")

    async def bundle(self, inbound: Inbound) -> Response:
        return _json(replies.bundle(await self._served(inbound)))

    async def _served(self, inbound: Inbound) -> pb.Bundle:
        await self._admit(inbound, "GetBundle")
        reply = await self._answer(inbound.call("GetBundle", pb.GetBundleRequest()))
        served: pb.Bundle = reply.bundle
        return served

    async def called(self, method: str, kind: type[ProtoMessage], inbound: Inbound) -> Response:
        """Answer a request whose JSON is the message of a RouterService method."""
        content = await self._read(inbound, method, partial(parse, kind))
        return _json(replies.as_json(await self._answer(inbound.call(method, content))))

    def _writers(self, call: Call) -> list[ModelSpec]:
        """Return the models of the call's arm."""
        setup, decision = self._router.bundles.active.bundle.setup, call.progress.decision
        names = [name or setup.reference for name in decision.arm.models] if decision else []
        return [setup.models[name] for name in names if name in setup.models]

    def _names(self) -> list[str]:
        """Return the names that clients may give for the model: the fixed one, and the bundle's."""
        bundle = self._router.bundles.active.bundle
        return list(dict.fromkeys((ALIAS, bundle.manifest.name, bundle.id)))

    async def _read(self, inbound: Inbound, method: str, read: Callable[[Any], Any]) -> Any:
        """Return what ``read`` makes of the body. A refusal also goes through the middleware, which logs it."""
        caller = await self._admit(inbound, method)
        try:
            inbound.set_deadline()
            with self._open_calls.place(caller.name):
                body = await inbound.json()
            return read(body)
        except RouterError as error:
            await self._refusals[method](inbound.call(method, error))
            raise

    async def _admit(self, inbound: Inbound, method: str) -> Caller:
        """Return the caller, or raise the error for one who may not call.

        The refusal goes through the middleware, which logs it.
        """
        try:
            return self._authenticate(inbound.metadata, inbound.peer)
        except RouterError as error:
            await self._refusals[method](inbound.call(method, error))
            raise

    async def _completed(self, call: Call) -> Any:
        """Answer a chat completion's call. Errors name fields as the chat completion does."""
        try:
            return await self._answer(call)
        except InvalidRequest as error:
            error.field = as_written(error.field)
            raise

    async def _answer(self, call: Call) -> Any:
        try:
            # gRPC ends calls at their deadline by itself; HTTP does not, while they wait or do not end by themselves.
            async with asyncio.timeout(call.seconds_left):
                return await self._handlers[call.method](call)
        except TimeoutError:
            error = DeadlineExceeded("no answer before the deadline; give it more time, or a smaller budget")
            error.bill = call.progress.bill
            raise error from None


def _bill(call: Call) -> pb.Bill:
    return conversion.bill(call.progress.bill or Bill())


def _json(content: Mapping[str, Any]) -> Response:
    return JSONResponse(content)


def _error(error: RouterError, inbound: Inbound) -> Response:
    return JSONResponse(errors.body(error, inbound.id), errors.status(error), errors.headers(error))


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]  # not the URL's: that needs a host that can be read
    what = f"{request.method} {path[:200]}: {error.detail}; the API is /v1/chat/completions, /v1/models, /v1/router/…"
    kind = {"message": what, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": kind}, error.status_code, {"x-should-retry": "false", **(error.headers or {})})
