"""Programs that try to get out of the sandbox. docs/sandbox.md lists what became of each."""

import json
import os
import signal
import socket

import pytest

from router.tasks.sandbox import Sandbox
from tests.support.sandbox import attempts

pytestmark = pytest.mark.sandbox

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
          sys.executable, os.path.dirname(os.__file__) + "/a", *glob.glob("/lib/*/libc.so.6")]
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
