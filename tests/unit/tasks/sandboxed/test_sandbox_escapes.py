"""Programs that try to get out of the sandbox, or to harm who runs it. docs/sandbox.md lists what became of each."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import Any

import psutil
import pytest

from router.tasks.sandbox import Limits, Outcome, Sandbox

pytestmark = pytest.mark.sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=30)
SHORT = replace(LIMITS, wall_seconds=2)

# Each program calls attempt(name, function) and prints what happened at its end.
BEGIN = """
import ctypes, errno, json, os, sys
happened = {}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, deed):
    try:
        happened[name] = repr(deed())
    except BaseException as error:
        happened[name] = type(error).__name__ + " " + errno.errorcode.get(getattr(error, "errno", None), "")
def system_call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"
"""
END = "\nprint(json.dumps(happened))\n"
# By number, as on x86-64: what no library wraps.
CALLS = {
    "clone": (56, signal.SIGCHLD, 0, 0, 0, 0),
    "fork": (57,),
    "vfork": (58,),
    "ptrace": (101, 16, 1, 0, 0),
    "personality": (135, 0xFFFFFFFF),
    "pivot_root": (155, b"/", b"/"),
    "chroot": (161, b"/work"),
    "mount": (165, b"proc", b"/work", b"proc", 0, 0),
    "umount2": (166, b"/python", 2),
    "add_key": (248, b"user", b"a", b"b", 1, -3),
    "keyctl": (250, 0, -3, 0),
    "unshare": (272, 0x10000000),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "setns": (308, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "memfd_create": (319, b"a", 0),
    "bpf": (321, 0, 0, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 8, 0),
    "pidfd_open": (434, 1, 0),
    "clone3": (435, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "shmget": (29, 0, 1 << 20, 0o1600),
    "socket": (41, 2, 1, 0),
}


async def attempts(sandbox: Sandbox, code: str, limits: Limits = LIMITS) -> dict[str, str]:
    outcome = await sandbox.run(BEGIN + code + END, limits=limits)
    assert outcome.ended == "itself", outcome
    assert outcome.status == 0, outcome
    happened: dict[str, str] = json.loads(outcome.stdout)
    return happened


def left_behind(sandbox: Sandbox) -> list[psutil.Process]:
    return [
        each for each in psutil.process_iter(["cmdline"]) if sandbox._runtime.program in (each.info["cmdline"] or ())
    ]


async def something_runs(sandbox: Sandbox) -> None:
    while not left_behind(sandbox):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def nothing_is_left(sandbox: Sandbox) -> None:
    for _ in range(100):  # who was killed is gone soon, on a busy machine too
        if not left_behind(sandbox):
            return
        await asyncio.sleep(0.1)
    assert not left_behind(sandbox)


async def test_fork_bomb(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
import multiprocessing, subprocess
attempt("fork", os.fork)
attempt("forkpty", os.forkpty)
attempt("spawn", lambda: os.posix_spawn(sys.executable, ["python"], {}))
attempt("subprocess", lambda: subprocess.run([sys.executable, "-c", "pass"]))
attempt("multiprocessing", lambda: multiprocessing.get_context("fork").Process(target=print).start())
""",
    )
    # There is neither /dev/ptmx nor /dev/shm.
    assert happened.pop("forkpty").split()[0] in ("PermissionError", "FileNotFoundError")
    assert happened.pop("multiprocessing").split()[0] in ("PermissionError", "FileNotFoundError")
    assert set(happened.values()) == {"PermissionError EPERM"}
    outcome = await sandbox.run("import os\nwhile True:\n    os.fork()")
    assert b"PermissionError" in outcome.stderr


async def test_threads_are_few(sandbox: Sandbox) -> None:
    code = """
import threading, time
threading.stack_size(32768)
def start():
    for n in range(1000):
        try:
            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        except RuntimeError:
            return n
attempt("threads", start)
"""
    happened = await attempts(sandbox, code)
    assert int(happened["threads"]) < LIMITS.threads if sandbox.threads else happened["threads"] == "0"
    await nothing_is_left(sandbox)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system calls by x86-64's numbers")
async def test_system_calls_that_no_solution_needs(sandbox: Sandbox) -> None:
    calls = {
        name: [each.decode() if isinstance(each, bytes) else int(each) for each in call] for name, call in CALLS.items()
    }
    code = f"""
for name, call in {calls!r}.items():
    attempt(name, lambda: system_call(*(each.encode() if isinstance(each, str) else each for each in call)))
"""
    happened = await attempts(sandbox, code)
    assert {name: what for name, what in happened.items() if not what.endswith(("EPERM", "ENOSYS"))} == {}


async def test_memory_bomb(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
import mmap
def grow():
    data = [0]
    while True:
        data += data
attempt("list", grow)
attempt("bytes", lambda: bytearray(1 << 40))
attempt("integer", lambda: 1 << (1 << 40))
attempt("map", lambda: mmap.mmap(-1, 1 << 40))
attempt("shared memory", lambda: open("/dev/shm/a", "w"))
""",
    )
    assert happened == {
        "list": "MemoryError ",
        "bytes": "MemoryError ",
        "integer": "MemoryError ",
        "map": "OSError ENOMEM",
        "shared memory": "FileNotFoundError ENOENT",
    }


async def test_infinite_loop(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("while True: pass", limits=replace(LIMITS, cpu_seconds=1))
    assert outcome.status == 128 + signal.SIGXCPU


async def test_infinite_loop_that_ignores_signals(sandbox: Sandbox) -> None:
    code = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
"""
    outcome = await sandbox.run(code, limits=replace(LIMITS, cpu_seconds=1))
    assert outcome.status == 128 + signal.SIGKILL


async def test_sleeping_with_signals_ignored(sandbox: Sandbox) -> None:
    code = "import signal, time\nfor n in (1, 2, 14, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(1000)"
    outcome = await sandbox.run(code, limits=SHORT)
    assert (outcome.ended, outcome.status) == ("time", None)
    assert outcome.seconds < 15
    await nothing_is_left(sandbox)


async def test_huge_output(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        outcome = await sandbox.run(f"import sys\nwhile True: sys.{stream}.write('x' * 10_000)")
        assert outcome.ended == "output"
        assert len(outcome.stdout) + len(outcome.stderr) == Limits.output_bytes
    await nothing_is_left(sandbox)


async def test_reading_the_hosts_files(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/environ", "/proc/self/environ", "/root/.bashrc",
             "/sys/kernel/notes", "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg", "/dev/tty", "/var/run/docker.sock"):
    attempt(path, lambda: open(path, "rb").read(10))
attempt("/", lambda: sorted(os.listdir("/")))
attempt("/etc", lambda: sorted(os.listdir("/etc")))
attempt("/dev", lambda: sorted(os.listdir("/dev")))
attempt("home", lambda: os.listdir(os.path.expanduser("~")))
attempt("up", lambda: os.listdir("/work/../../.."))
attempt("link", lambda: (os.symlink("/etc/passwd", "link"), open("link").read()))
""",
    )
    listed = {name: happened.pop(name) for name in ("/", "/etc", "/dev", "up")}
    assert set(happened.values()) == {"FileNotFoundError ENOENT"}
    assert not {"home", "root", "proc", "sys", "usr", "var", "tmp", "run", "mnt"} & set(
        json.loads(listed["/"].replace("'", '"'))
    )
    assert listed["/dev"] == "['null', 'urandom', 'zero']"
    assert listed["/etc"] in ("['ld.so.cache']", "FileNotFoundError ENOENT")


async def test_writing_outside(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
import glob
places = ["/a", "/dev/a", "/etc/a", "/python/a", "/boot/a", "/boot/inside/a", "/boot/inside/judge.py", os.__file__,
          sys.executable, os.path.dirname(os.__file__) + "/site-packages/a", *glob.glob("/lib/*/libc.so.6")]
for place in places:
    attempt(place, lambda: open(place, "ab"))
attempt("remove", lambda: os.remove(os.__file__))
attempt("mode", lambda: os.chmod(os.__file__, 0o777))
attempt("rename", lambda: os.rename("/boot", "/b"))
attempt("folder", lambda: os.mkdir("/a"))
""",
    )
    refused = {"OSError EROFS", "OSError ETXTBSY", "PermissionError EACCES", "PermissionError EPERM"}
    assert set(happened.values()) <= refused
    assert len(happened) >= 14


async def test_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        happened = await attempts(
            sandbox,
            f"""
import socket, urllib.request
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("outside", lambda: socket.create_connection(("1.1.1.1", 53), 1))
attempt("name", lambda: socket.getaddrinfo("localhost", 80))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("unix", lambda: socket.socket(socket.AF_UNIX))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW))
attempt("netlink", lambda: socket.socket(16, socket.SOCK_RAW))
attempt("http", lambda: urllib.request.urlopen("http://127.0.0.1:{port}/", timeout=1))
""",
        )
        with pytest.raises(TimeoutError):
            server.accept()
    assert {what.split()[0] for what in happened.values()} <= {"PermissionError", "gaierror", "URLError"}


async def test_signals_to_others(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
import resource, signal
for target in (os.getppid(), 1, 2, -1, 0, -1 * os.getpgid(0)):
    for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
        attempt(f"{target} {number}", lambda: os.kill(target, number))
attempt("limits of another", lambda: resource.prlimit(1, resource.RLIMIT_AS, (0, 0)))
attempt("own limits", lambda: resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("affinity", lambda: os.sched_setaffinity(1, {0}))
""",
    )
    assert happened.pop("own limits").startswith("ValueError")
    assert {what.split()[1] for what in happened.values()} <= {"EPERM", "ENOSYS"}


async def test_nothing_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "4711")
    descriptor = os.open("/", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    happened = await attempts(
        sandbox,
        """
def block():
    start = ctypes.c_void_p.in_dll(libc, "environ").value or 0
    pointer, found = ctypes.cast(start, ctypes.POINTER(ctypes.c_char_p)), []
    while pointer and pointer[len(found)]:
        found.append(pointer[len(found)])
    return found
def opened(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False
attempt("environment", lambda: dict(os.environ))
attempt("environment in memory", block)
attempt("descriptors", lambda: [number for number in range(64) if opened(number)])
attempt("arguments", lambda: sys.argv)
attempt("user", lambda: (os.getuid(), os.geteuid(), os.getgid(), os.getgroups()))
attempt("host", lambda: os.uname().nodename)
attempt("folder", lambda: (os.getcwd(), os.listdir()))
""",
    )
    os.close(descriptor)
    assert happened == {
        "environment": "{}",
        "environment in memory": "[]",
        "descriptors": "[0, 1, 2]",
        "arguments": "['program.py']",
        "user": happened["user"],
        "host": "'sandbox'",
        "folder": "('/work', [])",
    }
    assert happened["user"].startswith("(65534, 65534, 65534, ")


async def test_importing_the_hosts_packages(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
import glob, site
for name in ("numpy", "pytest", "router", "grpc", "pip", "setuptools"):
    attempt(name, lambda: __import__(name))
attempt("site-packages", lambda: glob.glob(os.path.dirname(os.__file__) + "/*-packages/*"))
""",
    )
    assert happened.pop("site-packages") == "[]"
    assert set(happened.values()) == {"ModuleNotFoundError "}


async def test_many_open_files(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        "kept = []\nattempt('open', lambda: [kept.append(open('/dev/null')) for _ in range(999)])\nkept.clear()",
    )
    assert happened == {"open": "OSError EMFILE"}


async def test_huge_and_many_files(sandbox: Sandbox) -> None:
    happened = await attempts(
        sandbox,
        """
def write(name):
    with open(name, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
for name in "abcd":
    attempt(name, lambda: write(name))
attempt("e", lambda: open("e", "w").write("x" * 100_000))
attempt("sparse", lambda: os.truncate("a", 1 << 40))
""",
    )
    assert [happened.pop(each) for each in ("a", "sparse")] == ["OSError EFBIG", "OSError EFBIG"]
    assert happened.pop("e") == "OSError ENOSPC"
    assert set(happened.values()) <= {"OSError EFBIG", "OSError ENOSPC"}
    again = await attempts(sandbox, "attempt('files', os.listdir)")
    assert again == {"files": "[]"}  # each run begins with none


async def test_endless_empty_files_end_with_the_processor_time(sandbox: Sandbox) -> None:
    """Not bounded by number: what an empty file costs the kernel is bounded by the time to make them."""
    outcome = await sandbox.run(
        "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').close()\n    n % 1000 or print(n, flush=True)",
        limits=replace(LIMITS, cpu_seconds=1, output_bytes=1 << 20),
    )
    assert outcome.status in (128 + signal.SIGXCPU, 1), outcome


async def test_daemon(sandbox: Sandbox) -> None:
    code = """
import threading, time
attempt("session", os.setsid)
attempt("fork", os.fork)
def forever():
    while True: time.sleep(1)
if THREADS:
    threading.Thread(target=forever, daemon=True).start()
""".replace("THREADS", str(sandbox.threads))
    happened = await attempts(sandbox, code)
    assert happened["fork"] == "PermissionError EPERM"
    await nothing_is_left(sandbox)


async def test_deep_recursion(sandbox: Sandbox) -> None:
    happened = await attempts(sandbox, "def f(): return f()\nattempt('deep', f)")
    assert happened == {"deep": "RecursionError "}
    for code in (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        "x = []\nfor _ in range(10**7): x = [x]\nimport copy\ncopy.deepcopy(x)",
    ):
        outcome = await sandbox.run(code, limits=LIMITS)
        assert outcome.status not in (0, None), outcome


async def test_closed_streams(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("import os\nfor n in (0, 1, 2): os.close(n)\nos._exit(7)")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (7, b"", b"")
    outcome = await sandbox.run("import os, time\nfor n in (0, 1, 2): os.close(n)\ntime.sleep(1000)", limits=SHORT)
    assert outcome.ended == "time"


async def test_input_is_not_read(sandbox: Sandbox) -> None:
    outcome = await sandbox.run("pass", stdin=bytes(10 << 20))
    assert outcome.status == 0


async def test_cancelling_kills_at_once(sandbox: Sandbox) -> None:
    running = asyncio.create_task(
        sandbox.run("import time\ntime.sleep(1000)", limits=replace(LIMITS, wall_seconds=1000))
    )
    await something_runs(sandbox)
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    await nothing_is_left(sandbox)
    assert time.monotonic() - began < 5


async def test_a_bounded_number_at_a_time(sandbox: Sandbox) -> None:
    most = 0
    runs = asyncio.gather(*(sandbox.run("import time\ntime.sleep(0.3)") for _ in range(12)))
    while not runs.done():
        most = max(most, sum(each.info["cmdline"][0] != sandbox._bwrap for each in left_behind(sandbox)))
        await asyncio.sleep(0.02)
    assert 1 < most <= sandbox.at_once
    outcomes: list[Any] = runs.result()
    assert all(isinstance(each, Outcome) and each.status == 0 for each in outcomes)


async def test_when_the_host_process_dies_so_does_the_sandbox(sandbox: Sandbox) -> None:
    code = (
        "import asyncio\nfrom router.tasks.sandbox import Limits, Sandbox\n"
        "run = Sandbox(allow_code=True).run('import time; time.sleep(1000)', limits=Limits(wall_seconds=1000))\n"
        "print('begins', flush=True)\nasyncio.run(run)\n"
    )
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert host.stdout is not None
    assert await host.stdout.readline()
    await something_runs(sandbox)
    host.kill()
    await host.wait()
    await nothing_is_left(sandbox)
