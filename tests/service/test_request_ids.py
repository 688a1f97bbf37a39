"""Any x-request-id: what is none is answered with one of ours, over a connection that sends what no library would."""

import asyncio
import struct

import h2.config
import h2.connection
import h2.events
import pytest

from router.service.middleware.call import call_id
from router.v1 import router_pb2 as pb

BAD = ["é", "a b", "x" * 129, "", "\x7f", "a\tb", "名前", "a/b", "<script>", "٣"]


@pytest.mark.parametrize("given", BAD, ids=ascii)
def test_what_is_no_id_is_replaced(given):
    for sent in (given, given.encode()):
        assert call_id({"x-request-id": sent}).isalnum()


def test_an_id_of_the_callers_is_kept():
    assert call_id({"x-request-id": "team.7:a-b_C"}) == "team.7:a-b_C"


@pytest.mark.parametrize("given", BAD, ids=ascii)
async def test_no_id_ends_a_call_badly(server, given):
    headers = await routed(server.port, [(b"x-request-id", given.encode())])
    assert headers[b"grpc-status"] == b"0"
    assert headers[b"x-request-id"].isalnum()


async def routed(port: int, metadata: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Response headers and trailers of a Route whose metadata is sent as it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    settings = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    http = h2.connection.H2Connection(settings)
    http.initiate_connection()
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/router.v1.RouterService/Route")]
    request += [(b":authority", b"localhost"), (b"te", b"trailers"), (b"content-type", b"application/grpc"), *metadata]
    http.send_headers(1, request)
    message = pb.RouteRequest(prompt="7 + 7 =").SerializeToString()
    http.send_data(1, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
    writer.write(http.data_to_send())
    found: dict[bytes, bytes] = {}
    try:
        async with asyncio.timeout(60):
            while True:
                for event in http.receive_data(await reader.read(65536)):
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        found |= dict(event.headers)
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        return found
                writer.write(http.data_to_send())
    finally:
        writer.close()
        await writer.wait_closed()
