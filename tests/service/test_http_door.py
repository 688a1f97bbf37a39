"""The door for HTTP itself: TLS, what strangers may hold, sharing a port, and stopping."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
import pytest
import trustme

from router.errors import AddressUnavailable, InvalidRequest
from router.service import app
from router.service.admission import Admission
from router.service.auth.addresses import read_address
from router.service.auth.certificates import server_contexts, server_credentials
from router.service.http import door, request
from tests.support.browsing import ANN
from tests.support.http import asked, client_of, serving

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
POST = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate and its key, put in the place of those before."""
    issued = authority.issue_cert("localhost", common_name=name)
    cert, key = folder / "server.crt", folder / "server.key"
    for file, content in (
        (cert, b"".join(part.bytes() for part in issued.cert_chain_pems)),
        (key, issued.private_key_pem.bytes()),
    ):
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)
    return cert, key


def trusting(authority: trustme.CA, name: str | None = None) -> ssl.SSLContext:
    """A client's context; with ``name`` it shows a certificate of that name, for the host "client"."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if name is not None:
        authority.issue_cert("client", common_name=name).configure_cert(context)
    return context


async def list_models(server, context: ssl.SSLContext) -> int:
    async with httpx2.AsyncClient(verify=context) as client:
        return (await client.get(f"https://localhost:{server.http_port}/v1/models")).status_code


async def served_name(server, context: ssl.SSLContext) -> str:
    """Common name of the certificate that the server shows."""
    _, writer = await asyncio.open_connection("localhost", server.http_port, ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return dict(pair for part in certificate["subject"] for pair in part)["commonName"]


async def test_certificates_are_read_again_when_they_change(solver, tmp_path):
    authority = trustme.CA()
    files = issue(authority, tmp_path, "first")
    async with serving(solver, http_tls=server_contexts(*files)) as server:
        context = trusting(authority)
        assert await list_models(server, context) == 200
        assert await served_name(server, context) == "first"
        issue(authority, tmp_path, "second")
        assert await served_name(server, context) == "second"
        with pytest.raises(httpx2.ConnectError):
            await list_models(server, ssl.create_default_context())


async def test_mutual_tls_names_the_caller_and_refuses_others(solver, tmp_path):
    authority, calls = trustme.CA(), list[Any]()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    context = server_contexts(*issue(authority, tmp_path, "server"), ca)
    async with serving(solver, http_tls=context, observers=[calls.append]) as server:
        assert await list_models(server, trusting(authority, "search-team")) == 200
        assert await list_models(server, trusting(authority, " ")) == 200  # a certificate without a name
        with pytest.raises(httpx2.TransportError):
            await list_models(server, trusting(authority))
    assert [call.caller for call in calls] == ["search-team", "client"]


async def test_beyond_loopback_it_wants_encryption(solver):
    with pytest.raises(InvalidRequest, match="not be encrypted"):
        async with serving(solver, http=("0.0.0.0", 0)):
            pass


async def test_a_port_in_use_is_a_clear_error(solver):
    async with serving(solver) as server:
        with pytest.raises(AddressUnavailable, match="--http"):
            async with serving(solver, http=("127.0.0.1", server.http_port)):
                pass


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:80", ("localhost", 80))],
)
def test_addresses(text, address):
    assert read_address(text, "http") == address


@pytest.mark.parametrize("text", ["8080", ":8080", "::1:8080", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:http"])
def test_what_is_no_address(text):
    with pytest.raises(InvalidRequest, match="--http"):
        read_address(text, "http")


def fetched(
    port: int | None, context: ssl.SSLContext, request: str, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool]:
    """The session of a connection that a request was answered on, and whether it was resumed."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=30)
    with raw, context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
        connection.sendall(request.encode())
        if not connection.recv(1):
            raise ConnectionResetError
        return connection.session, bool(connection.session_reused)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tickets", [True, False])
@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_no_session_outlives_the_authority_that_let_it_in(solver, tmp_path, version, tickets, door):
    """A session that is resumed shows no certificate."""
    authority, former = trustme.CA(), trustme.CA()
    ca = tmp_path / "ca.pem"
    former.cert_pem.write_to_path(str(ca))
    files = *issue(authority, tmp_path, "server"), ca
    client = trusting(authority)
    client.minimum_version = client.maximum_version = version
    client.options |= ssl.Options(0) if tickets else ssl.OP_NO_TICKET
    client.set_alpn_protocols(["http/1.1"] if door == "http" else ["h2"])
    former.issue_cert("client").configure_cert(client)
    first = "GET /health HTTP/1.1\r\nhost: a\r\n\r\n" if door == "http" else "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    options = {"credentials": server_credentials(*files), "http_tls": server_contexts(*files)}
    async with serving(solver, **options) as server:
        port = server.http_port if door == "http" else server.port
        fetch = partial(asyncio.to_thread, partial(fetched, port, client, first))
        kept, _ = await fetch()
        kept, resumed = await fetch(kept)
        assert resumed or not tickets
        authority.cert_pem.write_to_path(str(ca))
        with pytest.raises(OSError):  # noqa: PT011 - the alert comes before or after what is sent
            await fetch(kept)


# What strangers may hold


async def said(server, *pieces: bytes) -> bytes:
    """What the server answers to bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("pieces", [(), (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n",)])
async def test_a_connection_without_a_request_is_closed(solver, monkeypatch, pieces):
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.2)
    async with serving(solver) as server:
        with contextlib.suppress(ConnectionResetError):
            assert await said(server, *pieces) == b""


async def test_a_slow_head_after_another_request_is_closed(solver, monkeypatch):
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.2)
    async with serving(solver) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"serving" in await reader.readuntil(b"}")
        writer.write(b"GET /hea")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_a_body_that_never_comes_is_refused(solver, monkeypatch):
    monkeypatch.setattr(request, "BODY_SECONDS", 0.2)
    async with serving(solver) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(f"{POST}content-length: 10\r\n\r\n".encode())
        assert b"did not arrive" in await reader.readuntil(b"did not arrive")
        writer.close()


@pytest.mark.parametrize("length", ["content-length: 1000000000000", "transfer-encoding: chunked"])
async def test_the_rest_of_a_refused_body_is_not_taken_for_ever(solver, monkeypatch, length):
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.2)

    async def drip(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(solver, tokens=lambda: [ANN]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(f"{POST}{length}\r\n\r\n".encode())
        assert b" 401 " in await reader.readline()
        with pytest.raises(ConnectionError):
            await drip(writer)
        writer.close()


async def test_a_body_that_says_it_is_too_large_is_not_waited_for(solver):
    async with serving(solver) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(f"{POST}content-length: {2**20 + 1}\r\n\r\n".encode())
        assert b" 413 " in await reader.readline()
        writer.close()


async def test_bodies_that_come_slowly_count_as_open_calls(solver, monkeypatch):
    """Each holds up to 1 MiB."""
    monkeypatch.setattr(app, "MAX_OTHER_CALLS", 3)
    calls: list[Any] = []
    admission = Admission(concurrency=1, queue=0)  # four calls, of which one caller may have two
    async with serving(solver, admission=admission, observers=[calls.append]) as server, client_of(server) as client:
        slow = [await asyncio.open_connection("127.0.0.1", server.http_port) for _ in range(3)]
        for _, writer in slow:
            writer.write(f"{POST}content-length: 100\r\n\r\n".encode())
        readers = [asyncio.create_task(reader.readline()) for reader, _ in slow]
        (refused,), others = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        assert b" 429 " in refused.result()
        with pytest.raises(openai.RateLimitError, match="calls are open"):
            await client.chat.completions.create(**asked(EASY))
        for each in others:
            each.cancel()
        for _, writer in slow:
            writer.transport.abort()
    assert [call.reason for call in calls] == ["TOO_MANY_CALLS"] * 2


async def test_headers_of_any_length_are_refused(solver):
    async with serving(solver) as server:
        with suppress(ConnectionResetError):  # it does not wait for the rest
            assert (await said(server, b"GET /health HTTP/1.1\r\nx: " + b"x" * 2**17)).startswith(b"HTTP/1.1 400")


async def test_connections_are_bounded(solver, monkeypatch):
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    async with serving(solver) as server:
        _held, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        with contextlib.suppress(ConnectionResetError):
            assert await said(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n") == b""
        writer.close()


async def test_a_connection_that_never_speaks_tls_is_closed_and_counts_meanwhile(solver, tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(door, "HANDSHAKE_SECONDS", 1.0)
    authority = trustme.CA()
    async with serving(solver, http_tls=server_contexts(*issue(authority, tmp_path, "server"))) as server:
        silent, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        with contextlib.suppress(ConnectionResetError):
            assert await said(server) == b""  # while the other one still may speak
        assert not silent.at_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await silent.read() == b""
        writer.close()
        assert await list_models(server, trusting(authority)) == 200


async def test_a_failed_handshake_makes_room_at_once(solver, tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    authority = trustme.CA()
    async with serving(solver, http_tls=server_contexts(*issue(authority, tmp_path, "server"))) as server:
        with contextlib.suppress(ConnectionResetError):
            await said(server, b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(httpx2.TransportError):
            await list_models(server, ssl.create_default_context())
        assert await list_models(server, trusting(authority)) == 200


async def test_certificates_that_can_not_be_read_cost_a_connection_and_no_place(solver, tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MAX_CONNECTIONS", 1)
    authority = trustme.CA()
    contexts = server_contexts(*issue(authority, tmp_path, "server"))
    failures = [OSError("being replaced")] * 3

    def context() -> ssl.SSLContext:
        if failures:
            raise failures.pop()
        return contexts()

    async with serving(solver, http_tls=context) as server:
        while failures:
            with contextlib.suppress(ConnectionResetError):
                assert await said(server) == b""
        assert await list_models(server, trusting(authority)) == 200


@pytest.mark.long
async def test_after_a_refused_body_the_next_request_has_its_own_time(solver, monkeypatch):
    monkeypatch.setattr(door, "HEAD_SECONDS", 4.0)
    async with serving(solver, tokens=lambda: [ANN]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(f"{POST}content-length: 2\r\n\r\n{{".encode())
        assert b" 401 " in await reader.readline()
        await asyncio.sleep(2.1)
        writer.write(b"}")
        await writer.drain()
        await asyncio.sleep(2.1)  # later than four seconds after the refusal
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"serving" in await reader.readuntil(b"serving")
        writer.close()


async def test_nobody_can_claim_to_be_somewhere_else(solver):
    calls: list[Any] = []
    async with serving(solver, observers=[calls.append]) as server, client_of(server) as client:
        await client.chat.completions.create(**asked(EASY), extra_headers={"x-forwarded-for": "10.0.0.1"})
    assert calls[0].caller == "ipv4:127.0.0.1"


async def test_who_does_not_read_keeps_no_place(solver, generator):
    async def extend(prompt, candidates, **options):
        return [replace(each, steps=("x" * 2**24,), end="stop", answer="14") for each in candidates]

    generator.extend = extend
    admission, calls = Admission(), list[Any]()
    async with serving(solver, admission=admission, write_seconds=0.3, observers=[calls.append]) as server:
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port, limit=1)
        body = json.dumps(asked(EASY, stream=True)).encode()
        head = f"{POST}content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        cast(asyncio.Transport, writer.transport).pause_reading()
        while not calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.05)
        assert admission.running.total() == 0
        writer.transport.abort()


# Stopping


async def test_running_calls_finish_while_new_ones_are_refused(solver, generator):
    generator.latency = 0.1  # it runs until the others were refused
    async with serving(solver) as server, client_of(server) as client:
        running = asyncio.create_task(client.chat.completions.create(**asked(EASY)))
        while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(server.stop(grace=60))
        await asyncio.sleep(0.02)
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(**asked(EASY))
        assert (raised.value.code, raised.value.response.headers["retry-after"]) == ("stopping", "1")
        async with httpx2.AsyncClient() as probe:
            assert (await probe.get(f"http://127.0.0.1:{server.http_port}/health")).status_code == 503
        generator.latency = 0
        assert (await running).router["answer"] == "14"
        await stopping


async def test_calls_that_outlast_the_grace_period_are_told(solver, generator):
    generator.latency = 0.5
    async with serving(solver) as server, client_of(server) as client:
        running = asyncio.create_task(client.chat.completions.create(**asked(EASY)))
        while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        await asyncio.wait_for(server.stop(grace=0.1), timeout=60)
        with pytest.raises(openai.InternalServerError, match="this server stops"):
            await running


async def test_a_stream_that_outlasts_the_grace_period_ends_with_the_error(solver, generator, caplog):
    generator.latency = 0.05
    router = {"progress": True, "arm": "beam_search(n=4, m=2)"}
    async with serving(solver) as server, client_of(server) as client:
        chunks = await client.chat.completions.create(**asked(HARD, stream=True, extra_body={"router": router}))
        await anext(chunks)
        generator.latency = 60
        await asyncio.wait_for(server.stop(grace=0.1), timeout=60)
        with pytest.raises(openai.APIError, match="this server stops") as raised:
            async for _ in chunks:
                pass
    assert raised.value.code == "stopping"
    assert "without completing response" not in caplog.text


@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/html"])
async def test_a_page_that_outlasts_the_grace_period_ends_with_the_error(solver, generator, kind):
    generator.latency = 0.05
    form = {"prompt": HARD, "arm": "beam_search(n=4, m=2)"}
    async with serving(solver, ui=True) as server, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.http_port}/ui/search"
        async with client.stream("POST", url, data=form, headers={"accept": kind}) as reply:
            text = reply.aiter_text()
            said = await anext(text)
            generator.latency = 60
            await asyncio.wait_for(server.stop(grace=0.1), timeout=60)
            said += "".join([piece async for piece in text])
    assert "this server stops" in said


@pytest.mark.parametrize("encrypted", [False, True])
async def test_silent_connections_do_not_hold_up_stopping(solver, tmp_path, encrypted):
    tls = server_contexts(*issue(trustme.CA(), tmp_path, "server")) if encrypted else None
    async with serving(solver, http_tls=tls) as server:
        _, silent = await asyncio.open_connection("127.0.0.1", server.http_port)
        _, half = await asyncio.open_connection("127.0.0.1", server.http_port)
        half.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n")
        started = time.monotonic()
        await server.stop(grace=30)
        assert time.monotonic() - started < 20
        silent.close()
        half.close()


async def test_servers_that_share_a_port_answer_for_each_other(solver):
    async with (
        serving(solver, share_port=True) as first,
        serving(solver, share_port=True, http=("127.0.0.1", first.http_port)) as second,
        client_of(first) as client,
    ):
        assert second.http_port == first.http_port
        assert (await client.chat.completions.create(**asked(EASY))).router["answer"] == "14"


NAMES = {
    "evil.example": 403,
    "localhost.evil.example": 403,
    "localhost@evil.example": 403,
    "pages.localhost:80": 200,
    "localhost:80": 200,
    "[::1]:80": 200,
    "192.0.2.1:8080": 200,
    "Router.example:80": 200,
}


@pytest.mark.parametrize("options", [{}, {"http": ("0.0.0.0", 0), "insecure": True}])
async def test_without_tokens_only_its_own_names_reach_a_server(solver, options):
    """Another site could have its name lead to this server's address, and its page could read the replies."""
    async with (
        serving(solver, ui=True, http_names=["router.Example"], **options) as server,
        httpx2.AsyncClient() as client,
    ):
        base = f"http://127.0.0.1:{server.http_port}"
        for host, status in NAMES.items():
            named = {"host": host}
            assert (await client.get(f"{base}/v1/models", headers=named)).status_code == status
            reply = await client.post(f"{base}/v1/router/route", json={"prompt": EASY}, headers=named)
            assert reply.status_code == status
            assert (await client.get(f"{base}/ui/policy", headers=named)).status_code == status


async def test_over_tls_any_name_will_do_that_the_certificate_has(solver, tmp_path):
    """A browser refuses the server under another name before it sends a request."""
    authority = trustme.CA()
    client = httpx2.AsyncClient(verify=trusting(authority), headers={"host": "router.example"})
    async with client, serving(solver, http_tls=server_contexts(*issue(authority, tmp_path, "server"))) as server:
        assert (await client.get(f"https://localhost:{server.http_port}/v1/models")).status_code == 200


@pytest.mark.parametrize("path", ["chat/completions", "router/route", "router/outcomes"])
async def test_a_page_of_another_site_can_send_no_call(solver, path):
    """Browsers send JSON to another site only where that site says so before."""
    async with serving(solver) as server, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{server.http_port}/v1/{path}"
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            reply = await client.post(url, content=b"{}", headers={"content-type": kind})
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "content-type")
        assert (await client.post(url, content=b"{}")).json()["error"]["param"] == "content-type"
        asked_before = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        reply = await client.options(url, headers=asked_before)
        assert reply.status_code == 405
        assert not [name for name in reply.headers if name.startswith("access-control-")]


async def test_with_tokens_any_name_will_do(solver):
    async with serving(solver, tokens=lambda: [ANN]) as server:
        named = {"host": "router.example", "authorization": "Bearer ann's"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", headers=named) as client:
            assert (await client.get("/v1/models")).status_code == 200
