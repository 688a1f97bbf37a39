"""Runs untrusted Python in bubblewrap, with resource limits and a system call filter inside: see docs/sandbox.md."""

import asyncio
import compileall
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from router.errors import InvalidRequest, MissingDependency
from router.tasks import runtime, seccomp
from router.tasks.cgroup import ControlGroups
from router.tasks.inside import messages
from router.tasks.turns import Turns

_MEBIBYTE = 1 << 20
_NOBODY = 65534
# Fixed hashes, so that equal code behaves equally; one heap for all threads, which saves address space.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "LD_LIBRARY_PATH": runtime.LIBRARIES}
_DEVICES = {"/dev/null": (1, 3), "/dev/zero": (1, 5), "/dev/urandom": (1, 9)}
_ENTRY = """
import os, sys
{}
os.environ.clear()
sys.path.insert(0, '/boot')
from inside.{} import main
del sys.path[0]
{}
main()
"""
# Bubblewrap dies with its parent only once both of its processes have asked for that. By now they have. Where the other
# end of this pipe is closed, the host died before, and nobody is left to end this run.
_IF_THE_HOST_LIVES = """
os.close({1})
os.set_blocking({0}, False)
try:
    os.read({0}, 1)
    os._exit(1)
except BlockingIOError:
    os.close({0})
"""
_WITH_PACKAGES = """
sys.path.append('/packages')
os.environ['OPENBLAS_NUM_THREADS'] = '1'
"""
_READ = 1 << 16
_OWN_MEMORY = 128 * _MEBIBYTE  # for bubblewrap, the judge and the files
_OWN_PROCESSES = 8


class SandboxUnavailable(MissingDependency):
    """This machine can't isolate code as required; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """Limits on one process that runs code; a judge runs one at a time.

    memory_bytes  address space
    threads       at the same time, if the sandbox does not run as root; as root there is one
    output_bytes  standard output and standard error together; the process is killed if it writes more
    file_bytes    size of one file; all files together may have four times that
    """

    cpu_seconds: int = 4
    wall_seconds: float = 10.0
    memory_bytes: int = 512 * _MEBIBYTE
    threads: int = 32
    output_bytes: int = _MEBIBYTE // 8
    file_bytes: int = 4 * _MEBIBYTE
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    status  exit status, 128 + n if signal n ended it; None if the sandbox killed it
    ended   what ended it: itself, the limit of wall time, or too much output
    """

    stdout: bytes
    stderr: bytes
    status: int | None
    ended: Literal["itself", "time", "output"]
    seconds: float


class Sandbox:
    """Runs programs, a bounded number at a time, each in its own namespaces, of which nothing is left afterwards.
    Callers take turns, see :class:`router.tasks.turns.Turns`.

    allow_code  must be True, as the person who starts the service decides; there is no sandbox otherwise
    at_once     the most runs at the same time
    python      the interpreter for the code; at least 3.11
    packages    installed packages that the code may import, e.g. numpy
    cgroups     folders in which it may make control groups, see ControlGroups

    Raises InvalidRequest without ``allow_code``, SandboxUnavailable where the code would not be isolated.
    """

    def __init__(
        self,
        *,
        allow_code: bool,
        at_once: int = 2,
        python: str = sys.executable,
        packages: Sequence[str] = (),
        cgroups: Sequence[str] = (),
    ):
        if not allow_code:
            raise InvalidRequest("task", "running code is not allowed here: see --allow-code", reason="UNSPECIFIED")
        self.at_once = at_once
        self._packages = tuple(packages)
        self._cgroups = tuple(cgroups)
        self._loop_and_turns: tuple[asyncio.AbstractEventLoop, Turns] | None = None
        self._user: int | None = None
        self._bwrap, self._options = _bubblewrap()
        self._first_to_go = ["choom", "-n", "1000", "--"] if shutil.which("choom") else []
        self._runtime = runtime.find(python, packages)
        # Errors are ignored: where the folder can't be written, each start compiles the files anew.
        compileall.compile_dir(Path(runtime.__file__).parent / "inside", quiet=2)
        self.check()

    @property
    def threads(self) -> bool:
        """Whether code may start threads. No rlimit counts root's, so code that runs as root may start none."""
        return os.geteuid() != 0 or self._user is not None

    def check(self) -> None:
        """Try to escape. Raises SandboxUnavailable where the sandbox does not start, or an attempt succeeds."""
        users = [_NOBODY, None] if os.geteuid() == 0 else [None]
        said = ""
        for self._user in users:  # as root, run code as the user nobody if that works; else as root
            groups = self._groups(Limits())
            command, payload = self._command("program", groups), self._settings(Limits(), code=_PROBE)
            try:
                tried = subprocess.run(
                    command, input=payload, capture_output=True, timeout=60, check=False, **self._identity()
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                said = f"bubblewrap does not run: {error}"
                continue
            finally:
                groups.remove()
            if not tried.returncode:
                escaped = json.loads(tried.stdout)
                if escaped:
                    raise SandboxUnavailable(f"code in the sandbox could get out: {', '.join(escaped)}")
                return
            said = tried.stderr.decode(errors="replace")
        raise SandboxUnavailable(_advice(said))

    async def run(self, code: str, stdin: bytes = b"", limits: Limits | None = None) -> Outcome:
        """Run a program to its end or to the first limit; cancelling kills it at once. Raises SandboxUnavailable."""
        limits = limits or Limits()
        return await self.start("program", self._settings(limits, code=code) + stdin, limits, limits.wall_seconds)

    async def judge(self, job: dict[str, Any], limits: Limits, wall_seconds: float) -> list[dict[str, Any]]:
        """Return the verdicts of ``inside.judge`` on a job, as far as it got.

        job  solutions, tests, ``until_failure``, and the ``seconds`` after which it begins no further test
        """
        payload = self._settings(limits) + messages.pack(job)
        outcome = await self.start("judge", payload, limits, wall_seconds)
        return _unpack(outcome.stdout)

    async def start(self, entry: str, payload: bytes, limits: Limits, wall_seconds: float) -> Outcome:
        """Run one of the programs in ``inside``, with the payload as its standard input."""
        async with self._turns().turn():
            groups = self._groups(limits)
            try:
                return await self._run(entry, groups, payload, limits, wall_seconds)
            finally:
                if self._cgroups:
                    await asyncio.shield(asyncio.to_thread(groups.remove))

    async def _run(
        self, entry: str, groups: ControlGroups, payload: bytes, limits: Limits, wall_seconds: float
    ) -> Outcome:
        began = time.monotonic()
        started, told = os.pipe()
        host, alive = os.pipe()  # nothing is ever written: it is closed when this process ends
        with os.fdopen(started, "rb") as started_file, os.fdopen(alive, "wb"):
            try:
                # Bubblewrap has the end that reads its status, too: where nobody does, it ends between two steps, and
                # one of its processes waits for the other for ever.
                process = await _start(
                    self._command(entry, groups, (told, started, host)),
                    pass_fds=[told, started, host],
                    **self._identity(),
                )
            finally:
                os.close(told)
                os.close(host)
            try:
                stdout, stderr, ended = await _converse(process, payload, limits.output_bytes, wall_seconds)
            finally:
                await asyncio.shield(_end(process))
            if ended == "itself" and b"exit-code" not in started_file.read(4096):
                raise SandboxUnavailable(_advice(stderr.decode(errors="replace")))
        status = process.returncode if ended == "itself" else None
        return Outcome(stdout, stderr, status, ended, time.monotonic() - began)

    def _turns(self) -> Turns:
        loop, known = asyncio.get_running_loop(), self._loop_and_turns
        if known is None or known[0] is not loop:  # a command may run several loops, one after another
            known = self._loop_and_turns = loop, Turns(self.at_once)
        return known[1]

    def _settings(self, limits: Limits, **more: object) -> bytes:
        filter_ = seccomp.program(threads=self.threads).hex()
        return messages.pack({"limits": asdict(limits), "seccomp": filter_, **more})

    def _groups(self, limits: Limits) -> ControlGroups:
        memory = 2 * limits.memory_bytes + _OWN_MEMORY  # for a solution and its test
        return ControlGroups(self._cgroups, memory, 2 * limits.threads + _OWN_PROCESSES)

    def _identity(self) -> dict[str, Any]:
        return (
            {} if self._user is None or self._cgroups else {"user": self._user, "group": self._user, "extra_groups": []}
        )

    def _command(self, entry: str, groups: ControlGroups, pipes: tuple[int, int, int] | None = None) -> list[str]:
        """What to run. ``pipes``: both ends of the one for bubblewrap's status, and one that closes with the host."""
        command = [self._bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"]
        command += ["--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"]
        for name, value in _ENVIRONMENT.items():  # cleared before any code runs
            command += ["--setenv", name, value]
        if "--disable-userns" in self._options:
            command += ["--disable-userns"]
        for source, place in self._runtime.binds:
            command += ["--ro-bind", source, place]
        for place in self._runtime.hidden:
            command += ["--tmpfs", place, "--remount-ro", place]
        for device in _DEVICES:
            command += ["--dev-bind", device, device]
        command += ["--size", str(4 * Limits.file_bytes), "--tmpfs", "/work", "--chdir", "/work"]
        command += ["--remount-ro", "/"]
        lives = ""
        if pipes is not None:
            told, started, host = pipes
            command += ["--json-status-fd", str(told)]
            lives = _IF_THE_HOST_LIVES.format(host, started)
        boot = _ENTRY.format(lives, entry, _WITH_PACKAGES if self._packages else "")
        command += ["--", self._runtime.program, "-SsPB", "-Xutf8", "-c", boot]
        # With choom, the kernel kills these processes first when memory runs out.
        return groups.command([*self._first_to_go, *command], self._user)


async def _start(command: list[str], **options: Any) -> asyncio.subprocess.Process:
    """Start the command as the first of its own process group. If cancelled, leaves nothing of it.

    asyncio, cancelled while it starts a process, kills that process alone and then waits for the pipes to close. Those
    that bubblewrap has started by then live on, and wait for an input that never ends.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
    )

    async def end() -> None:
        with contextlib.suppress(OSError):  # it did not start
            await _end(await starting)

    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.shield(end())
        raise


async def _converse(
    process: asyncio.subprocess.Process, payload: bytes, most: int, seconds: float
) -> tuple[bytes, bytes, Literal["itself", "time", "output"]]:
    """Write the payload and read at most ``most`` bytes until the process ends; return what was read in any case."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    left = most
    too_much = asyncio.Event()

    async def write(stream: asyncio.StreamWriter) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the process ended, or reads no input
            stream.write(payload)
            await stream.drain()
            stream.close()

    async def read(stream: asyncio.StreamReader, into: bytearray) -> None:
        nonlocal left
        while part := await stream.read(_READ):
            into += part[:left]
            left -= len(part)
            if left < 0:
                too_much.set()
                return

    out, err = bytearray(), bytearray()
    work = [write(process.stdin), read(process.stdout, out), read(process.stderr, err), process.wait()]
    tasks = [asyncio.ensure_future(each) for each in work]
    end = asyncio.ensure_future(asyncio.wait(tasks[1:]))  # its output and the process end
    stop = asyncio.ensure_future(too_much.wait())
    try:
        done, _ = await asyncio.wait([end, stop], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (*tasks, end, stop):
            each.cancel()
        await asyncio.gather(*tasks, end, stop, return_exceptions=True)
    ended: Literal["itself", "time", "output"] = "output" if left < 0 else "itself" if end in done else "time"
    return bytes(out), bytes(err), ended


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill bubblewrap and, by --die-with-parent, the first process of its namespace and so all others in it."""

    async def forget(stream: asyncio.StreamReader) -> None:
        while await stream.read(_READ):
            pass

    outputs = [stream for stream in (process.stdout, process.stderr) if stream]
    if process.returncode is None or not all(stream.at_eof() for stream in outputs):  # something runs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    # wait() returns only once all output was read.
    await asyncio.gather(process.wait(), *map(forget, outputs))


def _unpack(data: bytes) -> list[dict[str, Any]]:
    """Return the complete messages; the last may have been cut by a limit."""
    found = []
    while len(data) >= 4 and len(data) >= 4 + (length := int.from_bytes(data[:4], "big")):
        found.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def _bubblewrap() -> tuple[str, str]:
    """Return the path of bubblewrap and its help text. Raises SandboxUnavailable."""
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable("running code needs Linux")
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable("running code needs bubblewrap: apt-get install bubblewrap")
    for device, numbers in _DEVICES.items():
        found = Path(device).stat()
        if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != numbers:
            raise SandboxUnavailable(f"{device} is another device on this machine; code could write to it")
    return path, subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60, check=False).stdout


def _advice(said: str) -> str:
    said = said.strip()[-500:]
    for signs, advice in _ADVICE:
        if any(sign in said for sign in signs):
            return f"code can't be isolated here ({said}): {advice}; see docs/sandbox.md"
    return f"code can't be isolated here: {said or 'the sandbox did not start'}; see docs/sandbox.md"


_ADVICE = (
    (
        ("No permissions to create", "Creating new namespace failed", "clone: Operation not permitted"),
        "allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone), "
        "in a container also its seccomp profile",
    ),
    (
        ("setting up uid map: Operation not permitted",),
        "root without its capabilities may not make user namespaces: run as another user",
    ),
    (
        ("setting up uid map", "RTM_NEWADDR"),
        "AppArmor restricts user namespaces: give bwrap a profile that allows them",
    ),
    (
        ("mount", "pivot_root", "Failed to make"),
        "the container's AppArmor or seccomp profile forbids mounts within a user namespace",
    ),
)

# Prints which of these it could do.
_PROBE = """
import json, os, socket, sys
def can(deed):
    try:
        deed()
    except Exception:
        return False
    return True
deeds = {
    "start a process": os.fork,
    "open a socket": socket.socket,
    "signal another process": lambda: os.kill(1, 0),
    "write outside": lambda: open("/outside", "w"),
    "write to the interpreter": lambda: open(os.__file__, "a"),
    "see /proc": lambda: os.listdir("/proc"),
    "see /sys": lambda: os.listdir("/sys"),
    "read /etc/passwd": lambda: open("/etc/passwd"),
    "start a program": lambda: os.execv(sys.executable, [sys.executable, "-c", "print(['start a program'])"]),
}
print(json.dumps([name for name, deed in deeds.items() if can(deed)]))
"""
