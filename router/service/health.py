"""The standard gRPC health service: says whether this server takes calls."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import suppress

from grpc_health.v1 import health_pb2 as pb

from router.errors import UnknownService
from router.service.middleware.call import Call

HEALTH = pb.DESCRIPTOR.services_by_name["Health"].full_name
_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN
LARGEST = 200  # most health calls open at once
WATCH_SECONDS = 3600.0  # after which a watch ends; its caller may begin another one


class HealthService:
    """Reports health for several services, all with the same status.

    services       their names; "" stands for the server as a whole
    watch_seconds  after which a watch ends
    """

    def __init__(self, services: Collection[str], *, watch_seconds: float = WATCH_SECONDS):
        self._services = frozenset(services)
        self._watch_seconds = watch_seconds
        self._changed = asyncio.Event()
        self.serving = False

    def set(self, serving: bool) -> None:
        """Set the status. Watching callers are told, as far as they read; this does not wait for them."""
        if serving != self.serving:
            self.serving = serving
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def Check(self, message: pb.HealthCheckRequest, call: Call) -> pb.HealthCheckResponse:
        if message.service not in self._services:
            raise UnknownService(f"no service {message.service!r} here; leave it out to ask for the server as a whole")
        return self._response()

    async def List(self, message: pb.HealthListRequest, call: Call) -> pb.HealthListResponse:
        return pb.HealthListResponse(statuses=dict.fromkeys(self._services, self._response()))

    async def Watch(self, message: pb.HealthCheckRequest, call: Call) -> AsyncGenerator[pb.HealthCheckResponse, None]:
        known = message.service in self._services  # the standard keeps watches of unknown services, which may appear
        end = time.monotonic() + self._watch_seconds
        shown: bool | None = None
        while (left := end - time.monotonic()) > 0:
            changed = self._changed
            if shown != self.serving and (known or shown is None):
                shown = self.serving
                yield self._response() if known else pb.HealthCheckResponse(status=_UNKNOWN)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)

    def _response(self) -> pb.HealthCheckResponse:
        serving = pb.HealthCheckResponse.SERVING if self.serving else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=serving)
