"""Collecting: what an interruption leaves, what the next run makes of it, and how much is under way at once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from router.attempts.collect import Unit, collect
from router.attempts.prompts import Prompt
from router.attempts.schema import read_attempts
from router.backends import Engines, LogProbability
from router.backends.fake import FakeGenerator, FakeVerifier
from router.errors import EngineUnavailable, InvalidFile, InvalidRequest
from strategies import BeamSearch, Majority, Revision, Single
from tests.support.fake_vllm import FakeVllm

ROOT = Path(__file__).parent.parent.parent
PROMPTS = [Prompt(f"p{i}", f"{i} + 5 - 2 =", str(i + 3)) for i in range(6)]
UNITS = [Unit(prompt, arm, 4) for arm in (None, BeamSearch(n=4, m=2)) for prompt in PROMPTS]


def run(out: Path, units=UNITS, generator=None, settings=None) -> list[Unit]:
    """Collect; return the units that were really run."""
    ran: list[Unit] = []
    collect(
        units,
        lambda: Engines(generator or FakeGenerator(), FakeVerifier(), FakeGenerator(parameters=2_500)),
        out,
        settings=settings or {"seed": 0},
        concurrency=8,  # two units: an interruption finds some finished, some under way and some not begun
        on_unit=lambda unit, tokens: ran.append(unit),
    )
    return ran


def test_rows_are_the_pool_and_the_runs_with_their_bills(tmp_path):
    out = tmp_path / "attempts.parquet"
    run(out)
    frame = read_attempts([out])
    assert Counter(frame["arm"]) == {"sample": 24, "beam_search(n=4, m=2)": 6}
    pool = frame[(frame["prompt_id"] == "p1") & (frame["arm"] == "sample")]
    assert pool["sample"].tolist() == [0, 1, 2, 3]
    assert (pool["correct"] == (pool["answer"] == "4")).all()
    assert pool["scores"].map(len).tolist() == pool["text"].str.split("\n").map(len).tolist()
    beam = frame[frame["arm"] != "sample"].iloc[0]
    assert beam["generated_tokens"] > len(beam["text"])  # the whole search's bill, not the winner's
    assert beam["scored_tokens"] > beam["generated_tokens"]  # each round reads the whole path again


class Seeded(FakeGenerator):
    """Remembers what it was asked to draw from."""

    def __init__(self):
        super().__init__()
        self.seeds: list[tuple[str, int]] = []

    async def extend(self, prompt, *args, seed, **kwargs):
        self.seeds.append((prompt, seed))
        return await super().extend(prompt, *args, seed=seed, **kwargs)


def test_an_arm_that_is_to_run_more_often_gets_the_missing_runs(tmp_path):
    out, arm = tmp_path / "attempts.parquet", BeamSearch(n=4, m=2)
    run(out)
    first = read_attempts([out])
    more = [Unit(prompt, arm, 4, sample) for sample in range(3) for prompt in PROMPTS]
    generator = Seeded()
    assert {unit.sample for unit in run(out, more, generator)} == {1, 2}
    assert len(generator.seeds) == len(set(generator.seeds))  # each run is drawn anew
    frame = read_attempts([out])
    runs = frame[frame["arm"] == str(arm)]
    assert runs.groupby("prompt_id")["sample"].apply(list).tolist() == [[0, 1, 2]] * len(PROMPTS)
    assert frame.drop(runs.index[runs["sample"] > 0]).reset_index(drop=True).equals(first)


class DiesAfter(FakeGenerator):
    """An engine that breaks down after a number of calls."""

    calls_left = 5

    async def extend(self, *args, **kwargs):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise EngineUnavailable("gone")
        return await super().extend(*args, **kwargs)


def scripted() -> Engines:
    return Engines(FakeGenerator(), FakeVerifier())


def dying() -> Engines:
    os._exit(3)


def broken() -> Engines:
    return Engines(DiesAfter(), FakeVerifier())


def test_workers_share_the_units_and_draw_the_same_attempts(tmp_path):
    run(tmp_path / "one.parquet")
    finished: list[tuple[Unit, int]] = []
    collect(
        UNITS,
        scripted,
        tmp_path / "two.parquet",
        settings={},
        concurrency=8,
        workers=2,
        on_unit=lambda unit, tokens: finished.append((unit, tokens)),
    )
    one, two = (read_attempts([tmp_path / f"{name}.parquet"]) for name in ("one", "two"))
    assert one.equals(two)
    assert {unit for unit, _ in finished} == set(UNITS)
    assert sum(tokens for _, tokens in finished) == two["generated_tokens"].sum()
    assert [file.name for file in tmp_path.iterdir() if "journal" in file.name] == []


def test_a_torn_line_costs_its_unit_and_the_next(tmp_path):
    out, journal = tmp_path / "a.parquet", tmp_path / "a.parquet.journal.jsonl"
    generator = DiesAfter()
    generator.calls_left = 12
    with pytest.raises(EngineUnavailable):
        run(out, generator=generator)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 4
    journal.write_bytes(b"".join([*lines[:2], lines[2][:40], *lines[3:], b'{"prompt_id": "p']))
    assert len(run(out)) == len(UNITS) - (len(lines) - 3)
    run(tmp_path / "whole.parquet")
    assert read_attempts([out]).equals(read_attempts([tmp_path / "whole.parquet"]))


def test_workers_end_that_needed_a_process_to_compare_answers(tmp_path):
    units = [Unit(replace(prompt, reference="x + 1"), None, 2) for prompt in PROMPTS]
    collect(units, scripted, tmp_path / "a.parquet", settings={}, concurrency=8, workers=2)
    assert not read_attempts([tmp_path / "a.parquet"])["correct"].any()


@pytest.mark.parametrize(("load", "says"), [(dying, "2 of 2 workers died"), (broken, "gone")])
def test_what_ends_a_worker_ends_the_run_and_loses_nothing(tmp_path, load, says):
    out = tmp_path / "a.parquet"
    with pytest.raises(EngineUnavailable, match=says):
        collect(UNITS, load, out, settings={"seed": 0}, concurrency=8, workers=2)
    kept = (tmp_path / "a.parquet.journal.jsonl").read_text().count("\n") - 1
    assert len(run(out)) == len(UNITS) - kept
    run(tmp_path / "whole.parquet")
    assert read_attempts([out]).equals(read_attempts([tmp_path / "whole.parquet"]))


def test_the_larger_model_is_run_where_its_arm_is_named(tmp_path):
    run(tmp_path / "a.parquet", [Unit(PROMPTS[1], Single(model="large"), 4)])
    (row,) = read_attempts([tmp_path / "a.parquet"]).to_dict("records")
    assert (row["arm"], row["sample"], row["answer"], row["correct"]) == ("larger_model(n=3)", 0, "4", True)


def test_a_run_goes_on_where_the_last_one_stopped(tmp_path):
    out = tmp_path / "attempts.parquet"
    whole = tmp_path / "whole.parquet"
    run(whole)
    with pytest.raises(EngineUnavailable):
        run(out, generator=DiesAfter())
    assert not out.exists()
    kept = (tmp_path / "attempts.parquet.journal.jsonl").read_text().count("\n") - 1
    ran = run(out)
    assert 0 < kept < len(UNITS)
    assert len(ran) == len(UNITS) - kept
    # A resumed run draws the same samples: the file is the one an uninterrupted run writes.
    assert read_attempts([out]).equals(read_attempts([whole]))
    assert not list(tmp_path.glob("*.journal*"))


def test_a_torn_last_line_is_run_again(tmp_path):
    out = tmp_path / "attempts.parquet"
    with pytest.raises(EngineUnavailable):
        run(out, generator=DiesAfter())
    journal = tmp_path / "attempts.parquet.journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    torn = json.loads(lines[-1])
    assert (torn["prompt_id"], torn["arm"], 0) in [unit.key for unit in run(out)]
    assert len(read_attempts([out])) == 30


def test_a_finished_file_takes_further_arms(tmp_path):
    out = tmp_path / "attempts.parquet"
    run(out, UNITS[:6])
    assert {unit.key for unit in run(out, UNITS)} == {unit.key for unit in UNITS[6:]}
    assert run(out, UNITS) == []
    assert len(read_attempts([out])) == 30


def test_a_kill_before_the_journal_is_removed_doubles_nothing(tmp_path):
    out = tmp_path / "attempts.parquet"
    journal = tmp_path / "attempts.parquet.journal.jsonl"
    with pytest.raises(EngineUnavailable):
        run(out, generator=DiesAfter())
    kept = journal.read_bytes()
    run(out)
    journal.write_bytes(kept)
    assert run(out) == []
    assert len(read_attempts([out])) == 30


def test_pools_of_another_size_are_not_mixed(tmp_path):
    out = tmp_path / "attempts.parquet"
    run(out)
    with pytest.raises(InvalidFile, match=r"4 attempts.*8 were asked"):
        run(out, [Unit(PROMPTS[0], None, 8)])


def test_a_journal_of_other_settings_is_not_continued(tmp_path):
    out = tmp_path / "attempts.parquet"
    with pytest.raises(EngineUnavailable):
        run(out, generator=DiesAfter())
    with pytest.raises(InvalidFile, match="other settings"):
        run(out, settings={"seed": 1})
    assert len(run(out)) > 0  # and is still there for its own run


@pytest.mark.parametrize("delay", [0.3, 0.8])
def test_kill_9_loses_and_repeats_nothing(tmp_path, delay):
    out = tmp_path / "attempts.parquet"
    journal = tmp_path / "attempts.parquet.journal.jsonl"
    script = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r});"
        "from tests.offline.test_collect import run, FakeGenerator;"
        "run(Path(sys.argv[1]), generator=FakeGenerator(latency=0.005))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(out)])
    deadline = time.monotonic() + 60
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Whole lines are finished work, also when the kill came after the last of them.
    before = [json.loads(line) for line in journal.read_text().split("\n")[1:-1]] if journal.exists() else UNITS
    ran = run(out)
    assert len(ran) + len(before) == len(UNITS)
    assert len(read_attempts([out])) == 30


def slow() -> Engines:
    return Engines(FakeGenerator(latency=0.5), FakeVerifier())


def test_workers_end_with_the_process_that_began_them(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r});"
        "from pathlib import Path;"
        "from tests.offline.test_collect import UNITS, collect, slow;"
        "collect(UNITS, slow, Path(sys.argv[1]), settings={}, concurrency=8, workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.parquet")])
    deadline = time.monotonic() + 60
    workers: list[psutil.Process] = []
    while len(workers) < 2 and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


# How much is under way


class Patient(FakeVllm):
    """A server that answers only while it is full, or has been asked for everything, and then the oldest request."""

    def __init__(self, full: int, samples: int):
        super().__init__()
        self.full = full
        self.to_come = samples
        self.queue: deque[asyncio.Event] = deque()

    async def _begun(self, body: dict) -> None:
        self.to_come -= body["n"]
        turn = asyncio.Event()
        self.queue.append(turn)
        if self.writing == self.full or not self.to_come:
            self.queue.popleft().set()
        await turn.wait()

    def _ended(self) -> None:
        if self.queue and not self.to_come:
            self.queue.popleft().set()


@pytest.mark.timeout(120)
def test_a_server_is_kept_full_until_nothing_is_left(tmp_path):
    """Were it ever left with less than it may have while there is work, it would wait for ever."""
    units = [Unit(Prompt(f"p{i}", f"{i} + 5 - 2 ="), None, 4) for i in range(40)]
    server = Patient(full=16, samples=160)
    collect(
        units,
        lambda: Engines(server.generator(), LogProbability()),
        tmp_path / "a.parquet",
        settings={},
        concurrency=16,
    )
    assert server.most == (4, 16)
    assert len(read_attempts([tmp_path / "a.parquet"])) == 160


def test_no_more_is_asked_of_a_server_than_was_said(tmp_path):
    """Beam search has its own request for each path; the narrow fills the room that the wide leaves."""
    arms = [None, BeamSearch(n=6, m=2), Single(), Revision(n=4, chains=2), Majority(n=3)]
    units = [Unit(Prompt(f"p{i}", f"{i} + 5 - 2 + 3 ="), arm, 4) for i in range(12) for arm in arms]
    server = FakeVllm(latency=0.001)
    collect(
        units,
        lambda: Engines(server.generator(), LogProbability()),
        tmp_path / "a.parquet",
        settings={},
        concurrency=10,
    )
    requests, samples = server.most
    assert 4 <= requests <= samples <= 10
    assert samples >= 8


def test_a_unit_that_is_wider_than_all_room_is_refused(tmp_path):
    units = [*UNITS, Unit(PROMPTS[0], Majority(n=9), 0)]
    with pytest.raises(
        InvalidRequest, match=r"8 attempts at the same time, and majority\(n=9\) needs 9; raise it"
    ) as raised:
        run(tmp_path / "a.parquet", units)
    assert raised.value.field == "concurrency"


class Long(FakeGenerator):
    """Writes 20,000 characters a sample at once."""

    async def extend(self, prompt, paths, **options):
        await asyncio.sleep(0)
        text = f"{prompt}\n".ljust(20_000, ".")
        return [
            replace(path, steps=(text,), tokens=(1,), token_counts=(1,), log_probs=(-1.0,), end="stop")
            for path in paths
        ]


def test_memory_does_not_grow_with_what_was_collected(tmp_path):
    units = [Unit(Prompt(f"p{i}", f"{i} + 5 ="), None, 4) for i in range(300)]
    held, tasks = [], []

    def on_unit(unit: Unit, tokens: int) -> None:
        held.append(tracemalloc.get_traced_memory()[0])
        tasks.append(len(asyncio.all_tasks()))

    tracemalloc.start()
    try:
        collect(
            units,
            lambda: Engines(Long(), LogProbability()),
            tmp_path / "a.parquet",
            settings={},
            concurrency=16,
            on_unit=on_unit,
        )
    finally:
        tracemalloc.stop()
    assert len(held) == 300
    assert held[-1] - held[20] < 2_000_000  # of 22 million characters
    assert max(tasks) <= 16 // 4 + 1  # a unit is begun when there is room for it
