"""The fake vLLM server in a process of its own, over TCP, so that tests can kill it.

``python -m tests.support.fake_vllm_server PORT LATENCY`` listens once it gets a line on standard input.

``POST /behaviour`` with ``{"failure": mode or null, "latency": seconds, "says": text}`` sets how it behaves from now
on. ``GET /behaviour`` tells how many requests it works on, and how many control tokens their rows had.
"""

import asyncio
import contextlib
import json
import sys

import h11
import httpx2

from tests.support.fake_vllm import FakeVllm


class Connection:
    """One connection of a client: requests one after the other, until either side hangs up."""

    def __init__(self, vllm: FakeVllm, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.vllm = vllm
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        try:
            while request := await self._request():
                answering = asyncio.create_task(self._answer(request))
                gone = asyncio.create_task(self.reader.read(1))  # clients send nothing now, so this reads the end
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                for task in (gone, answering):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                if self.http.states[h11.SERVER] is not h11.DONE:
                    return
                self.http.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        except httpx2.TransportError as error:  # a failure mode: an abrupt end, or a polite one in the middle
            if not isinstance(error, httpx2.RemoteProtocolError):
                self.writer.transport.abort()
        finally:
            self.writer.close()

    async def _request(self) -> httpx2.Request | None:
        head, body = None, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return httpx2.Request(head.method.decode(), f"http://engine{head.target.decode()}", content=body)
            else:
                return None

    async def _answer(self, request: httpx2.Request) -> None:
        response = self._behaviour(request) if request.url.path == "/behaviour" else await self.vllm.answer(request)
        await self._send(h11.Response(status_code=response.status_code, headers=[("transfer-encoding", "chunked")]))
        try:
            async for piece in response.stream:
                await self._send(h11.Data(data=piece))
            await self._send(h11.EndOfMessage())
        finally:
            await response.stream.aclose()

    def _behaviour(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            wanted = json.loads(request.content)
            self.vllm.fail_always("engine", wanted["failure"])
            self.vllm.latency, self.vllm.says = wanted["latency"], wanted["says"]
            self.vllm.control.clear()
        return httpx2.Response(
            200, json={"running": self.vllm.running, "begun": self.vllm.begun, "control": sorted(self.vllm.control)}
        )

    async def _send(self, event: h11.Event) -> None:
        self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()


async def main(port: int, latency: float) -> None:
    vllm = FakeVllm(latency)
    server = await asyncio.start_server(
        lambda reader, writer: Connection(vllm, reader, writer).serve(), "127.0.0.1", port
    )
    async with server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    sys.stdin.readline()
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
