"""A gRPC client in raw HTTP/2 frames, which can misbehave: leave messages out, send headers without end, read nothing,
or send nothing."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

MESSAGE = b"\0\0\0\0\0"  # an empty one, as gRPC frames it
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"
SOLVE = "/router.v1.RouterService/Solve"
ROUTE = "/router.v1.RouterService/Route"


class RawClient:
    """A connection. ``ended`` maps a stream's id to its grpc-status, or to "RST n" where the stream was reset."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None):
        self._reader, self._writer = reader, writer
        self._http = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self._streams = 0
        self.ended: dict[int, str] = {}
        self.closed = asyncio.Event()
        self.answered: set[int] = set()
        self._http.initiate_connection()
        if window is not None:
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def connect(cls, address: str, *, window: int | None = None, source: str | None = None) -> "RawClient":
        """
        window  bytes that the server may send on each stream before they are read; None: as usual
        source  the address to connect from, e.g. "127.0.0.2"
        """
        host, _, port = address.rpartition(":")
        local = (source, 0) if source else None
        client = cls(*await asyncio.open_connection(host, int(port), local_addr=local), window)
        await asyncio.sleep(0)
        return client

    def open(
        self,
        path: str,
        message: bytes | None = MESSAGE,
        *,
        headers: Sequence[tuple[str, str | bytes]] = (),
        end: bool = True,
    ) -> int:
        """Begin a call; return its stream's id. ``message``: with gRPC's frame; None: send no message, and no end."""
        self._streams += 1
        stream = 2 * self._streams - 1
        sent: list[tuple[str, str | bytes]] = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "router"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *headers,
        ]
        self._http.send_headers(stream, sent)
        if message is not None:
            self._http.send_data(stream, message, end_stream=end)
        self._flush()
        return stream

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._http.reset_stream(stream, error_code=8)
        self._flush()

    async def endless_headers(self, count: int, size: int, frame: int = 16_384) -> None:
        """Begin a call whose headers never end: ``count`` fields of ``size`` bytes, in frames of ``frame`` bytes."""
        self._streams += 1
        stream = 2 * self._streams - 1
        # Encoded here as literal fields without indexing, since h2 would also send the end.
        frames = bytearray()
        first = True
        for number in range(count):
            name, value = f"x-{number}".encode(), b"a" * size
            block = b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value
            while block:
                part, block = block[:frame], block[frame:]
                kind = 1 if first else 9  # HEADERS, then CONTINUATION; no END_HEADERS
                frames += len(part).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + part
                first = False
        self._writer.write(bytes(frames))
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(30):
                await self._writer.drain()

    async def outcome(self, stream: int, seconds: float = 30) -> str | None:
        """Wait for a call's end, and return how it ended; None where it has not ended in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while stream not in self.ended and not self.closed.is_set():  # noqa: ASYNC110 - short
                    await asyncio.sleep(0.02)
        return self.ended.get(stream)

    async def drain(self) -> None:
        """Wait until all that was written has been sent."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.close()
        with suppress(ConnectionError, asyncio.CancelledError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        with suppress(ConnectionError):
            while data := await self._reader.read(65_536):
                with suppress(ProtocolError):  # raised about streams whose begin h2 has not seen
                    for event in self._http.receive_data(data):
                        self._take(event)
                self._flush()
        self.closed.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.answered.add(event.stream_id)
            if event.flow_controlled_length:
                self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (TrailersReceived, ResponseReceived)):
            found = {bytes(name): bytes(value) for name, value in event.headers}
            if status := found.get(b"grpc-status"):
                self.ended[event.stream_id] = status.decode()
            elif isinstance(event, ResponseReceived):
                self.answered.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.ended.setdefault(event.stream_id, f"RST {int(event.error_code)}")
        elif isinstance(event, StreamEnded):
            self.ended.setdefault(event.stream_id, "end")

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())


def _integer(value: int, bits: int) -> bytes:
    """Encode an integer as HPACK does (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])
