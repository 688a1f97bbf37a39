"""The gRPC service: parse, call the solver, render. Deadlines, cancellation and errors are handled here, once."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType

import grpc
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from router import wire
from router.errors import AddressUnavailable, InternalError, RouterError
from router.solver import Round, Solver
from router.v1 import router_pb2 as pb
from router.v1 import router_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["RouterService"].full_name
_log = logging.getLogger(__name__)


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """Cancelling a call cancels its coroutine, and with it the search and the engine's work."""

    def __init__(self, solver: Solver):
        self.solver = solver

    async def Route(self, message: pb.RouteRequest, context: grpc.aio.ServicerContext) -> pb.RouteResponse:
        async with _Answering(context):
            bill, started = self.solver.new_bill(), time.monotonic()
            decision = await self.solver.decide(wire.request(message, context.time_remaining()), bill)
            bill.seconds["route"] = time.monotonic() - started
            return pb.RouteResponse(decision=wire.decision(decision), bill=wire.bill(bill))

    async def Solve(self, message: pb.SolveRequest, context: grpc.aio.ServicerContext) -> pb.SolveResponse:
        async with _Answering(context):
            solution = await self.solver.solve(wire.request(message, context.time_remaining()))
            return pb.SolveResponse(solution=wire.solution(solution, candidates=message.options.return_candidates))

    async def StreamSolve(
        self, message: pb.StreamSolveRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.StreamSolveResponse, None]:
        async with _Answering(context), aclosing(self._events(message, context)) as events:
            async for event in events:
                yield event

    async def _events(
        self, message: pb.StreamSolveRequest, context: grpc.aio.ServicerContext
    ) -> AsyncGenerator[pb.StreamSolveResponse, None]:
        request = wire.request(message, context.time_remaining())
        async with aclosing(self.solver.stream(request)) as events:
            async for event in events:
                if isinstance(event, Round):
                    yield pb.StreamSolveResponse(round=wire.progress(event))
                else:
                    candidates = message.options.return_candidates
                    yield pb.StreamSolveResponse(solution=wire.solution(event, candidates=candidates))

    async def GetBundle(self, message: pb.GetBundleRequest, context: grpc.aio.ServicerContext) -> pb.GetBundleResponse:
        async with _Answering(context):
            return pb.GetBundleResponse(bundle=wire.served(self.solver.bundle))


class _Answering:
    """Ends a failed call with the error's status. What is no RouterError is a bug: logged, and kept from the caller."""

    def __init__(self, context: grpc.aio.ServicerContext):
        self.context = context

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, RouterError):
            await self._abort(wire.status(error))
        elif isinstance(error, Exception):  # not a cancellation
            _log.error("call failed", exc_info=error)
            await self._abort(wire.status(InternalError("internal error; the server's log says more")))

    async def _abort(self, status: Status) -> None:
        code, message, metadata = rpc_status.to_status(status)
        await self.context.abort(code, message, metadata)


class Server:
    """A listening server. ``port`` is the bound one."""

    def __init__(self, solver: Solver, host: str, port: int):
        """Needs a running event loop. Raises AddressUnavailable."""
        # Without this option two servers share a port silently, each answering some of the calls.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._health = health.aio.HealthServicer()
        self._solver = solver
        router_pb2_grpc.add_RouterServiceServicer_to_server(RouterService(solver), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise AddressUnavailable(
                f"can't listen on {host}:{port}: the port is in use, or the address is not this machine's; "
                "stop what listens there, or choose another with --host and --port (0: any free port)"
            ) from error

    async def start(self) -> None:
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new calls, give running ones ``grace`` seconds, then free the engines."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
        await self._solver.close()


async def serve(
    solver: Solver, host: str, port: int, *, grace: float, started: Callable[[int], None] = lambda port: None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; ``started`` is called with the bound port.

    Raises AddressUnavailable.
    """
    server = Server(solver, host, port)
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
