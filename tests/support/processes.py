"""Starts servers in processes of their own, as a person would."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

HERE = (sys.executable, "-m", "router.cli")


@dataclass(frozen=True)
class Served:
    """A running server. ``address``: host:port of gRPC; ``url``: of HTTP, if it is served.

    ``process`` may be signalled, read and waited for.
    """

    process: subprocess.Popen[str]
    address: str
    url: str = ""


@contextmanager
def serve(
    *arguments: str | PathLike[str], router: Sequence[str | PathLike[str]] = HERE, **popen: Any
) -> Iterator[Served]:
    """Run `router serve` on a free port, and end it whatever happens. ``popen``: as for :class:`subprocess.Popen`."""
    command = [*router, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **popen) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"serving \S+ on (\S+)\n", line)
            assert found, f"the server said {line!r}"
            url = process.stdout.readline() if "--http" in arguments else ""
            yield Served(process, found[1], url.removeprefix("serving ").strip())
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
