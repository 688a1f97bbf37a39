"""How much memory keys and values may take: a setting, by default what is free, less a reserve."""

from pathlib import Path

RESERVE = 2 * 2**30  # bytes left to everything else in the process and on the machine
_CGROUP = Path("/sys/fs/cgroup")


def free() -> int:
    """Bytes that this process may still take: by its cgroup's limit, where there is one, else the machine's."""
    found = [_available()]
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
            found.append(int(limit) - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # no cgroup, or one of the first version
    return max(0, min(found))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**33


def budget(given: float | None) -> int:
    """Bytes for keys and values. ``given``: GiB; None: half of what is free now, less :data:`RESERVE`."""
    if given is not None:
        return int(given * 2**30)
    return max(2**28, (free() - RESERVE) // 2)
