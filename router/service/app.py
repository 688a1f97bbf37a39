"""The server: the services, what stands around their calls, and the gRPC door that they come in through."""

import asyncio
import gc
import signal
from collections.abc import Callable, Sequence

import grpc
from opentelemetry.trace import Tracer

from router.service.admin import ADMIN, AdminService
from router.service.admission import Admission
from router.service.auth.addresses import check_exposure
from router.service.auth.callers import Token
from router.service.bundle_manager import BundleManager
from router.service.grpc_door import MAX_OTHER_CALLS, WRITE_SECONDS, GrpcDoor
from router.service.middleware.authentication import Authentication
from router.service.middleware.chain import Middleware
from router.service.middleware.error_status import ErrorStatus
from router.service.middleware.observation import Observation, Observer, ObserverBatch
from router.service.middleware.search_admission import SearchAdmission
from router.service.middleware.shutdown import ShutdownRefusal
from router.service.middleware.tracing import Tracing
from router.service.recorder import Recorder
from router.service.router_service import SEARCH_METHODS, RouterService

DRAIN_SECONDS = 0.5  # that new calls are refused before connections are closed


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
        recorder: Recorder | None = None,
        tracer: Tracer | None = None,
        middleware: Sequence[Middleware] = (),
        write_seconds: float = WRITE_SECONDS,
    ):
        """Needs a running event loop. Raises AddressUnavailable, InvalidRequest.

        credentials    of TLS, see auth.certificates; None: not encrypted, loopback only unless ``insecure``
        tokens         whose bearers may call; None: everybody who can connect
        share_port     with other servers that also do; each connection goes to one of them. No AdminService then,
                       which would swap the bundle of one and leave the others
        admission      how many searches may run and wait; None: Admission's defaults
        observers      are shown every finished call, within ``observer_seconds``: several at a time cost less
        recorder       of decisions and outcomes; None: neither is recorded
        tracer         makes the spans of calls and searches; None: there are none
        middleware     one's own, around the calls whose caller is known, the first outermost
        write_seconds  that a stream may stand still because its caller does not read
        """
        check_exposure(host, encrypted=credentials is not None, insecure=insecure)
        admission = admission or Admission()
        self._stopping = asyncio.Event()
        self._bundles = bundles
        self._recorder = recorder
        # Decisions are recorded without delay: their outcomes may come soon.
        self._batches = [ObserverBatch([recorder.record_decision])] if recorder else []
        self._batches += [ObserverBatch(observers, observer_seconds)] if observers else []
        around: list[Middleware] = [
            ErrorStatus(),
            *([Tracing(tracer)] if tracer else []),
            Observation(*self._batches),
            ShutdownRefusal(self._stopping),
            Authentication(tokens, admin_services={ADMIN}),
            *middleware,
            SearchAdmission(admission, SEARCH_METHODS),
        ]
        self._door = GrpcDoor(
            host,
            port,
            around,
            router=RouterService(bundles, recorder, tracer),
            admin=None if share_port else AdminService(bundles),
            credentials=credentials,
            share_port=share_port,
            max_calls=admission.concurrency + admission.queue + MAX_OTHER_CALLS,
            write_seconds=write_seconds,
        )
        self.port = self._door.port

    async def start(self) -> None:
        await self._door.start()

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, give running ones ``grace`` seconds, then free the engines."""
        await self._door.report_stopping()
        # gRPC drops what has arrived and is not begun yet: CANCELLED, which nobody tries again. So refuse that first.
        self._stopping.set()
        await asyncio.sleep(min(grace, DRAIN_SECONDS))
        await self._door.stop(grace)
        for batch in self._batches:
            batch.flush()
        await self._bundles.close()
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)


async def serve(make: Callable[[], Server], *, grace: float, started: Callable[[int], None]) -> None:
    """Serve what ``make`` makes until SIGTERM or SIGINT, then drain; ``started`` is called with the bound port."""
    server = make()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    await server.start()
    # What was loaded stays, and need not be looked through for garbage: a tenth of a second, every ten thousand calls.
    gc.collect()
    gc.freeze()
    try:
        started(server.port)
        await stopping.wait()
    finally:
        await server.stop(grace)
