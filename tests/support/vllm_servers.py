"""Real vLLM servers for tests, started from .venv-vllm when first needed, and stopped at the end.

An address in TEST_VLLM_GENERATOR_URL or TEST_VLLM_VERIFIER_URL is used instead of starting one.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support import tiny_models as tiny

ROOT = Path(__file__).parent.parent.parent
# Started as a module, since the CPU build's `vllm` command looks for a package of that name, and finds none.
VLLM = [str(ROOT / ".venv-vllm" / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
BUNDLE = ROOT / "models" / "smollm2-135m"
START_SECONDS = 900
COMMON = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--enable-prompt-tokens-details"]
COMMON += ["--block-size", "32"]  # only whole blocks are cached, and the CPU's 128 tokens are longer than our prompts


@dataclass(frozen=True)
class Servers:
    """The servers' URLs, and folders of models.

    generator   serves the embedded model, the bundle's adapter under its name, and one of random weights as "reviser"
    verifier    serves a tiny Qwen2.5-Math-PRM
    likelihood  serves the bundle's verifier, merged
    """

    generator: str
    verifier: str
    likelihood: str
    embedded: Path
    tiny_prm: Path

    async def idle(self) -> None:
        """Wait until the generator works on nothing."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            for _ in range(600):
                metrics = (await client.get(f"{self.generator}/metrics")).text
                busy = re.findall(r"^vllm:num_requests_(?:running|waiting)\S* (\S+)$", metrics, re.M)
                if busy and not any(map(float, busy)):
                    return
                await asyncio.sleep(0.1)
        raise AssertionError("the engine still works on what was cancelled")


def start(folder: Path, stack: ExitStack) -> Servers:
    """Start all servers, until ``stack`` is closed. ``folder``: for the tiny model and the servers' logs."""
    from router.backends.in_process.weights import merge, model_folder
    from router.backends.specs import EMBEDDED

    embedded = Path(model_folder(EMBEDDED))
    tiny_prm = tiny.qwen_math_prm(folder / "tiny-prm")
    reviser = tiny.random_adapter(folder / "reviser", like=BUNDLE / "generator")
    writing = ["--enable-lora", "--max-lora-rank", "8", "--max-loras", "2"]
    writing += ["--lora-modules", f"generator={BUNDLE / 'generator'}", f"reviser={reviser}"]
    # On a CPU, vLLM 0.32 crashes at a seeded request whose prompt it reads in two parts.
    writing += ["--no-enable-chunked-prefill"]
    started: dict[str, subprocess.Popen[bytes]] = {}

    def serve(model: Path, options: list[str]) -> str:
        url, process = _serve(model, options, folder, stack)
        started[url] = process
        return url

    generator = os.environ.get("TEST_VLLM_GENERATOR_URL") or serve(embedded, writing)
    # The published model's tag has an id that vLLM knows; in the tiny tokenizer it has another one.
    pooler = json.dumps({"pooling_type": "STEP", "step_tag_id": tiny.QWEN_TAG_ID})
    pooling = ["--runner", "pooling", "--pooler-config", pooler]
    verifier = os.environ.get("TEST_VLLM_VERIFIER_URL") or serve(tiny_prm, pooling)
    merge(EMBEDDED, BUNDLE / "verifier", folder / "merged")
    likelihood = serve(folder / "merged", ["--served-model-name", "verifier"])
    for url in (generator, verifier, likelihood):
        _wait(url, started.get(url), folder)
    return Servers(generator, verifier, likelihood, embedded, tiny_prm)


@contextmanager
def serving(model: Path, name: str, folder: Path) -> Iterator[str]:
    """The address of a server of one model under a name, in bfloat16, while it runs. folder: for its log."""
    with ExitStack() as stack:
        options = ["--served-model-name", name, "--dtype", "bfloat16", "--no-enable-chunked-prefill"]
        url, process = _serve(model, options, folder, stack)
        _wait(url, process, folder)
        yield url


def _serve(model: Path, options: list[str], folder: Path, stack: ExitStack) -> "tuple[str, subprocess.Popen[bytes]]":
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",  # beside other tests two threads wait for each other: 2 tokens a second, and 7 with one
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3600",  # so that a busy machine does not end the engine
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # compiling would take longer than all requests
        "HF_HUB_OFFLINE": "1",
    }
    command = [*VLLM, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *COMMON, *options]
    log = stack.enter_context((folder / f"{port}.log").open("wb"))
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    stack.callback(_stop, process)
    return f"http://127.0.0.1:{port}", process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes] | None", folder: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and (process is None or process.poll() is None):
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(1)
    logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
    raise AssertionError(f"{url} ended, or did not start within {START_SECONDS} s:\n{logs}")
