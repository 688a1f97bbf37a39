"""What the sandbox does beside keeping code in: refuse where it can't, hand over input and output, count."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.errors import InvalidRequest, MissingDependency
from router.tasks import sandbox as module
from router.tasks.cgroup import ControlGroups
from router.tasks.sandbox import Limits, Sandbox, SandboxUnavailable, _advice

CHECK = """
import sys
{}
from router.tasks.sandbox import Sandbox, SandboxUnavailable
try:
    Sandbox(allow_code=True)
except SandboxUnavailable as error:
    print(error)
else:
    print("isolated")
"""


def test_it_must_be_allowed() -> None:
    with pytest.raises(InvalidRequest, match="--allow-code"):
        Sandbox(allow_code=False)


def test_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        Sandbox(allow_code=True)


def test_elsewhere_than_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="Linux"):
        Sandbox(allow_code=True)


def test_with_a_device_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "null").touch()
    (tmp_path / "bwrap").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_DEVICES", {str(tmp_path / "null"): (1, 3)})
    with pytest.raises(SandboxUnavailable, match="is another device on this machine"):
        Sandbox(allow_code=True)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: No permissions to create new namespace, likely because", "max_user_namespaces"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "seccomp"),
        ("bwrap: setting up uid map: Permission denied", "AppArmor restricts"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor restricts"),
        ("bwrap: setting up uid map: Operation not permitted", "run as another user"),
        ("bwrap: Failed to make / slave: Permission denied", "forbids mounts"),
        ("", "did not start"),
    ],
)
def test_what_is_wrong_is_said_with_a_way_out(said: str, advice: str) -> None:
    assert advice in _advice(said)
    assert "docs/sandbox.md" in _advice(said)


def test_control_groups_are_written_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Path.mkdir

    def mkdir(self: Path) -> None:  # as the kernel does: its files are there at once
        made(self)
        for name in ("memory.max", "memory.swap.max", "pids.max"):
            (self / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    groups = ControlGroups([str(tmp_path)], 1000, 7)
    (group,) = tmp_path.iterdir()
    assert {each.name: each.read_text() for each in group.iterdir()} == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "pids.max": "7",
    }
    assert groups.command(["bwrap", "a b"], 65534)[4:] == [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
        "bwrap",
        "a b",
    ]
    shutil.rmtree(group)
    groups.remove()


def test_folders_that_control_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="not both controlled"):
        ControlGroups([str(tmp_path)], 1000, 7)
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingDependency, match="no control group"):
        ControlGroups([str(tmp_path / "nowhere")], 1000, 7)


def test_no_control_groups() -> None:
    groups = ControlGroups([], 1000, 7)
    assert groups.command(["bwrap"], None) == ["bwrap"]
    groups.remove()


def checked(before: str, *command: str) -> str:
    done = subprocess.run(
        [*command, sys.executable, "-c", CHECK.format(before)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.sandbox
class TestWhereBubblewrapRuns:
    async def test_input_and_output(self, sandbox: Sandbox) -> None:
        code = "import sys\nprint(sys.stdin.read().upper())\nprint('ü', file=sys.stderr)\nsys.exit(3)"
        outcome = await sandbox.run(code, stdin="hällo".encode())
        assert (outcome.stdout.decode(), outcome.stderr.decode()) == ("HÄLLO\n", "ü\n")
        assert (outcome.status, outcome.ended) == (3, "itself")

    async def test_an_error_is_shown_with_its_line(self, sandbox: Sandbox) -> None:
        outcome = await sandbox.run("x = 1\n1 / 0")
        assert outcome.status == 1
        assert b'File "program.py", line 2' in outcome.stderr
        assert b"ZeroDivisionError" in outcome.stderr

    async def test_it_is_a_main_program(self, sandbox: Sandbox) -> None:
        code = "import dataclasses\n@dataclasses.dataclass\nclass A: x: int\nif __name__ == '__main__': print(A(1))"
        assert (await sandbox.run(code)).stdout == b"A(x=1)\n"

    async def test_its_own_files(self, sandbox: Sandbox) -> None:
        code = (
            "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write('a'); f.seek(0); print(f.read())\n"
        )
        assert (await sandbox.run(code)).stdout == b"a\n"

    def test_user_namespaces_are_forbidden(self) -> None:
        before = "open('/proc/sys/user/max_user_namespaces', 'w').write('0')"
        assert "max_user_namespaces" in checked(before, "unshare", "--user", "--map-root-user")

    @pytest.mark.parametrize(
        ("forbidden", "advice"), [(("unshare", "clone3", "clone"), "user namespaces"), (("mount",), "forbids mounts")]
    )
    def test_a_container_forbids_them(self, forbidden: tuple[str, ...], advice: str) -> None:
        before = f"""
import pyseccomp
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
for name in {forbidden!r}:
    new_user = [pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 0x10000000, 0x10000000)] if name == "clone" else []
    rules.add_rule(pyseccomp.ERRNO(38 if name == "clone3" else 13 if name == "mount" else 1), name, *new_user)
rules.load()
"""
        assert advice in checked(before)

    async def test_control_groups(self) -> None:
        parents = [Path("/sys/fs/cgroup") / each for each in ("memory", "pids")]
        if not all(os.access(each / "cgroup.procs", os.W_OK) for each in parents):
            pytest.skip("no hierarchies of version 1 to write to; version 2 needs an operator's folder")
        folders = [each / f"router-test-{os.getpid()}" for each in parents]
        for each in folders:
            each.mkdir()
        try:
            sandbox = Sandbox(allow_code=True, cgroups=[str(each) for each in folders])
            running = sandbox.run("print(1)\nimport time\ntime.sleep(1)", limits=Limits(wall_seconds=60))
            task = asyncio.ensure_future(running)
            while not (groups := [each for folder in folders for each in folder.glob("code-*")]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert all((each / "cgroup.procs").read_text().split() for each in groups)
            assert (await task).stdout == b"1\n"
            assert not [each for folder in folders for each in folder.glob("code-*")]
        finally:
            for each in folders:
                each.rmdir()

    def test_another_interpreter(self) -> None:
        """The system's, which any user can read: root's code runs as nobody then, and may start threads."""
        python = "/usr/bin/python3"
        try:
            sandbox = Sandbox(allow_code=True, python=python)
        except MissingDependency as error:
            pytest.skip(str(error))
        assert sandbox.threads
        code = "import sys, threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\nprint(sys.version)"
        asked = subprocess.run(
            [python, "-c", "print()\nimport sys\nprint(sys.version)"], capture_output=True, check=True
        )
        assert asyncio.run(sandbox.run(code)).stdout == asked.stdout
