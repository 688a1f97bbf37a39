"""Processes that tests of faults can break: ``router serve``, the fake vLLM server, PostgreSQL."""

import atexit
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import sqlalchemy as sql
from sqlalchemy.exc import OperationalError

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 120  # much, since a busy machine is no fault
# On SIGUSR1 the server prints its event loop's number of tasks; on SIGUSR2 it blocks for longer than gRPC would wait.
_SERVE = """
import asyncio, signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("tasks", len(asyncio.all_tasks()), flush=True))
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(35))
from router.cli.main import main
main()
"""


class Process:
    """A process and the lines that it prints. Its standard error is appended to a file."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None):
        with log.open("ab") as stderr:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            )
        atexit.register(self._popen.kill)  # after a test that failed
        self.log = log

    @property
    def pid(self) -> int:
        return self._popen.pid

    def tell(self, line: str) -> None:
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def hear(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line, which must match."""
        line = self._popen.stdout.readline()
        found = re.search(pattern, line)
        assert found, f"{line!r} instead of {pattern}; {self.log.read_text()[-3000:]}"
        return found

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End the process by SIGKILL, and wait until it is gone."""
        self._popen.kill()
        self.wait()

    def wait(self) -> int:
        code = self._popen.wait(timeout=START_SECONDS)
        for pipe in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                pipe.close()
        return code


class FakeVllmServer:
    """The fake vLLM server, always at the same port. The process that replaces a killed one is started in advance."""

    def __init__(self, log: Path):
        self._log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._spare = self._load()
        self.revive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _load(self) -> Process:
        return Process([sys.executable, "-m", "tests.support.fake_vllm_server", str(self.port), "0.01"], self._log)

    def kill(self) -> None:
        self._process.kill()

    def revive(self) -> None:
        self._process, self._spare = self._spare, self._load()
        self._process.tell("listen")
        self._process.hear("ready")

    def behave(self, failure: str | None = None, latency: float = 0.01, says: str = "") -> None:
        """Set how the server behaves from now on.

        failure  a failure mode; None: no failure
        latency  seconds that a piece of an answer takes
        says     text to write in place of the script's
        """
        body = json.dumps({"failure": failure, "latency": latency, "says": says}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/behaviour", body), timeout=60).close()

    def running(self) -> int:
        return self._told()["running"]

    def begun(self) -> int:
        """Return how many solutions it has begun to write since its start; their text is fixed by then."""
        return int(self._told()["begun"])

    def control(self) -> list[int]:
        """Return the different numbers of ChatML marks in rows it has received since :meth:`behave`, sorted."""
        return self._told()["control"]

    def _told(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/behaviour", timeout=60) as answer:
            return json.load(answer)

    def close(self) -> None:
        self._spare.kill()
        self._process.kill()


class Router:
    """``router serve`` of a bundle, until stopped or killed. Its callers are ``app`` and the administrator ``ops``."""

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *options: str,
        outcomes: str | None = None,
        env: dict[str, str] | None = None,
    ):
        """outcomes: URL of the database; None: an SQLite file in ``folder``"""
        self.tokens = folder / "tokens.toml"
        self.tokens.write_text(
            "".join(
                f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\nadmin = {str(admin).lower()}\n'
                for name, admin in (("app", False), ("ops", True))
            )
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._metrics = f"127.0.0.1:{probe.getsockname()[1]}"
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.outcomes = outcomes or f"sqlite:///{self.data}/outcomes.db"
        command = [sys.executable, "-c", _SERVE, "serve", "--bundle", str(bundle), "--port", "0"]
        command += ["--tokens", str(self.tokens), "--metrics", self._metrics, "--outcomes", self.outcomes, *options]
        self.log = folder / "router.log"
        self.process = Process(command, self.log, env)
        self.address = self.process.hear(r" on (\S+)\n")[1]

    def channel(self, *more: tuple[str, int]) -> grpc.aio.Channel:
        # A different option for each channel, since gRPC shares connections between equal channels.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *more]
        return grpc.aio.insecure_channel(self.address, options)

    @property
    def metrics_address(self) -> tuple[str, int]:
        host, _, port = self._metrics.rpartition(":")
        return host, int(port)

    def healthy(self) -> bool:
        """Tell whether GET /health says that the server serves."""
        try:
            with urllib.request.urlopen(f"http://{self._metrics}/health", timeout=60) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self._metrics}", timeout=60) as answer:
            return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.M)[1])

    def ended(self, reason: str) -> int:
        """Return how many calls ended with an ErrorReason."""
        with urllib.request.urlopen(f"http://{self._metrics}", timeout=60) as answer:
            found = re.findall(rf'^router_calls_total\{{.*reason="{reason}".*\}} (\S+)$', answer.read().decode(), re.M)
        return int(sum(map(float, found)))

    def tasks(self) -> int:
        self.process.signal(signal.SIGUSR1)
        return int(self.process.hear(r"tasks (\d+)")[1])

    def memory(self) -> int:
        """Return the resident memory, in bytes."""
        return psutil.Process(self.process.pid).memory_info().rss

    def files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def busy(self) -> float:
        """Return how many searches run or wait."""
        return self.metric("router_running") + self.metric("router_waiting")

    def stop(self) -> int:
        self.process.signal(signal.SIGTERM)
        return self.process.wait()


class PostgreSQL:
    """A PostgreSQL server in a new folder. It refuses to run as root, so root starts it as another user."""

    def __init__(self, folder: Path, binaries: Path):
        self._folder, self._binaries = folder, binaries
        self._user: dict[str, Any] = {"user": "postgres"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, **self._user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._run("initdb", "--auth=trust", "--username=router", "--no-sync").wait()
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://router@127.0.0.1:{self._port}/postgres"

    def _run(self, program: str, *options: str) -> "subprocess.Popen[bytes]":
        with (self._folder.parent / "postgresql.log").open("ab") as log:
            command = [str(self._binaries / program), "-D", str(self._folder / "data"), *options]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._user)

    def start(self) -> None:
        """Start it, and wait until it answers. After a kill it may have to wait for its own child processes to end."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            self._process = self._run(
                "postgres", "-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._folder), "-c", "fsync=off"
            )
            while self._process.poll() is None:
                assert time.monotonic() < give_up, "PostgreSQL does not start"
                engine = sql.create_engine(self.url)
                try:
                    engine.connect().close()
                except OperationalError:
                    time.sleep(0.1)
                else:
                    return
                finally:
                    engine.dispose()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def on_vllm(engines: dict[str, FakeVllmServer]) -> list[str]:
    """Return options of ``router serve`` for engines named a, b and verifier."""
    urls = [f"--url=small={engines[name].url}" for name in ("a", "b")] + [f"--url=verifier={engines['verifier'].url}"]
    return ["--backend=vllm", *urls, "--concurrency=32", "--queue=64"]
