"""Who gets in: addresses, certificates, tokens, and both of them changed under a running server."""

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.client import connect
from router.errors import InvalidFile, InvalidRequest, Unauthenticated
from router.service.app import Server
from router.service.auth.addresses import check_exposure
from router.service.auth.callers import Caller, bearer, caller_of, read_tokens
from router.service.auth.certificates import fingerprint, server_credentials
from router.service.auth.reload import Reloaded
from router.service.bundle_manager import BundleManager
from router.service.grpc_door import MAX_MESSAGE_BYTES, peer_of
from router.service.middleware.call import CallRecord
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

EASY = "7 + 7 ="


def table(name: str, *tokens: str, admin: bool = False) -> str:
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in tokens]
    return f'["{name}"]\nsha256 = {digests}\nadmin = {str(admin).lower()}\n'


def rewrite(file: Path, content: str | bytes) -> None:
    """As a rotation does it: a new file takes the place of the old."""
    new = file.with_suffix(".new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    new.replace(file)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.toml"
    file.write_text(table("search", "s3cret", "older") + table("ops", "0ps", admin=True))
    return file


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    issued = authority.issue_cert("localhost", common_name=name or None)
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    rewrite(cert, b"".join(part.bytes() for part in issued.cert_chain_pems))
    rewrite(key, issued.private_key_pem.bytes())
    return cert, key


@asynccontextmanager
async def serving(solver, **options) -> AsyncIterator[Server]:
    server = Server(BundleManager(solver), "127.0.0.1", 0, **options)
    await server.start()
    yield server
    await server.stop(grace=0)


def channel_to(server: Server, ca: Path, *pair: Path) -> grpc.aio.Channel:
    cert, key = [file.read_bytes() for file in pair] if pair else [None, None]
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, cert)
    return grpc.aio.secure_channel(f"localhost:{server.port}", credentials)


async def route(channel: grpc.aio.Channel, token: str | None = None) -> pb.RouteResponse:
    metadata = [("authorization", f"Bearer {token}")] if token is not None else None
    return await RouterServiceStub(channel).Route(pb.RouteRequest(prompt=EASY), metadata=metadata, timeout=10)


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_encryption(host):
    check_exposure(host, encrypted=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.0.0.1", "router.internal", "localhost.evil", ""])
def test_another_address_needs_encryption_or_to_be_asked_for_by_name(solver, host):
    with pytest.raises(InvalidRequest, match=r"--tls-cert.*--insecure"):
        Server(BundleManager(solver), host, 0)
    check_exposure(host, encrypted=True, insecure=False)
    check_exposure(host, encrypted=False, insecure=True)


# Tokens


def test_each_token_names_its_caller(tokens):
    known = read_tokens(tokens)
    assert bearer(known, "Bearer s3cret") == bearer(known, "bearer  older ") == Caller("search")
    assert bearer(known, "Bearer 0ps") == Caller("ops", admin=True)


@pytest.mark.parametrize("sent", ["", "s3cret", "Bearer", "Bearer ", "Basic s3cret", "Bearer S3cret", "Bearer s3cre"])
def test_what_is_no_known_token_is_refused(tokens, sent):
    with pytest.raises(Unauthenticated):
        bearer(read_tokens(tokens), sent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read the tokens"),
        ("[", "can't read the tokens"),
        ("", "holds no token"),
        ('search = "s3cret"', r"\[search\] needs sha256"),
        ("[search]\nadmin = true", r"\[search\] needs sha256"),
        ('[search]\nsha256 = "s3cret"', "64 hexadecimal digits"),
        ("[search]\nsha256 = [7]", "64 hexadecimal digits"),
        (table("search", "x") + "admn = true", "nothing else"),
        (table("search", "x").replace("false", '"no"'), "true or false"),
    ],
)
def test_a_wrong_tokens_file_is_a_clear_error(tmp_path, content, message):
    file = tmp_path / "tokens.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidFile, match=message):
        read_tokens(file)


async def test_calls_need_a_token_and_health_does_not(solver, tokens):
    async with (
        serving(solver, tokens=partial(read_tokens, tokens)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert (await route(channel, "s3cret")).decision.level == 1
        for token in (None, "", "wrong"):
            with pytest.raises(grpc.RpcError) as raised:
                await route(channel, token)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        stream = RouterServiceStub(channel).StreamSolve(pb.StreamSolveRequest(prompt=EASY))
        with pytest.raises(grpc.RpcError) as raised:
            await stream.read()
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_tokens_are_replaced_without_a_restart(solver, tokens, caplog):
    reloaded = Reloaded(partial(read_tokens, tokens), tokens)
    async with (
        serving(solver, tokens=reloaded) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rewrite(tokens, table("search", "older", "newer"))
        for token in ("older", "newer"):
            await route(channel, token)
        with pytest.raises(grpc.RpcError):
            await route(channel, "s3cret")
        rewrite(tokens, "half a file [")
        await route(channel, "newer")
        assert "keeping what was read before" in caplog.text
        rewrite(tokens, table("search", "newest"))
        await route(channel, "newest")
        tokens.unlink()
        await route(channel, "newest")


# Certificates


async def test_mutual_tls_lets_in_only_who_has_a_certificate(solver, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    cert, key = issue(authority, tmp_path, "server")
    mine = issue(authority, tmp_path, "billing")
    forged = issue(trustme.CA(), tmp_path, "forged")
    async with serving(solver, credentials=server_credentials(cert, key, ca)) as server:
        async with channel_to(server, ca, *mine) as channel:
            assert (await route(channel)).decision.level == 1
        for pair in ((), forged):
            async with channel_to(server, ca, *pair) as channel:
                with pytest.raises(grpc.RpcError) as raised:
                    await route(channel)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            with pytest.raises(grpc.RpcError):
                await route(channel)


async def test_a_certificate_without_a_name_is_called_by_what_it_has(solver, authority, tmp_path):
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    seen: list[CallRecord] = []
    credentials = server_credentials(*issue(authority, tmp_path, "server"), ca)
    async with serving(solver, credentials=credentials, observers=[seen.append]) as server:
        for name in ("", " "):  # trustme gives both the alternative name "localhost"
            async with channel_to(server, ca, *issue(authority, tmp_path, name)) as channel:
                await route(channel)
        await asyncio.sleep(0)
    assert [record.caller for record in seen] == ["localhost", "localhost"]


def test_a_certificate_without_any_name_is_called_by_its_fingerprint(authority):
    pem = authority.cert_pem.bytes()
    peer = peer_of("ipv4:10.0.0.1:5555", {"x509_common_name": [b""], "x509_pem_cert": [pem]})
    assert caller_of(peer) == Caller(fingerprint(pem))
    assert re.fullmatch(r"certificate sha256:[0-9a-f]{16}", fingerprint(pem))


async def test_certificates_are_replaced_without_a_restart(solver, authority, tmp_path):
    cas = [authority, trustme.CA()]
    for number, ca in enumerate(cas):
        ca.cert_pem.write_to_path(tmp_path / f"ca{number}.pem")
    cert, key = issue(cas[0], tmp_path, "server")
    async with (
        serving(solver, credentials=server_credentials(cert, key)) as server,
        channel_to(server, tmp_path / "ca0.pem") as before,
    ):
        await route(before)
        new_cert, new_key = issue(cas[1], tmp_path, "next")
        new_cert.replace(cert)  # half of a rotation: the old pair is still what is served
        async with channel_to(server, tmp_path / "ca0.pem") as channel:
            await route(channel)
        new_key.replace(key)
        async with channel_to(server, tmp_path / "ca1.pem") as channel:
            await route(channel)
        await route(before)  # connections that stand are kept


def test_certificates_that_do_not_fit_are_a_clear_error(authority, tmp_path):
    cert, key = issue(authority, tmp_path, "one")
    _, other = issue(authority, tmp_path, "other")
    for pair in ((cert, other), (key, cert), (cert, tmp_path / "missing.key")):
        with pytest.raises(InvalidFile, match="can't use the certificates"):
            server_credentials(*pair)
    with pytest.raises(InvalidFile, match=r"ca\.pem"):
        server_credentials(cert, key, tmp_path / "ca.pem")


def test_a_caller_without_a_token_is_its_certificate_or_its_address():
    certified = peer_of("ipv4:10.0.0.1:5555", {"x509_common_name": [b"billing"], "x509_pem_cert": [b"-"]})
    one, another = peer_of("ipv4:10.0.0.1:5555", {}), peer_of("ipv4:10.0.0.1:7777", {})
    assert caller_of(certified) == Caller("billing")
    assert caller_of(one) == caller_of(another) == Caller("ipv4:10.0.0.1")


# Bounds


async def test_messages_and_arms_have_bounds(channel, generator):
    stub = RouterServiceStub(channel)
    with pytest.raises(grpc.RpcError) as raised:
        await stub.Route(pb.RouteRequest(prompt="x" * MAX_MESSAGE_BYTES))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    largest = pb.RouteRequest(prompt="\N{MATHEMATICAL BOLD CAPITAL A}" * 200_000)
    assert (await stub.Route(largest)).decision.level
    options = pb.SolveOptions(arm="lookahead(n=128, m=4, k=2)")
    with pytest.raises(grpc.RpcError, match="384 solutions; at most 256"):
        await stub.Solve(pb.SolveRequest(prompt=EASY, options=options))
    assert generator.counted.calls == 0


# The blocking client


def test_a_token_never_leaves_the_machine_unencrypted():
    with pytest.raises(InvalidRequest, match="--tls"), connect("router.internal:50551", token="s3cret"):
        pass


def test_a_missing_certificate_is_a_clear_error(tmp_path):
    with pytest.raises(InvalidFile, match="nowhere"), connect("localhost:1", ca=tmp_path / "nowhere"):
        pass


def test_reloading_notices_a_change_of_the_same_length_and_time(tmp_path):
    file = tmp_path / "file"
    file.write_text("a")
    status = file.stat()
    reloaded = Reloaded(file.read_text, file)
    rewrite(file, "b")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert reloaded() == "b"
