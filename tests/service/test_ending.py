"""A process that was told to end does so in time, stuck or not."""

import signal
import subprocess
import sys
import time

import pytest

from tests.support.breakable import Router

pytestmark = pytest.mark.processes

PROGRAM = """
import asyncio, sys, threading, time
from router.service.ending import on_signals

async def main():
    stopping = asyncio.Event()
    on_signals(stopping.set, 2.0)
    print("ready", flush=True)
    {body}
    await stopping.wait()
    {after}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("body", "after", "code"),
    [
        ("pass", "pass", 0),
        ("while True: pass", "pass", 1),  # a callback that does not end
        ("time.sleep(600)", "pass", 1),
        ("pass", "await asyncio.Event().wait()", 1),  # a wait that nobody ends
        ("threading.Thread(target=time.sleep, args=[600]).start()", "pass", 1),  # which Python waits for at exit
        ("asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)", "pass", 1),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_ends(body, after, code, number):
    program = PROGRAM.format(body=body, after=after)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert (b"most recent call first" in said) == (code == 1)


def test_a_hangup_reads_tokens_again_and_ends_nothing(bundle_folder, tmp_path):
    router = Router(bundle_folder, tmp_path, "--backend=fake")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(tokens.read_text().replace("[ops]", "[operators]"))
    router.process.signal(signal.SIGHUP)
    router.process.signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while "read again" not in router.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "read again" in router.log.read_text()
    assert router.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_another_thread_takes_wakes_the_event_loop(number):
    program = """
import asyncio, signal, threading
from router.service.ending import on_hangup, on_signals

async def main():
    heard = asyncio.Event()
    on_signals(heard.set, 60.0)
    on_hangup(heard.set)
    waiting = threading.Thread(target=threading.Event().wait, daemon=True)
    waiting.start()
    threading.Timer(0.2, signal.pthread_kill, [waiting.ident, %d]).start()
    await heard.wait()

asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program % number], timeout=120, check=False).returncode == 0


def test_asking_twice_gives_no_more_time():
    program = PROGRAM.format(body="while True: pass", after="pass")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        assert process.wait(timeout=120) == 1
