"""Solutions that would rather be believed than be right, and those that harm whoever is judged beside them."""

import asyncio

import pytest

from router.tasks.judging import Verdict, judge
from router.tasks.sandbox import Limits, Sandbox

pytestmark = pytest.mark.sandbox

LIMITS = Limits(cpu_seconds=2, wall_seconds=120)
TESTS = [
    "assert f(1) == 4711",
    "assert [f(x) for x in (2, 3)] == [4712, 4713]",
    "assert abs(f(4) - 4714) < 0.5",
    "assert all(map(lambda x: f(x) == 4710 + x, (1, 2)))",
]

FORGERIES = {
    "exits well on import": "import sys\nsys.exit(0)",
    "exits well when called": "import sys\ndef f(x): sys.exit(0)",
    "stops the test's loops": "def f(x): raise StopIteration",
    "ends its process on import": "import os\nos._exit(0)",
    "ends its process when called": "import os\ndef f(x): os._exit(0)",
    "closes everything": "import os\nos.closerange(0, 64)\ndef f(x): return 0",
    "equals everything": """
class Any:
    __hash__ = object.__hash__
    def __eq__(self, other): return True
    __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0
    def __bool__(self): return True
    def __iter__(self): return iter([Any(), Any()])
    def __getattr__(self, name): return self
def f(x): return Any()
""",
    "is a number that equals everything": """
class Any(int):
    __hash__ = int.__hash__
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __rsub__ = __sub__
def f(x): return Any(0)
""",
    "replaces the interpreter's names": """
import builtins
builtins.AssertionError = type("Fine", (BaseException,), {})
builtins.abs = builtins.all = builtins.len = lambda *a: 0
abs = set = all = sorted = lambda *a: 0
def f(x): return 0
""",
    "is mock.ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "replaces the codec's methods": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("inside"):
        for key, value in list(vars(module).items()):
            if callable(value) and not key.startswith("__"):
                try: setattr(module, key, lambda *a, **k: True)
                except Exception: pass
def f(x): return True
""",
    "prints what the judge writes": """
import json, os
data = json.dumps({"solution": 0, "test": 0, "error": "", "said": "", "behaviour": "x", "returned": True}).encode()
message = len(data).to_bytes(4, "big") + data
def forge():
    for number in range(64):
        try: os.write(number, message)
        except OSError: pass
forge()
def f(x):
    forge()
    return 0
""",
    "replies in place of the interpreter": """
import json, os
def f(x):
    for value in (True, None, {}, ["n", "unittest.mock", "ANY"], ["h", 0], ["k", 0]):
        data = json.dumps({"reply": {"value": value, "passed": True, "error": ""}}).encode()
        for number in range(3, 64):
            try: os.write(number, len(data).to_bytes(4, "big") + data)
            except OSError: pass
    return 0
""",
    "says that it passed": """
def f(x):
    raise AssertionError("passed")
""",
    "traces": """
import sys, threading
def trace(frame, event, arg):
    for name in list(frame.f_locals): frame.f_locals[name] = 4711
    return trace
sys.settrace(trace)
sys.setprofile(trace)
def f(x): return 0
""",
    "kills the judge": """
import os
def f(x):
    for process in range(-1, 64):
        try: os.kill(process, 9)
        except OSError: pass
    return 0
""",
    "returns no end": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "returns too much": "def f(x): return 'x' * 50_000_000",
    "returns a deep value": "def f(x):\n    v = []\n    for _ in range(100_000): v = [v]\n    return v",
    "yields no end": "def f(x):\n    while True: yield x",
    "has an endless representation": "class A:\n    def __repr__(self): return repr(self)\ndef f(x): return A()",
    "raises an error without end": "class E(Exception):\n    def __str__(self): raise E\ndef f(x): raise E",
    "answers with SystemExit's class": "def f(x): return SystemExit",
    "has the test's names": "test = space = trial = error = None\nerror = ''\npassed = True\ndef f(x): return None",
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_forgery(sandbox: Sandbox, name: str) -> None:
    (verdicts,) = await judge(sandbox, [FORGERIES[name]], TESTS, LIMITS)
    assert [each.passed for each in verdicts] == [False] * 4, verdicts


async def test_a_right_one_passes(sandbox: Sandbox) -> None:
    (verdicts,) = await judge(sandbox, ["def f(x): return 4710 + x"], TESTS, LIMITS)
    assert all(each.passed for each in verdicts), verdicts


# Both look for a text that they know all of but its end.
SEARCHES = {
    "objects and frames": """
import gc, re, sys
def f(x):
    pattern = re.compile("sec" + "ret-[0-9a-f]{8}")
    seen, todo = set(), [gc.get_objects(), list(sys.modules.values())]
    frame = sys._getframe()
    while frame:
        todo += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    while todo:
        value = todo.pop()
        if id(value) in seen: continue
        seen.add(id(value))
        if isinstance(value, str) and (found := pattern.search(value)): return found[0]
        todo += gc.get_referents(value)
    return len(seen)
""",
    "memory": """
import ctypes, re
libc = ctypes.CDLL(None, use_errno=True)
def there(page):  # a system call that reads it fails with EFAULT where nothing is
    return libc.access(ctypes.c_void_p(page), 0) == 0 or ctypes.get_errno() != 14
def f(x):
    pattern, read = re.compile(b"sec" + b"ret-[0-9a-f]{8}"), 0
    for middle in {id([]) >> 24, id("sec") >> 24, id(f) >> 24, id(ctypes.create_string_buffer(100_000)) >> 24}:
        for page in range((middle - 1) << 24, (middle + 2) << 24, 4096):
            if there(page):
                read += 1
                if found := pattern.search(ctypes.string_at(page, 4096)): return found[0].decode()
    return read
""",
}


@pytest.mark.parametrize("name", SEARCHES)
async def test_what_is_expected_is_not_found(sandbox: Sandbox, name: str) -> None:
    tests = ["assert f(1) == 'secret-0123abcd'", "assert isinstance(f(1), int) and f(1) > 1000"]
    ((forged, searched),) = await judge(sandbox, [SEARCHES[name]], tests, Limits(cpu_seconds=10, wall_seconds=60))
    assert not forged.passed
    assert searched.passed, searched  # it did look


@pytest.mark.parametrize("name", SEARCHES)
async def test_the_searches_find_what_is_there(sandbox: Sandbox, name: str) -> None:
    code = SEARCHES[name] + "\nkept = ['sec' + 'ret-' + '0123abcd' for _ in range(3)]"
    ((found,),) = await judge(
        sandbox, [code], ["assert f(1) == 'secret-0123abcd'"], Limits(cpu_seconds=10, wall_seconds=60)
    )
    assert found.passed, found


# What is not prevented: a test that trusts the solution's own code.
TRUSTING = [
    ("class P:\n    def __eq__(self, other): return True\n", "assert P() == P()"),
    ("def f(x): return 0\ndef expected(x): return 0", "assert f(1) == expected(1)"),
    ("def f(x): return []", "assert all(a == b for a, b in zip(f(1), [4711]))"),
    ("def f(x): return float('nan')", "assert not abs(f(1) - 4711) > 0.5"),
]


@pytest.mark.parametrize(("solution", "test"), TRUSTING)
async def test_tests_that_trust_the_solution(sandbox: Sandbox, solution: str, test: str) -> None:
    ((verdict,),) = await judge(sandbox, [solution], [test], LIMITS)
    assert verdict.passed


async def test_the_ones_beside_it_are_judged_all_the_same(sandbox: Sandbox) -> None:
    right = "def f(x): return 4710 + x"
    harmful = [
        "import os\nopen('sitecustomize.py', 'w').write('x')\ndef f(x): return 0",
        "import os\nos.makedirs('/'.join('abcdefgh'))\nos.chmod('a', 0)\ndef f(x): return 0",
        "while True: pass",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\ndef f(x): return 0",
        "import os, signal\nfor p in range(-1, 64):\n    try: os.kill(p, 9)\n    except OSError: pass",
        "x = [0]\nwhile True: x += x",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    ]
    answers = [right, *(each for one in harmful for each in (one, right))]
    verdicts = await judge(sandbox, answers, TESTS[:1], LIMITS)
    assert [each[0].passed for each in verdicts] == [answer == right for answer in answers]


async def test_files_do_not_outlive_their_test(sandbox: Sandbox) -> None:
    code = "import os\ndef f(x):\n    found = os.listdir()\n    open('a', 'w').write('x')\n    return found"
    verdicts = await judge(sandbox, [code, code], ["assert f(1) == []"] * 2, LIMITS)
    assert all(each.passed for both in verdicts for each in both)


async def test_tests_are_confined_too(sandbox: Sandbox) -> None:
    tests = [
        "import os\nos.fork()\nassert True",
        "open('/etc/passwd')\nassert True",
        "while True: pass\nassert True",
        "import os\nos._exit(0)\nassert True",
        "raise SystemExit(0)",
        "import os\nos.kill(1, 9)\nassert True",
        "assert f(1) == 1",
    ]
    (verdicts,) = await judge(sandbox, ["def f(x): return x"], tests, LIMITS)
    assert [each.error for each in verdicts] == [
        "PermissionError",
        "FileNotFoundError",
        "time",
        "ended",
        "SystemExit",
        "PermissionError",
        "",
    ]


async def test_until_failure(sandbox: Sandbox) -> None:
    answers = ["def f(x): return 4710 + x", "def f(x): return 4711 if x == 1 else 0", "def f(x): return 0"]
    verdicts = await judge(sandbox, answers, TESTS, LIMITS, until_failure=True)
    assert [[each.passed for each in one] for one in verdicts] == [[True] * 4, [True, False], [False]]


async def test_cancelling_a_judgement(sandbox: Sandbox) -> None:
    running = asyncio.create_task(
        judge(sandbox, ["while True: pass"], TESTS, Limits(wall_seconds=100, cpu_seconds=100))
    )
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_is_said(sandbox: Sandbox) -> None:
    answers = [
        "def f(x): return [x]",
        "def f(x): raise KeyError('no')",
        "def f(x) return",
        "def g(x): pass",
        "def f(x): return 'ü' * 999",
    ]
    verdicts = [each[0] for each in await judge(sandbox, answers, TESTS[:1], LIMITS)]
    assert [(each.error, each.said[:40]) for each in verdicts] == [
        ("AssertionError", "returned [1]"),
        ("KeyError", "raised KeyError: 'no'"),
        ("SyntaxError", "SyntaxError: expected ':' (<solution>, l"),
        ("NameError", "NameError: name 'f' is not defined"),
        ("AssertionError", "returned 'üüüüüüüüüüüüüüüüüüüüüüüüüüüüüü"),
    ]
    assert isinstance(verdicts[0], Verdict)
