"""The HTTP server for probes and Prometheus: /metrics and /health. It asks nobody for a token."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from router.errors import AddressUnavailable
from router.service.auth.addresses import address_of

CONNECTIONS = 16  # open at once; one more ends the oldest, so that silent ones keep nobody out
SECONDS = 10.0  # that a connection may last, until the last byte of the answer
_log = logging.getLogger(__name__)


class MetricsDoor:
    """A listening HTTP server. ``port`` is the bound one."""

    def __init__(
        self,
        registry: CollectorRegistry,
        address: str,
        serving: Callable[[], bool],
        *,
        connections: int = CONNECTIONS,
        seconds: float = SECONDS,
    ):
        """address: host:port. serving: tells whether this server takes calls now. Raises AddressUnavailable."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        metrics: Any = make_wsgi_app(registry)

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            if environ.get("PATH_INFO") != "/health":
                return metrics(environ, start_response)
            answer = serving()
            start_response("200 OK" if answer else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"serving\n" if answer else b"not serving\n"]

        class Limited(_LimitedServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            self._server = make_server(host, int(port), app, Limited, handler_class=_Handler)
        except (OSError, ValueError, OverflowError) as error:
            raise AddressUnavailable(f"can't serve metrics on {address} ({error}); give a free host:port") from error
        self._server.limit(connections, seconds)
        self.port = int(self._server.server_port)
        _log.info("metrics on http://%s/metrics", address_of(host, self.port))
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


class _LimitedServer(ThreadingWSGIServer):
    """A server with a thread for each connection, few at once, each for a short time."""

    request_queue_size = 128

    def limit(self, connections: int, seconds: float) -> None:
        """Set the limits. Call it before serving."""
        self._connections, self._seconds = connections, seconds
        self._open: dict[socket.socket, float] = {}  # when each connection was opened, oldest first
        self._changing = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changing:
            while len(self._open) >= self._connections:
                self._end(next(iter(self._open)))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections that have lasted too long. Called twice a second by ``serve_forever``."""
        late = time.monotonic() - self._seconds
        with self._changing:
            for request in [each for each, opened in self._open.items() if opened < late]:
                self._end(request)

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: callers may go away at any time, and a failed answer says itself what is wrong."""

    def _end(self, request: socket.socket) -> None:
        """Shut a connection down, so that its thread's next read or write fails."""
        del self._open[request]
        with suppress(OSError):  # it may be gone already
            request.shutdown(socket.SHUT_RDWR)
