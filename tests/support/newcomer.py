"""Runs the commands of docs/first-steps.md, as a newcomer types them."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import HERE

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data"
SECONDS = 1500  # time limit of one command, on a busy machine


def router(*words: object, url: str) -> str:
    """Run a command, and return what it prints, warnings included. The test fails where the command does."""
    environment = {**_environment(), "ROUTER_URL": f"small={url}"}
    command = [*HERE, *map(str, words)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def serving(folder: Path, *options: str, url: str) -> Iterator[str]:
    """Serve a bundle, and yield the base URL for OpenAI's clients."""
    command = [*HERE, "serve", "--bundle", str(folder), "--port", "0", "--http", "127.0.0.1:0", *options]
    environment = {**_environment(), "ROUTER_URL": f"small={url}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.fullmatch(r"serving (http://\S+/v1)\n", line):
                    yield found[1]
                    break
            else:
                raise AssertionError("the server ended before it served")
        finally:
            process.terminate()
            process.wait(timeout=60)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("ROUTER_")}
