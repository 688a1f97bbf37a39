"""A real PostgreSQL for tests: a temporary cluster on a free loopback port. `make test-postgresql` installs it."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sql

USER = "postgres"  # PostgreSQL refuses to run as root; Debian's package makes this user


_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30  # bytes: several times what the tests' databases take


def _in_memory() -> Path | None:
    """Where files stay in memory, if there is room: a disk that is busy with a build may make a commit wait."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else None


class Cluster:
    """A cluster that runs from ``start`` to ``stop``; ``close`` removes it. ``database`` makes one, returns its URL."""

    def __init__(self) -> None:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian does not put it on the PATH
        self._programs = debian[-1] if debian else Path(shutil.which("initdb") or "initdb").parent
        self._folder = Path(tempfile.mkdtemp(prefix="router-postgresql-", dir=_in_memory()))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._numbers = count()
        data = str(self._folder / "data")
        self._run("initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        # No row of a test outlives the machine.
        durability = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        where = f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._control = ["pg_ctl", "--pgdata", data, "--wait", "--timeout", "120", "--log", str(self._folder / "log")]
        self._options = ["--options", f"{where} {durability}"]

    def start(self) -> None:
        self._run(*self._control, *self._options, "start")

    def stop(self) -> None:
        """Stop it, which breaks its clients' connections, as a restart or a crash does."""
        self._run(*self._control, "--mode", "fast", "stop")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def database(self) -> str:
        name = f"test{next(self._numbers)}"
        server = f"postgresql+psycopg://{USER}@127.0.0.1:{self._port}"
        engine = sql.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"{server}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        with (self._folder / "output").open("ab") as output:
            command = [str(self._programs / program), *arguments]
            done = subprocess.run(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **self._as,
            )
        if done.returncode:
            logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("[lo]*"))
            raise AssertionError(f"{program} failed:\n{logs}")
