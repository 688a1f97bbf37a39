"""Control groups: limits on all processes of one run together, including memory that the kernel keeps for them."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from router.errors import MissingDependency

_JOIN = 'for group in $0; do echo 0 > "$group/cgroup.procs" || exit 125; done; exec "$@"'
_PATIENCE_SECONDS = 5.0


class ControlGroups:
    """One new group in each of the folders, which the operator made and which this process may write to.

    With version 2 of the kernel's interface there is one folder; its own and its parent's ``cgroup.subtree_control``
    must name ``memory`` and ``pids``. With version 1 there is one folder per hierarchy. Raises MissingDependency.
    """

    def __init__(self, folders: Sequence[str], memory_bytes: int, processes: int):
        self._groups = [Path(folder) / f"code-{uuid4().hex}" for folder in folders]
        written = set()
        try:
            for group in self._groups:
                group.mkdir()
                for name, value in (
                    ("memory.max", memory_bytes),
                    ("memory.swap.max", 0),
                    ("memory.limit_in_bytes", memory_bytes),
                    ("pids.max", processes),
                ):
                    if (group / name).exists():
                        (group / name).write_text(str(value))
                        written.add(name)
        except OSError as error:
            self.remove()
            raise MissingDependency(f"no control group can be made there: {error}") from error
        if folders and not ("pids.max" in written and written & {"memory.max", "memory.limit_in_bytes"}):
            self.remove()
            raise MissingDependency(f"{', '.join(folders)}: memory and pids are not both controlled there")

    def command(self, command: Sequence[str], user: int | None) -> list[str]:
        """Return a command that joins the groups, becomes that user, and then runs the given command."""
        if not self._groups:
            return list(command)
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return ["sh", "-c", _JOIN, " ".join(map(str, self._groups)), *become, *command]

    def remove(self) -> None:
        """Kill what is left in the groups and remove them. May sleep."""
        end = time.monotonic() + _PATIENCE_SECONDS
        for group in self._groups:
            if (group / "cgroup.kill").exists():
                (group / "cgroup.kill").write_text("1")
            while group.exists() and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    group.rmdir()  # its files are the kernel's and need no removal
                    break
                time.sleep(0.01)  # killed processes are gone soon
