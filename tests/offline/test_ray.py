"""Collecting on Ray, with two workers: the same attempts as in one process, whatever dies.

Workers and callers are processes of their own, as a user's are. Run by `make test-ray`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts
from router.cli.main import main

pytestmark = [pytest.mark.ray, pytest.mark.timeout(3600)]  # a busy machine starts a cluster in minutes

BUNDLE = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"  # what collect takes its engines from
PROMPTS = 12  # a shard
ARM = "beam_search(n=4, m=2)"
UNITS = 2 * PROMPTS  # a shard: pools and runs of the arm
PATIENCE = 900  # seconds

# Two nodes with room for one worker each, until its standard input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=options)
cluster.add_node(**options)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
# What `router collect --ray ADDRESS` does, on engines that take their time, or that break.
RUN = f"""
import sys
from pathlib import Path
from router.attempts.cluster import Stage, collect_shards
from router.backends.registry import load_engines
from router.backends.specs import Deployment
from router.bundle.setup import read_setup
from router.errors import InvalidRequest
from router.tasks import Tasks
from strategies import parse

def slow():
    folder = Path("{BUNDLE}")
    engines = load_engines(read_setup(folder), folder, Deployment(backends={{"": "fake"}}))
    engines.main.latency = 0.03
    return engines

def broken():
    raise InvalidRequest("backend", "broken in a worker", reason="UNSPECIFIED")

address, shards, out, load = sys.argv[1:]
stage = Stage({{None: 4}}, Tasks(), [parse("{ARM}")], 1, globals()[load], {{"seed": 0}}, seed=0, concurrency=8)
try:
    collect_shards(sorted(Path(shards).iterdir()), Path(out), stage, address=address, workers=2)
except InvalidRequest as error:
    sys.exit(f"{{error}}, field {{error.field}}")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address. Ray gives a node 30 seconds to start, which a busy machine may not have: then once more."""
    log = tmp_path_factory.mktemp("cluster") / "log"
    for _ in range(20):
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", CLUSTER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            )
        address = process.stdout.readline().strip()
        if address:
            break
        process.communicate()
    assert address, log.read_text()
    yield address
    process.communicate()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four files; their prompts have no ids."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(4):
        numbers = range(shard * PROMPTS, (shard + 1) * PROMPTS)
        rows = [{"prompt": f"{i} + 5 - 2 =", "reference": str(i + 3)} for i in numbers]
        (folder / f"s{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Run:
    """A process that collects; it ends with its test."""

    running: ClassVar[list["Run"]] = []

    def __init__(self, command: list[str], log: Path):
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen([sys.executable, *command], stdout=stream, stderr=stream)
        self.running.append(self)

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def until(self, met: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not met():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None or met(), self.log.read_text()
            time.sleep(0.02)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    while Run.running:
        process = Run.running.pop().process
        process.kill()
        process.wait()


def in_one_process(shards: Path, out: Path) -> Path:
    command = ["collect", "--backend", "fake", "--attempts", "4", "--arm", ARM, "--prompts", str(shards)]
    result = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def attempts(path: Path):
    return (
        read_attempts([path])
        .sort_values(["prompt_id", "arm", "sample"], ignore_index=True)
        .drop(columns=["seconds", "score_seconds"])
    )


def holders(file: Path) -> list[int]:
    """Processes that have the file open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == file:
                found.append(int(descriptor.parts[2]))
        except OSError:  # gone meanwhile
            continue
    return found


def test_shards_hold_the_attempts_of_a_single_process(cluster, shards, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["-m", "router.cli", "collect", "--backend", "fake", "--attempts", "4", "--arm", ARM]
    run = Run([*command, "--prompts", str(shards), "--ray", cluster, "--out", str(out)], log)
    assert run.wait() == 0, log.read_text()
    assert f"wrote {out}" in log.read_text()
    assert "Warning" not in log.read_text()
    assert sorted(file.name for file in out.iterdir()) == ["collect.json", *(f"s{i}.parquet" for i in range(4))]
    assert attempts(out).equals(attempts(in_one_process(shards, tmp_path / "single.parquet")))


def test_a_worker_that_is_killed_loses_and_doubles_nothing(cluster, shards, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    run = Run(["-c", RUN, cluster, str(shards), str(out), "slow"], log)
    journal = out / "s1.parquet.journal.jsonl"
    run.until(lambda: journal.exists() and journal.read_text().count("\n") > 2)
    (worker,) = holders(journal)
    os.kill(worker, signal.SIGKILL)
    finished = journal.read_text().count("\n") - 1
    assert worker != run.process.pid
    assert 0 < finished < UNITS
    assert run.wait() == 0, log.read_text()
    assert attempts(out).equals(attempts(in_one_process(shards, tmp_path / "single.parquet")))
    assert not list(out.glob("*.journal.jsonl"))


def test_a_run_that_is_killed_goes_on_where_it_stopped(cluster, shards, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["-c", RUN, cluster, str(shards), str(out), "slow"]
    run = Run(command, log)
    run.until(lambda: any(out.glob("*.parquet")))
    run.process.kill()
    run.wait()
    deadline = time.monotonic() + PATIENCE
    while any(holders(journal) for journal in out.glob("*.journal.jsonl")):  # until Ray notices, and ends its workers
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finished = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    assert 0 < len(finished) < 4
    started = time.time_ns()
    again = Run(command, log)
    assert again.wait() == 0, log.read_text()
    assert attempts(out).equals(attempts(in_one_process(shards, tmp_path / "single.parquet")))
    untouched = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet") if file.stat().st_mtime_ns < started}
    assert untouched == finished


def test_this_machine_is_cluster_enough(shards, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["-m", "router.cli", "collect", "--backend", "fake", "--attempts", "4", "--prompts", str(shards)]
    for _ in range(20):
        run = Run([*command, "--ray", "local", "--out", str(out)], log)
        if run.wait() == 0 or "timed out during startup" not in log.read_text():
            break
    assert f"wrote {out}" in log.read_text()
    assert len(attempts(out)) == 4 * PROMPTS * 4


def test_an_error_in_a_worker_arrives_as_it_is(cluster, shards, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    run = Run(["-c", RUN, cluster, str(shards), str(out), "broken"], log)
    assert run.wait() == 1
    assert log.read_text().splitlines() == ["broken in a worker, field backend"]


@pytest.mark.filterwarnings("ignore")
def test_no_cluster_is_a_clear_error(shards, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")

    def init(*args: object, **options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    command = ["collect", "--backend", "fake", "--prompts", str(shards), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*command, "--ray", "auto"])
    assert result.exit_code == 1
    assert "router: no Ray cluster at 'auto': Could not find any running Ray instance." in result.stderr
