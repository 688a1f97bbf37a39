"""The gRPC service: parse, call the solver, render. What all calls share stands around them, as middleware."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from router.errors import AddressUnavailable, OutcomesOff, OutcomesUnavailable
from router.service import conversion as wire
from router.service.admin import ADMIN, AdminService
from router.service.admission import Admission
from router.service.auth import Token, check_exposure
from router.service.bundles import Serving
from router.service.middleware import (
    Call,
    Calls,
    admitted,
    answered,
    authenticated,
    checked,
    current,
    observed,
    welcomed,
)
from router.service.recorder import Outcome, Recorder
from router.service.tracing import spanned, traced
from router.solving.driver import Round
from router.solving.solver import Decision, Solution
from router.v1 import admin_pb2_grpc, router_pb2_grpc
from router.v1 import router_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
LARGEST_MESSAGE = 2**20  # bytes: more than any model's context has room for
ACKNOWLEDGE_SECONDS = 10  # that a caller waits for an outcome to be on disk
# A caller whose machine or network is gone closes no connection: it is asked so often, and has so long to answer.
ALIVE_SECONDS, ALIVE_TIMEOUT_SECONDS = 30, 20
REFUSING_SECONDS = 0.5  # before connections are closed
OTHER_CALLS = 1000  # at once, besides searches: decisions, health watches, refusals


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Cancelling a call cancels its coroutine, and with it the search and the engine's work."""

    def __init__(self, serving: Serving, recorder: Recorder | None):
        self.serving = serving
        self.recorder = recorder

    async def Route(self, message: pb.RouteRequest, context: grpc.aio.ServicerContext) -> pb.RouteResponse:
        call = current()
        call.request = wire.request(message, context.time_remaining())
        with self.serving.solver() as solver:
            call.bill, started = solver.new_bill(), time.monotonic()
            call.decision = await solver.decide(call.request, call.bill)
            call.bill.seconds["route"] = time.monotonic() - started
        self.serving.compare(call.request, call.decision)
        return pb.RouteResponse(decision=wire.decision(call.decision), bill=wire.bill(call.bill), call_id=call.id)

    async def Solve(self, message: pb.SolveRequest, context: grpc.aio.ServicerContext) -> pb.SolveResponse:
        async with aclosing(self._events(message, context)) as events:
            async for event in events:
                if isinstance(event, Solution):
                    return pb.SolveResponse(solution=self._rendered(event, message.options))
        raise AssertionError("a stream ends with its solution")

    async def StreamSolve(
        self, message: pb.StreamSolveRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.StreamSolveResponse, None]:
        async with aclosing(self._events(message, context)) as events:
            async for event in events:
                if isinstance(event, Round):
                    yield pb.StreamSolveResponse(round=wire.progress(event))
                elif isinstance(event, Solution):
                    yield pb.StreamSolveResponse(solution=self._rendered(event, message.options))

    async def GetBundle(self, message: pb.GetBundleRequest, context: grpc.aio.ServicerContext) -> pb.GetBundleResponse:
        return pb.GetBundleResponse(bundle=wire.served(self.serving.active.bundle, self.serving.active.policy))

    async def RecordOutcome(
        self, message: pb.RecordOutcomeRequest, context: grpc.aio.ServicerContext
    ) -> pb.RecordOutcomeResponse:
        if self.recorder is None:
            raise OutcomesOff("this server records no outcomes; start it with --outcomes sqlite:///outcomes.db")
        wire.check_outcome(message)
        outcome = Outcome(
            message.call_id,
            correct=message.correct if message.HasField("correct") else None,
            score=message.score if message.HasField("score") else None,
        )
        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                recorded = await asyncio.wrap_future(self.recorder.record(outcome))
        except TimeoutError:
            raise OutcomesUnavailable("the outcome database does not answer; try again later") from None
        current().verdict = recorded.verdict
        return pb.RecordOutcomeResponse(changed=recorded.changed)

    def _rendered(self, solution: Solution, options: pb.SolveOptions) -> pb.Solution:
        return wire.solution(
            solution,
            reference=self.serving.active.engines.reference,
            candidates=options.return_candidates,
            call_id=current().id,
        )

    async def _events(
        self, message: pb.SolveRequest | pb.StreamSolveRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[Decision | Round | Solution, None]:
        call = current()
        call.request = wire.request(message, context.time_remaining())
        with self.serving.solver() as solver:
            call.bill = solver.new_bill()
            async with aclosing(spanned(solver.stream(call.request, call.bill))) as events:
                async for event in events:
                    if isinstance(event, Decision):
                        call.decision = event
                        self.serving.compare(call.request, event)
                    elif isinstance(event, Solution):
                        call.solution = event
                        if call.leave:
                            await call.leave()  # however long the caller takes to read it
                    yield event


class Server:
    """A listening server. ``port`` is the bound one."""

    def __init__(
        self,
        serving: Serving,
        host: str,
        port: int,
        *,
        credentials: grpc.ServerCredentials | None = None,
        tokens: Callable[[], Sequence[Token]] | None = None,
        insecure: bool = False,
        share_port: bool = False,
        admission: Admission | None = None,
        observers: Sequence[Callable[[Call], None]] = (),
        recorder: Recorder | None = None,
    ):
        """Needs a running event loop. Raises AddressUnavailable, InvalidRequest.

        credentials  of TLS, see access.server_credentials; None: not encrypted, loopback only unless ``insecure``
        tokens       whose bearers may call; None: everybody who can connect
        share_port   with other servers that also do; each connection goes to one of them. No AdminService then, which
                     would swap the bundle of one and leave the others
        admission    how many searches may run and wait; None: Admission's defaults
        observers    are shown every finished call
        recorder     of decisions and outcomes; None: neither is recorded
        """
        check_exposure(host, encrypted=credentials is not None, insecure=insecure)
        admission = admission or Admission()
        if recorder:
            observers = (*observers, recorder.decided)
        self._stopping = asyncio.Event()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=admission.concurrency + admission.queue + OTHER_CALLS,
            options=[
                # gRPC's default is to share, silently.
                ("grpc.so_reuseport", int(share_port)),
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
                ("grpc.keepalive_time_ms", 1000 * ALIVE_SECONDS),
                ("grpc.keepalive_timeout_ms", 1000 * ALIVE_TIMEOUT_SECONDS),
                ("grpc.http2.ping_timeout_ms", 1000 * ALIVE_TIMEOUT_SECONDS),  # a keepalive's answer has at least this
                ("grpc.http2.max_pings_without_data", 0),  # a long search sends nothing for minutes
            ],
        )
        calls = Calls(
            self._server,
            answered,
            traced,
            observed(*observers),
            checked(welcomed(self._stopping), authenticated(tokens)),
            admitted(admission),
        )
        self._health = health.aio.HealthServicer()
        self._serving = serving
        self._recorder = recorder
        router_pb2_grpc.add_RouterServiceServicer_to_server(RouterService(serving, recorder), calls)
        if not share_port:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(serving), calls)
        shown = SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME, *([] if share_port else [ADMIN])
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(shown), calls)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)  # as it is: it must always work
        address = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        try:
            self.port = (
                self._server.add_secure_port(address, credentials)
                if credentials
                else self._server.add_insecure_port(address)
            )
        except RuntimeError as error:
            raise AddressUnavailable(
                f"can't listen on {address}: the port is in use, or the address is not this machine's; "
                "stop what listens there, or choose another with --host and --port (0: any free port)"
            ) from error

    async def start(self) -> None:
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, give running ones ``grace`` seconds, then free the engines."""
        await self._health.enter_graceful_shutdown()
        # gRPC drops what has arrived and is not begun yet: CANCELLED, which nobody tries again. So refuse that first.
        self._stopping.set()
        await asyncio.sleep(min(grace, REFUSING_SECONDS))
        await self._server.stop(grace)
        await self._serving.close()
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
    try:
        started(server.port)
        await stopping.wait()
    finally:
        await server.stop(grace)
