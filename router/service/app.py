"""The whole server: services, the middleware around their calls, and the gRPC and HTTP servers that receive calls."""

import asyncio
import gc
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from opentelemetry.trace import Tracer

from router.service.admin import ADMIN, AdminService
from router.service.admission import Admission
from router.service.auth.addresses import check_exposure, check_host
from router.service.auth.callers import Caller, Peer, Token
from router.service.bundle_manager import BundleManager
from router.service.ending import MARGIN_SECONDS, on_hangup, on_signals
from router.service.engine_watch import EngineWatch
from router.service.grpc_door import MESSAGE_SECONDS, WRITE_SECONDS, GrpcDoor
from router.service.health import LARGEST, HealthService
from router.service.middleware.accounting import Accounting
from router.service.middleware.authentication import Authentication
from router.service.middleware.chain import Middleware
from router.service.middleware.engine_refusal import EngineRefusal
from router.service.middleware.error_status import ErrorStatus
from router.service.middleware.observation import Observation, Observer, ObserverBatch
from router.service.middleware.open_calls import NewestCalls, OpenCalls
from router.service.middleware.receiving import Receiving
from router.service.middleware.search_admission import SearchAdmission
from router.service.middleware.shutdown import Shutdown
from router.service.middleware.tracing import Tracing
from router.service.recorder import Recorder
from router.service.router_service import ROUTER, SEARCH_METHODS, RouterService
from router.tasks import LimitReached, workers

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from router.service.http.door import HttpDoor

MAX_OTHER_CALLS = 1000  # open calls at once that are no searches: decisions, outcomes, reflection
DRAIN_SECONDS = 0.5  # for which new calls are refused before connections are closed
END_SECONDS = 1.0  # that calls get to send their error, once their grace is over
ENGINES_SECONDS = 2.0  # that engines may take to close
_log = logging.getLogger(__name__)


class Server:
    """A listening server. ``port`` is the bound one."""

    def __init__(
        self,
        bundles: BundleManager,
        host: str,
        port: int,
        *,
        credentials: grpc.ServerCredentials | None = None,
        tokens: Callable[[], Sequence[Token]] | None = None,
        insecure: bool = False,
        share_port: bool = False,
        admission: Admission | None = None,
        observers: Sequence[Observer] = (),
        observer_seconds: float = 0.0,
        longest_search: float | None = None,
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        middleware: Sequence[Middleware] = (),
        message_seconds: float = MESSAGE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
        engines: EngineWatch | None = None,
        http: tuple[str, int] | None = None,
        http_tls: Callable[[], ssl.SSLContext] | None = None,
        http_names: Sequence[str] = (),
        http_direct: bool = True,
        ui: bool = False,
    ):
        """Needs a running event loop. Raises AddressUnavailable, InvalidRequest.

        credentials      for TLS, see auth.certificates; None: not encrypted, loopback only unless ``insecure``
        tokens           returns the bearer tokens that may call; None: everybody who can connect may call
        share_port       whether other servers may listen on the same port; each connection goes to one of them. There
                         is then no AdminService, which would change the bundle of one server only
        admission        how many searches may run and wait; None: Admission's defaults
        longest_search   seconds that a search may take, whatever its caller's deadline; None: no limit
        observers        see every finished call within ``observer_seconds``; waiting for several calls costs less
        recorder         records decisions and outcomes; None: neither is recorded
        tracer           makes the spans of calls and searches; None: there are none
        middleware       additional middleware, around calls whose caller is known; the first is outermost
        message_seconds  within which a call's message must arrive
        write_seconds    after which a stream ends that its caller does not read
        engines          tells whether the models answer, for health; None: the models are in this process
        http             address and port of the HTTP server for OpenAI's clients; None: there is none
        http_tls         returns the TLS context of a new connection to this HTTP server; None: not encrypted
        http_names       further names of this HTTP server, which matter where it has neither tokens nor TLS
        http_direct      whether it lets the reference model alone answer what no search can serve, such as tools
        ui               whether it also shows the pages of /ui
        """
        check_exposure(host, encrypted=credentials is not None, insecure=insecure)
        if http:
            check_exposure(http[0], encrypted=http_tls is not None, insecure=insecure)
        admission = admission or Admission()
        self._stopping = asyncio.Event()
        self._shutdown = Shutdown(self._stopping)
        self._bundles = bundles
        self._engines = engines or EngineWatch({})
        self._engines.changed = lambda alive: self._health.set(alive and not self._stopping.is_set())
        self._recorder = recorder
        # Decisions are recorded without delay, since their outcomes may come soon.
        self._batches = [ObserverBatch([recorder.record_decision])] if recorder else []
        self._batches += [ObserverBatch(observers, observer_seconds)] if observers else []
        authentication = Authentication(tokens, admin_services={ADMIN})
        outside: list[Middleware] = [
            ErrorStatus(),
            Observation(*self._batches),
            self._shutdown,
        ]
        open_calls = OpenCalls(admission.concurrency + admission.queue + MAX_OTHER_CALLS)
        inside: list[Middleware] = [
            *([Tracing(tracer)] if tracer else []),
            open_calls,
            Receiving(),
            Accounting(),
            *middleware,
            EngineRefusal(lambda: self._engines.alive, SEARCH_METHODS),
            SearchAdmission(admission, SEARCH_METHODS),
        ]
        around = [*outside, authentication, *inside]

        def telling(who: Middleware) -> Sequence[Middleware]:
            """What logs and counts a request over HTTP that is refused before it is a call: it waits for no place."""
            return [*outside, who, *([Tracing(tracer)] if tracer else []), *middleware]

        # Health is answered to everybody, also while calls are refused.
        self._health = HealthService(["", ROUTER])
        around_health: list[Middleware] = [
            ErrorStatus(),
            Observation(*self._batches, refused_only=True),
            NewestCalls(LARGEST),
            Receiving(),
        ]
        service = RouterService(bundles, admission, recorder, tracer, longest_search=longest_search)
        self._door = GrpcDoor(
            host,
            port,
            around,
            router=service,
            health=self._health,
            around_health=around_health,
            admin=None if share_port else AdminService(bundles),
            credentials=credentials,
            share_port=share_port,
            message_seconds=message_seconds,
            write_seconds=write_seconds,
        )
        self.port = self._door.port
        self._http: HttpDoor | None = None
        if http:
            from router.service.http import application, door

            names = {each.lower() for each in (http[0].strip("[]"), *http_names)}

            def check(metadata: Mapping[str, str]) -> None:
                # No page of another site may reach what only this machine or network can reach.
                if tokens is None and http_tls is None:
                    check_host(metadata, names)

            pages: Sequence[BaseRoute] = ()
            if ui:
                from router.service.ui import routes

                pages = routes.routes(
                    lambda who: [*outside, who, *inside],
                    telling,
                    service,
                    authentication,
                    open_calls=open_calls,
                    check=check,
                    encrypted=http_tls is not None,
                    write_seconds=write_seconds,
                )

            def authenticate(metadata: Mapping[str, str], peer: Peer) -> Caller:
                check(metadata)
                return authentication.caller(metadata, peer)

            answers = application.application(
                around,
                telling(authentication),
                service,
                authenticate=authenticate,
                open_calls=open_calls,
                stopping=self._stopping,
                write_seconds=write_seconds,
                serving=lambda: self._engines.alive,
                direct=http_direct,
                pages=pages,
            )
            self._http = door.HttpDoor(*http, answers, tls=http_tls, share_port=share_port)

    @property
    def http_port(self) -> int | None:
        """The port that the HTTP server for OpenAI's clients is bound to; None: there is no such server."""
        return self._http.port if self._http else None

    @property
    def serving(self) -> bool:
        """Whether health says SERVING."""
        return self._health.serving

    async def start(self) -> None:
        """Listen, and report SERVING."""
        await self._door.start()
        if self._http:
            await self._http.start()
        await self._engines.start()
        self._health.set(self._engines.alive)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, give running ones ``grace`` seconds, then free the engines."""
        self._health.set(False)
        # gRPC ends calls that have arrived but not begun as CANCELLED, which clients don't retry. So refuse them first.
        self._stopping.set()
        await self._engines.stop()
        await asyncio.sleep(min(grace, DRAIN_SECONDS))
        ending = asyncio.get_running_loop().call_later(grace, self._shutdown.end_all)
        # gRPC cancels calls without a word of ours, and a stream over HTTP would break off.
        grace += END_SECONDS
        await asyncio.gather(self._door.stop(grace), *([self._http.stop(grace)] if self._http else []))
        ending.cancel()
        for batch in self._batches:
            batch.flush()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)
        try:
            await asyncio.wait_for(self._bundles.close(), ENGINES_SECONDS)
        except TimeoutError:
            _log.error("the engines did not close within %.0f s; the server ends without them", ENGINES_SECONDS)


async def serve(
    make: Callable[[], Server],
    *,
    grace: float,
    started: Callable[[Server], None],
    read_again: Callable[[], object] = lambda: None,
) -> None:
    """Run the server that ``make`` returns until SIGTERM or SIGINT, then let running calls end.

    grace       seconds for running calls to end
    started     called with the server once it listens, unless it was told to end before
    read_again  called at SIGHUP
    """
    stopping = asyncio.Event()
    on_signals(stopping.set, grace + MARGIN_SECONDS)
    on_hangup(read_again)
    server = make()
    # Not before, as a process that ends while its workers start leaves their tracebacks behind.
    try:
        with suppress(LimitReached):  # it is logged, and answers are compared as text without workers
            await asyncio.to_thread(workers.start)
        await server.start()
        # What is loaded now stays. Searching it for garbage would take a tenth of a second every ten thousand calls.
        gc.collect()
        gc.freeze()
        try:
            if not stopping.is_set():  # told to end while it started
                started(server)
            await stopping.wait()
        finally:
            await server.stop(grace)
    finally:
        await asyncio.to_thread(workers.close)
