"""Token files that would let the wrong one in, and IPv6 addresses wherever one is named."""

import logging
import socket
from hashlib import sha256

import pytest
from typer.testing import CliRunner

from router.cli.main import main
from router.client import connect
from router.errors import InvalidFile, InvalidRequest
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.addresses import address_of, check_address
from router.service.auth.callers import read_tokens
from router.service.bundle_manager import BundleManager
from router.service.metrics import Metrics
from router.service.metrics_door import MetricsDoor
from router.v1 import router_pb2 as pb

ONE, TWO = sha256(b"one").hexdigest(), sha256(b"two").hexdigest()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (f'[a]\nsha256 = "{ONE}"\n[b]\nsha256 = "{ONE}"', r"\[b\] has the same digest as \[a\]"),
        (f'[a]\nsha256 = ["{ONE}", "{ONE.upper()}"]', r"\[a\] has the same digest as \[a\]"),
        (f'[a]\nsha256 = ["{ONE}", "{sha256(b"").hexdigest()}"]', r"\[a\] has the digest of an empty token"),
    ],
)
def test_a_token_file_that_lets_the_wrong_one_in_is_refused(tmp_path, tables, words):
    (tmp_path / "tokens.toml").write_text(tables)
    with pytest.raises(InvalidFile, match=words):
        read_tokens(tmp_path / "tokens.toml")


def test_callers_with_tokens_of_their_own_are_read(tmp_path):
    (tmp_path / "tokens.toml").write_text(f'[a]\nsha256 = ["{ONE}"]\n[b]\nsha256 = "{TWO}"')
    assert [token.caller.name for token in read_tokens(tmp_path / "tokens.toml")] == ["a", "b"]


def test_addresses_are_written_so_that_they_can_be_read():
    assert address_of("::1", 1) == address_of("[::1]", 1) == "[::1]:1"
    assert (address_of("127.0.0.1", 1), address_of("localhost", 1)) == ("127.0.0.1:1", "localhost:1")


@pytest.mark.parametrize("address", ["::1:50551", "::1", "fe80::1:2", "2001:db8::1:50551"])
def test_an_ipv6_address_without_brackets_is_a_clear_error(address):
    with pytest.raises(InvalidRequest, match=r"into brackets, like \[::1\]:50551"), connect(address):
        pass
    result = CliRunner().invoke(main, ["route", "1 + 1 =", "--address", address])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("address", ["[::1]:50551", "127.0.0.1:1", "localhost:1", "unix:/tmp/a:b:c", "dns:///a:1"])
def test_other_addresses_are_taken(address):
    check_address(address)


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as own:
            own.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_ipv6_is_served_and_called(solver, host, caplog):
    import asyncio

    server = Server(BundleManager(solver), host, 0)
    await server.start()
    try:

        def call() -> pb.RouteResponse:
            with connect(address_of(host, server.port)) as stub:
                return stub.Route(pb.RouteRequest(prompt="7 + 7 ="), timeout=30)

        assert (await asyncio.to_thread(call)).decision.level == 1
        with caplog.at_level(logging.INFO):
            registry = Metrics(BundleManager(solver), Admission()).registry
            port = MetricsDoor(registry, f"{host}:0", lambda: True).port
        assert f"http://[::1]:{port}/metrics" in caplog.text
        with socket.create_connection(("::1", port), timeout=10):
            pass
    finally:
        await server.stop(grace=0)
