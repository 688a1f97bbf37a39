"""How much memory keys and values may take: a setting, by default most of what is free. All models share it.

A quarter, split equally among the models, keeps prefixes that later rounds continue. The rest is for computing, for
whichever model works.
"""

import ctypes
import threading
from contextlib import suppress
from pathlib import Path

import torch

RESERVE = 2 * 2**30  # bytes left to everything else in the process and on the machine
LEAST = 2**28  # bytes that keys and values get, however little is free
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
        """Add a model to those that share the pool, and return its share. The share's ``close`` takes it out."""
        share = Share(self, bytes_a_token)
        with self._lock:
            self.shares = [*self.shares, share]
        return share

    def leave(self, share: "Share") -> None:
        with self._lock:
            self.shares = [each for each in self.shares if each is not share]


class Share:
    """One model's part of the pool. ``used``: bytes that it computes with now, without the kept prefixes."""

    def __init__(self, pool: Pool, bytes_a_token: int):
        self._pool = pool
        self.bytes_a_token = bytes_a_token
        self.used = 0

    @property
    def kept(self) -> int:
        """Return how many tokens of prefixes may be kept."""
        return self._pool.total // 4 // max(1, len(self._pool.shares)) // self.bytes_a_token

    @property
    def most(self) -> int:
        """Return how many tokens may be computed with while no other model works."""
        return self._pool.total * 3 // 4 // self.bytes_a_token

    @property
    def tokens(self) -> int:
        """Return how many tokens may be computed with now."""
        others = sum(each.used for each in self._pool.shares if each is not self)
        return max(0, self._pool.total * 3 // 4 - others) // self.bytes_a_token

    def use(self, tokens: int) -> None:
        """Record how many tokens are computed with from now on."""
        self.used = tokens * self.bytes_a_token

    def close(self) -> None:
        self.used = 0
        self._pool.leave(self)


_pools: dict[tuple[float | None, str], Pool] = {}


def pool(given: float | None, device: torch.device) -> Pool:
    """Return the process's pool of this size (GiB) for this device; equal arguments give the same pool."""
    key = given, str(device)
    if key not in _pools:
        _pools[key] = Pool(given, device)
    return _pools[key]


def budget(given: float | None, device: torch.device | None = None) -> int:
    """Return bytes for keys and values: ``given`` GiB, or three quarters of what is free, less :data:`RESERVE`."""
    if given is not None:
        return int(given * 2**30)
    return max(LEAST, (free(device) - RESERVE) * 3 // 4)


def free(device: torch.device | None = None) -> int:
    """Return the bytes that this process may still take: the GPU's, or the least of its cgroups' and the machine's."""
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
    """Return the bytes left below the limit of each cgroup that this process is in: its own and its parents."""
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
            if controllers:  # cgroups version 1
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left = _left(folder, *names)
            if left is not None:
                found.append(left)
    return found


def _left(folder: Path, limit: str, current: str, cache: str) -> int | None:
    """Return the bytes left in a cgroup, where droppable file caches count as free; None without limit or cgroup."""
    try:
        most = (folder / limit).read_text().strip()
        if most == "max" or int(most) >= 2**60:  # version 1 writes a huge number for no limit
            return None
        used = int((folder / current).read_text())
        held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(most) - used + int(held.get(cache, 0))
    except (OSError, ValueError):
        return None


def trim() -> None:
    """Give freed memory back to the system. The C library keeps freed blocks that lie between used ones."""
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
