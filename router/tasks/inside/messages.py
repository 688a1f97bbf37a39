"""Messages between the processes of a sandbox, and from the host: JSON, preceded by its length."""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

MOST_BYTES = 4 << 20


class TooLarge(Exception):
    """A message of more than MOST_BYTES."""


def pack(message: Any) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    return len(data).to_bytes(4, "big") + data


def read(descriptor: int, most: int = MOST_BYTES) -> Any:
    """Read the next message, and no byte beyond it; None at the end. Raises TooLarge, ValueError."""
    head = _exactly(descriptor, 4)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > most:
        raise TooLarge(f"a message of {length} bytes")
    data = _exactly(descriptor, length)
    return None if data is None else json.loads(data)


def _exactly(descriptor: int, length: int) -> bytes | None:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 1 << 20))
        if not part:
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


class Ended(Exception):
    """The other side is gone."""


class Peer:
    """One end of a conversation in which either side may ask, also while it is being asked."""

    def __init__(self, channel: socket.socket, answer: Callable[[dict[str, Any]], dict[str, Any]]):
        self._channel = channel
        self._answer = answer

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the reply; until it comes, answer the other side's questions. Raises Ended, TooLarge, ValueError."""
        self._send(message)
        while True:
            got = read(self._channel.fileno())
            if not isinstance(got, dict):
                raise Ended
            if "reply" in got:
                reply: dict[str, Any] = got["reply"]
                return reply
            self._send({"reply": self._answer(got)})

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while isinstance(got := read(self._channel.fileno()), dict):
            self._send({"reply": self._answer(got)})

    def _send(self, message: dict[str, Any]) -> None:
        data = pack(message)
        if len(data) > MOST_BYTES:
            raise TooLarge(f"a message of {len(data)} bytes")
        try:
            self._channel.sendall(data)
        except OSError as error:
            raise Ended from error
