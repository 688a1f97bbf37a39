"""Programs that use up all they get, or do not end. docs/sandbox.md lists what became of each."""

import asyncio
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from router.tasks.sandbox import Limits, Outcome, Sandbox
from router.tasks.turns import on_behalf_of
from tests.support.sandbox import LIMITS, MARK, attempts, left_behind, nothing_is_left, something_runs

pytestmark = pytest.mark.sandbox

SHORT = replace(LIMITS, wall_seconds=2)


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
    await nothing_is_left()


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
    await nothing_is_left()


async def test_huge_output(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        outcome = await sandbox.run(f"import sys\nwhile True: sys.{stream}.write('x' * 10_000)")
        assert outcome.ended == "output"
        assert len(outcome.stdout) + len(outcome.stderr) == Limits.output_bytes
    await nothing_is_left()


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
    await nothing_is_left()


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
    await something_runs()
    running.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    await nothing_is_left()
    assert time.monotonic() - began < 5


async def test_a_bounded_number_at_a_time(sandbox: Sandbox) -> None:
    most = 0
    runs = asyncio.gather(*(sandbox.run("import time\ntime.sleep(0.3)") for _ in range(12)))
    while not runs.done():
        most = max(most, sum(each.info["cmdline"][0] != sandbox._bwrap for each in left_behind()))
        await asyncio.sleep(0.02)
    assert 1 < most <= sandbox.at_once
    outcomes: list[Any] = runs.result()
    assert all(isinstance(each, Outcome) and each.status == 0 for each in outcomes)


HOST = """
import asyncio
from router.tasks import sandbox as module
from router.tasks.sandbox import Limits, Sandbox
module._ENTRY = {!r} + module._ENTRY
sandbox = Sandbox(allow_code=True)
{}
run = sandbox.run('import time; time.sleep(1000)', limits=Limits(wall_seconds=1000))
print('begins', flush=True)
asyncio.run(run)
"""


async def begun(*settings: str) -> asyncio.subprocess.Process:
    """A process that begins a run of its own."""
    code = HOST.format(MARK, *settings)
    host = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert host.stdout is not None
    assert await host.stdout.readline()
    return host


async def test_when_the_host_process_dies_so_does_the_sandbox(sandbox: Sandbox) -> None:
    host = await begun("")
    await something_runs()
    host.kill()
    await host.wait()
    await nothing_is_left()


async def test_a_host_that_dies_before_bubblewrap_has_begun_leaves_nothing(sandbox: Sandbox) -> None:
    # So that it is not a matter of milliseconds.
    host = await begun("""sandbox._first_to_go = ['sh', '-c', 'sleep 3; exec "$0" "$@"']""")
    while not any(each.info["cmdline"][0] == "sh" for each in left_behind()):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    host.kill()
    await host.wait()
    assert left_behind()
    await nothing_is_left()


@pytest.mark.parametrize(("seconds", "verdicts"), [(0, 1), (60, 4)])
async def test_a_judge_begins_no_test_after_its_turn(sandbox: Sandbox, seconds: float, verdicts: int) -> None:
    job = {"solutions": ["def f(): return 1"] * 2, "tests": ["assert f() == 1"] * 2, "until_failure": False}
    assert len(await sandbox.judge(job | {"seconds": seconds}, LIMITS, 120)) == verdicts


async def test_cancelled_while_it_starts(sandbox: Sandbox) -> None:
    for steps in range(12):  # of the event loop: before, between and after those that connect the pipes
        run = asyncio.create_task(sandbox.run(MARK + "while True: pass", limits=LIMITS))
        for _ in range(steps):
            await asyncio.sleep(0)
        run.cancel()
        await asyncio.wait([run], timeout=60)
        assert run.cancelled(), steps
    await nothing_is_left()


async def test_one_caller_cant_keep_all_sandboxes(sandbox: Sandbox) -> None:
    with on_behalf_of("greedy"):
        code = MARK + "while True: pass"
        greedy = [asyncio.create_task(sandbox.run(code, limits=LIMITS)) for _ in range(4 * sandbox.at_once)]
    await asyncio.sleep(0)
    with on_behalf_of("modest"):
        modest = [asyncio.create_task(sandbox.run(MARK + "print(1)", limits=LIMITS)) for _ in range(2)]
    await asyncio.gather(*modest)
    assert sum(each.done() for each in greedy) <= sandbox.at_once
    for each in greedy:
        each.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await nothing_is_left()
