"""How much memory keys and values may take: a setting, by default most of what is free. All models share it.

A quarter is for prefixes that later rounds continue, an equal part for each model. The rest goes to whoever computes.
"""

import ctypes
import threading
from contextlib import suppress
from pathlib import Path

import torch

RESERVE = 2 * 2**30  # bytes left to everything else in the process and on the machine
LEAST = 2**28  # bytes, however little is free
_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MACHINE = Path("/proc/meminfo")


class Pool:
    """Bytes for keys and values, shared by the models of this process that run on one device."""

    def __init__(self, given: float | None, device: torch.device | None = None):
        """``given``: GiB; None: see :func:`budget`, asked on first use, when all weights are loaded."""
        self._given, self._device = given, device
        self._total: int | None = None
        self._lock = threading.Lock()
        self.shares: list[Share] = []

    @property
    def total(self) -> int:
        with self._lock:
            if self._total is None:
                self._total = budget(self._given, self._device)
            return self._total

    def share(self, bytes_a_token: int) -> "Share":
        """A new member's. It leaves with ``close``."""
        share = Share(self, bytes_a_token)
        with self._lock:
            self.shares = [*self.shares, share]
        return share

    def leave(self, share: "Share") -> None:
        with self._lock:
            self.shares = [each for each in self.shares if each is not share]


class Share:
    """What one model may take. ``used``: bytes that it works with now, the kept prefixes aside."""

    def __init__(self, pool: Pool, bytes_a_token: int):
        self._pool = pool
        self.bytes_a_token = bytes_a_token
        self.used = 0

    @property
    def kept(self) -> int:
        """Tokens of prefixes that may be kept."""
        return self._pool.total // 4 // max(1, len(self._pool.shares)) // self.bytes_a_token

    @property
    def most(self) -> int:
        """Tokens to work with where nobody else does."""
        return self._pool.total * 3 // 4 // self.bytes_a_token

    @property
    def tokens(self) -> int:
        """Tokens to work with now."""
        others = sum(each.used for each in self._pool.shares if each is not self)
        return max(0, self._pool.total * 3 // 4 - others) // self.bytes_a_token

    def use(self, tokens: int) -> None:
        """Say how many are worked with from now on."""
        self.used = tokens * self.bytes_a_token

    def close(self) -> None:
        self.used = 0
        self._pool.leave(self)


_pools: dict[tuple[float | None, str], Pool] = {}


def pool(given: float | None, device: torch.device) -> Pool:
    """The process's own of this size, for this device."""
    key = given, str(device)
    if key not in _pools:
        _pools[key] = Pool(given, device)
    return _pools[key]


def budget(given: float | None, device: torch.device | None = None) -> int:
    """Bytes for keys and values. ``given``: GiB; None: three quarters of what is free now, less :data:`RESERVE`."""
    if given is not None:
        return int(given * 2**30)
    return max(LEAST, (free(device) - RESERVE) * 3 // 4)


def free(device: torch.device | None = None) -> int:
    """Bytes that this process may still take: of the GPU's memory, or by its cgroups' limits and the machine's."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, min([_machine(), *_cgroups()]))


def _machine() -> int:
    with suppress(OSError):
        for line in _MACHINE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 2**33


def _cgroups() -> list[int]:
    """What is left below the limit of each cgroup that this process is in, its own and those around it."""
    found = []
    try:
        lines = [line.split(":", 2) for line in _OWN.read_text().splitlines()]
    except OSError:
        return []
    for _, controllers, path in lines:
        base = _CGROUPS if not controllers else _CGROUPS / "memory"
        if controllers and "memory" not in controllers.split(","):
            continue
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(base):
                break
            names = ("memory.max", "memory.current", "inactive_file")
            if controllers:  # of the first version
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left = _left(folder, *names)
            if left is not None:
                found.append(left)
    return found


def _left(folder: Path, limit: str, current: str, cache: str) -> int | None:
    """Files that can be dropped do not count. None: no limit, or no such cgroup."""
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= 2**60:  # how the first version says that there is none
            return None
        used = int((folder / current).read_text())
        held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(most) - used + int(held.get(cache, 0))
    except (OSError, ValueError):
        return None


def trim() -> None:
    """Give freed memory back to the system: the C library keeps what lies between blocks that are in use."""
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
