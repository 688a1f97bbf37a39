"""A real ``router serve``, its engines and its database: processes that can be broken, and a tally of what it cost."""

import asyncio
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
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import sqlalchemy as sql
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from sqlalchemy.exc import OperationalError

from router.bundle.bundle import sha256
from router.outcomes.tables import decisions, outcomes
from router.service import conversion as wire
from router.v1 import router_pb2 as pb
from router.v1.admin_pb2_grpc import AdminServiceStub
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import parse
from tests.support.fake_vllm import CONTEXT, SPECIAL

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 120  # a busy machine is no fault
PATIENCE = 120  # seconds that a caller keeps trying
# On SIGUSR1 it says how many tasks its event loop has.
_SERVE = """
import asyncio, signal
signal.signal(signal.SIGUSR1, lambda *_: print("tasks", len(asyncio.all_tasks()), flush=True))
from router.cli.main import main
main()
"""


@dataclass
class Tally:
    """What one fault cost. ``lost`` says what of each call or outcome that was not answered as it should have been.

    times    how often the fault was made
    calls    that ran through it
    refused  of their attempts: answered with a documented error and tried again as it says
    slowest  seconds of a call, all its attempts together
    """

    fault: str
    times: int = 0
    calls: int = 0
    refused: int = 0
    slowest: float = 0.0
    lost: list[str] = field(default_factory=list)


def report(tallies: list[Tally]) -> str:
    """As a table in Markdown."""
    lines = ["| fault | times | calls | told to try again | lost | slowest call, s |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {t.fault} | {t.times:,} | {t.calls:,} | {t.refused:,} | {len(t.lost):,} | {t.slowest:.1f} |"
        for t in tallies
    ]
    return "\n".join(lines) + "\n"


class Process:
    """A process and the lines that it prints. Its standard error is a file that is only ever appended to."""

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
        """The next line, which must match."""
        line = self._popen.stdout.readline()
        found = re.search(pattern, line)
        assert found, f"{line!r} instead of {pattern}; {self.log.read_text()[-3000:]}"
        return found

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        """kill -9, and no trace of it left."""
        self._popen.kill()
        self.wait()

    def wait(self) -> int:
        code = self._popen.wait(timeout=START_SECONDS)
        for pipe in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                pipe.close()
        return code


class Engine:
    """The double of vLLM at one port for ever. The next process to listen there is loaded before it is needed."""

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

    def tell(self, usual: str = "well", **told: object) -> None:
        """How to behave from now on: a mood of the double's, ``next`` ones before it, a ``latency`` in seconds."""
        body = json.dumps({"usual": usual, **told}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/double", body), timeout=60).close()

    def running(self) -> int:
        with urllib.request.urlopen(f"{self.url}/double", timeout=60) as answer:
            return json.load(answer)["running"]

    def close(self) -> None:
        self._spare.kill()
        self._process.kill()


class Router:
    """``router serve`` of a bundle, until it is stopped or killed. Its callers are ``app`` and, as admin, ``ops``."""

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        *options: str,
        outcomes: str | None = None,
        env: dict[str, str] | None = None,
    ):
        """``outcomes``: URL of another database than an SQLite file in ``folder``."""
        tokens = folder / "tokens.toml"
        tokens.write_text(
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
        command += ["--tokens", str(tokens), "--metrics", self._metrics, "--outcomes", self.outcomes, *options]
        self.log = folder / "router.log"
        self.process = Process(command, self.log, env)
        self.address = self.process.hear(r" on (\S+)\n")[1]

    def channel(self, *more: tuple[str, int]) -> grpc.aio.Channel:
        # A channel of its own: gRPC shares connections between channels that look alike.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *more]
        return grpc.aio.insecure_channel(self.address, options)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self._metrics}", timeout=60) as answer:
            return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.M)[1])

    def tasks(self) -> int:
        self.process.signal(signal.SIGUSR1)
        return int(self.process.hear(r"tasks (\d+)")[1])

    def memory(self) -> int:
        """Resident bytes."""
        return psutil.Process(self.process.pid).memory_info().rss

    def files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def busy(self) -> float:
        """Searches that run or wait."""
        return self.metric("router_running") + self.metric("router_waiting")

    def stop(self) -> int:
        self.process.signal(signal.SIGTERM)
        return self.process.wait()


class PostgreSQL:
    """A server of its own in a new folder. It does not run as root, so root starts it as somebody else."""

    def __init__(self, folder: Path, binaries: Path):
        self._folder, self._binaries = folder, binaries
        self._user = {"user": "postgres"} if os.getuid() == 0 else {}
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
        """Until it answers. After a kill it may have to wait for its own children to notice."""
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


class Caller:
    """Calls on one channel, each tried again where the server says so, counted in ``tally``."""

    def __init__(self, channel: grpc.aio.Channel, tally: Tally, name: str = "app", *, exact: bool = True):
        self.stub = RouterServiceStub(channel)
        self.admin = AdminServiceStub(channel)
        self.tally = tally
        self.exact = exact  # whether greedy solutions are always right; those of the fake backend are not
        self.metadata = (("authorization", f"Bearer {name}"),)

    async def ask(
        self,
        what: str,
        call: Callable[[], Awaitable[object]],
        right: Callable[[object], bool] = lambda reply: True,
        *,
        also: grpc.StatusCode | None = None,
        again: bool = True,
    ) -> object | None:
        """The reply, or None: then it is counted as lost, unless the status is ``also``, which is an answer, too.

        again  whether who is told to try again does
        """
        self.tally.calls += 1
        began = time.monotonic()
        try:
            while True:
                try:
                    reply = await call()
                except grpc.aio.AioRpcError as error:
                    if also is not None and error.code() is also:
                        return None
                    seconds = told_to_retry(error)
                    if seconds is None or time.monotonic() - began > PATIENCE:
                        self.tally.lost.append(f"{what}: {error.code().name} {error.details()}")
                        return None
                    self.tally.refused += 1
                    if not again:
                        return None
                    await asyncio.sleep(seconds)
                else:
                    if not right(reply):
                        self.tally.lost.append(f"{what}: {reply}")
                    return reply
        finally:
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)

    async def solve(
        self, number: int, arm: str, timeout: float = 100, *, again: bool = True, **options: object
    ) -> pb.SolveResponse | None:
        """One problem; a greedy solution must be right, others must have an answer."""
        prompt, answer = problem(number)
        chosen = pb.SolveOptions(arm=wire.arm(parse(arm)), seed=number, **options)
        message = pb.SolveRequest(prompt=prompt, options=chosen)

        def right(reply: pb.SolveResponse) -> bool:
            found = reply.solution.answer
            return found == answer if arm == "single" and self.exact else bool(found)

        return await self.ask(
            f"{arm} of {prompt}",
            lambda: self.stub.Solve(message, timeout=timeout, metadata=self.metadata),
            right,
            again=again,
        )

    async def record(self, call_id: str, correct: bool = True) -> bool:
        """Whether it was acknowledged; what is not may be refused."""
        message, began = pb.RecordOutcomeRequest(call_id=call_id, correct=correct), time.monotonic()
        try:
            await self.stub.RecordOutcome(message, timeout=30, metadata=self.metadata)
        except grpc.aio.AioRpcError:
            return False
        finally:
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
        return True


def told_to_retry(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds, where it is a documented error that may pass by itself."""
    status = rpc_status.from_call(error)
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details if status else ():
        if not detail.Unpack(info):
            detail.Unpack(retry)
    if info.domain != wire.DOMAIN or not retry.HasField("retry_delay"):
        return None
    return retry.retry_delay.ToTimedelta().total_seconds()


SECRET = 987_654_000_000  # its problems can be told in any log


def problem(number: int) -> tuple[str, str]:
    """A prompt and its answer, five terms long; no two alike."""
    terms = [SECRET + number, *(number % (7 + i) + 11 for i in range(4))]
    return " + ".join(map(str, terms)) + " =", str(sum(terms))


def recorded(url: str) -> tuple[set[str], set[str]]:
    """The call ids of the decisions and of the outcomes."""
    engine = sql.create_engine(url)
    with engine.connect() as connection:
        decided, learned = (
            set(connection.execute(sql.select(table.c.call_id)).scalars()) for table in (decisions, outcomes)
        )
    engine.dispose()
    return decided, learned


async def settled(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether it comes true in time. The condition is asked in a thread: it may wait."""
    give_up = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(0.05)
    return True


def named(source: Path, folder: Path, **manifest: object) -> Path:
    """A copy of a bundle with another manifest."""
    shutil.copytree(source, folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return folder


def digest(folder: Path) -> str:
    return sha256(folder / "manifest.json")


def characters(folder: Path) -> Path:
    """The double's tokenizer as a folder that transformers loads: a character is a token, its code point the id."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {chr(point): point for point in range(0xD800)} | SPECIAL | {"\ufffd": 0xE004}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\ufffd"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": CONTEXT}))
    return folder
