"""Listens for HTTP, limits the connections and headers of strangers, and stops in a bounded time."""

import asyncio
import itertools
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from router.errors import AddressUnavailable
from router.service.auth.addresses import address_of
from router.service.auth.certificates import peer_name

MAX_HEAD_BYTES = 2**15  # of a request's first line and headers
HEAD_SECONDS = 20.0  # within which these must arrive
IDLE_SECONDS = 75.0  # for which a connection is kept between requests
HANDSHAKE_SECONDS = 10.0  # within which a new connection must have set up TLS
MAX_CONNECTIONS = 2000  # open at once, those that set up TLS included; further ones are closed
_AT_ONCE = 100  # connections taken before anything else has its turn
_FULL_SECONDS = 1.0  # after which a connection is tried again that the system had no room for
_CANCEL_SECONDS = 1.0  # for calls and connections to end once they are told to
_log = logging.getLogger(__name__)


class HttpDoor:
    """A listening HTTP server for an ASGI application. ``port`` is the bound one."""

    def __init__(
        self,
        host: str,
        port: int,
        application: ASGIApp,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        share_port: bool = False,
    ):
        """Raises AddressUnavailable.

        tls         returns the context of a new connection; None: not encrypted
        share_port  whether other servers may listen on the same port; each connection goes to one of them
        """
        self._socket = _listen(host, port, share_port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            application,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # such headers would let anybody claim another address
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_keep_alive=int(IDLE_SECONDS),
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._tls = tls
        self._running: asyncio.Task[None] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._opening: dict[_Connection, asyncio.Task[None]] = {}

    async def start(self) -> None:
        self._running = asyncio.create_task(self._server.main_loop())
        self._accepting = asyncio.create_task(self._accept())

    async def stop(self, grace: float) -> None:
        """Close the port, give running calls ``grace`` seconds, then end them and close what is still open."""
        server, state = self._server, self._server.server_state
        if self._running is None or self._accepting is None:
            self._socket.close()
            return
        server.should_exit = True
        await self._running
        for task in (opening := [self._accepting, *self._opening.values()]):
            task.cancel()
        await asyncio.wait(opening)
        self._socket.close()
        for connection in list(state.connections):
            connection.shutdown()  # closes an idle connection at once, any other after its reply
        if calls := set(state.tasks):
            _, late = await asyncio.wait(calls, timeout=grace)
            for call in late:
                call.cancel()
            if late:
                await asyncio.wait(late, timeout=_CANCEL_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):  # for callers to read what is written
                while state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
        for connection in list(state.connections):
            connection.transport.abort()

    async def _accept(self) -> None:
        """Take connections. asyncio's own server would not count those that set up TLS."""
        loop, connections = asyncio.get_running_loop(), self._server.server_state.connections
        for number in itertools.count(1):
            try:
                peer, _ = await loop.sock_accept(self._socket)
            except ConnectionError:  # it is gone already
                continue
            except OSError as error:
                _log.warning("can't take a connection: %s", error)
                await asyncio.sleep(_FULL_SECONDS)
                continue
            if len(connections) + len(self._opening) < MAX_CONNECTIONS:
                connection = _Connection(self._server, opened=self._opened)
                self._opening[connection] = asyncio.create_task(self._open(connection, peer))
            else:
                _log.warning("more than %d connections are open: one is closed", MAX_CONNECTIONS)
                peer.close()
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _open(self, connection: "_Connection", peer: socket.socket) -> None:
        try:
            context, seconds = (self._tls(), HANDSHAKE_SECONDS) if self._tls else (None, None)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, peer, ssl=context, ssl_handshake_timeout=seconds
            )
        except OSError as error:  # not TLS, no certificate that will do, too late, or gone
            _log.debug("a connection was not set up: %s", error)
            peer.close()
        finally:
            self._opened(connection)

    def _opened(self, connection: "_Connection") -> None:
        self._opening.pop(connection, None)


def _listen(host: str, port: int, share_port: bool) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host.strip("[]"), port), family=family, backlog=1024, reuse_port=share_port)
        made.setblocking(False)
        return made
    except OSError as error:
        raise AddressUnavailable(
            f"can't listen on {address_of(host, port)} ({error.strerror or error}); stop what listens there, or choose "
            "another with --http (port 0: any free port)"
        ) from error


class _Connection(H11Protocol):
    """Closes connections on which what is awaited does not arrive in time, and tells the application who has connected.

    Awaited are the head of a request, and the rest of a body that was refused, or that nobody reads.

    opened  called once the connection is set up, with itself
    """

    def __init__(self, server: uvicorn.Server, opened: Callable[["_Connection"], object]):
        super().__init__(server.config, server.server_state, {})
        self._opened = opened
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        name = peer_name(transport.get_extra_info("ssl_object"))
        self.app_state = {"certificate_name": name, "abort": transport.abort}
        self._opened(self)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        unwanted = self._unwanted
        super().data_received(data)
        if (self.conn.their_state is not h11.IDLE and not self._unwanted) or unwanted > self._unwanted:
            self._stop_waiting()  # also where an unwanted body has ended: the next request has its own time
        if (self.conn.their_state is h11.IDLE or self._unwanted) and (
            self.timeout_keep_alive_task is None and self._head_timer is None
        ):
            self._wait_for_head()

    def on_response_complete(self) -> None:
        self.cycle.body = bytearray()  # what nobody read would stay until the next request
        super().on_response_complete()

    @property
    def _unwanted(self) -> bool:
        """Whether the body of an answered request still comes."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
