"""Lines of other people's code are JSON as ours, and show no caller's secret."""

import io
import json
import logging
import subprocess
import sys

import pytest

from router.service import logs
from tests.support.breakable import Router
from tests.support.raw_http2 import ROUTE, RawClient

SECRET = "s3cret-token-1234567890"


def line(name: str, message: str, *arguments: object, exc_info: bool = False) -> dict[str, str]:
    """What a logger of this name writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter())
    handler.addFilter(logs.without_secrets)
    logger = logging.Logger(name)
    logger.addHandler(handler)
    logger.error(message, *arguments, exc_info=exc_info)
    return json.loads(stream.getvalue())


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Invalid encoding on %s", [f"Bearer \x80 {SECRET}".encode("latin-1")]),
        ("Invalid encoding on %s", [f"it's \\\" {SECRET}".encode()]),
        ("bad header authorization: Bearer %s", [SECRET]),
        ("header 'Bearer \\' %s", [SECRET]),
        ("api-key=%s", [SECRET]),
        ("unfinished '%s", [SECRET]),
        ("while sending to http://me:%s@host:4317/v1, retrying", [SECRET]),
    ],
)
def test_others_lines_show_no_secret(message, arguments):
    assert SECRET not in line("grpc._cython.cygrpc", message, *arguments)["message"]


def test_others_lines_are_left_alone_otherwise():
    assert line("asyncio", "can't accept: %d connections", 7)["message"] == "can't accept: 7 connections"


def test_our_lines_are_left_alone():
    assert line("router.service", "keeping 'what' was read")["message"] == "keeping 'what' was read"


def test_others_exceptions_are_told_without_their_text():
    try:
        raise ValueError(SECRET)
    except ValueError:
        written = line("grpc", "failed", exc_info=True)
    assert "ValueError" in written["exc_info"]
    assert SECRET not in json.dumps(written)


def test_what_a_thread_raises_is_a_line_of_json():
    program = (
        "import threading\nfrom router.service import logs\nlogs.configure()\n"
        f"threading.Thread(target=lambda: int({SECRET!r})).start()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (written,) = map(json.loads, done.stderr.splitlines())
    assert written["message"] == "ValueError was not caught"
    assert SECRET not in done.stderr


@pytest.mark.processes
async def test_a_bad_header_is_not_in_the_log(bundle_folder, tmp_path):
    router = Router(bundle_folder, tmp_path, "--backend=fake")
    client = await RawClient.connect(router.address)
    bad: list[tuple[str, str | bytes]] = [
        ("authorization", f"Bearer \xe9 {SECRET}".encode("latin-1")),
        ("grpc-timeout", SECRET),
    ]
    for header in bad:
        assert await client.outcome(client.open(ROUTE, headers=[header]))
    await client.close()
    assert router.stop() == 0
    log = router.log.read_text()
    assert "Invalid encoding on" in log
    assert SECRET not in log
    for each in log.splitlines():
        json.loads(each)
