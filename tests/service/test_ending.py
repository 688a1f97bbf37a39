"""A process that was told to end does so in time, stuck or not."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.breakable import ROOT, Router

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


STARTING = """
import asyncio
from router.service.app import serve

class Server:
    async def start(self): print("listens", flush=True)
    async def stop(self, grace): print("stops", flush=True)

if __name__ == "__main__":
    asyncio.run(serve(Server, grace=1.0, started=lambda server: print("started", flush=True)))
"""


@pytest.mark.parametrize("processes", [1, 4])
def test_an_interrupt_while_it_starts_ends_it_without_a_word(processes, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(STARTING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None and len(watched.children(recursive=True)) < processes:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to its workers, too
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out, said) == (0, b"listens\nstops\n", b"")
