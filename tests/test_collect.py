"""Collecting on the scripted backend: what an interruption leaves, and what the next run makes of it."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from router.backends.fake import FakeGenerator, FakeVerifier
from router.errors import EngineUnavailable, InvalidFile
from router.offline.attempts import read_attempts
from router.offline.collect import Unit, collect
from router.offline.prompts import Prompt
from strategies import Arm

PROMPTS = [Prompt(f"p{i}", f"{i} + 5 - 2 =", str(i + 3)) for i in range(6)]
UNITS = [Unit(prompt, arm, 4) for arm in (None, Arm("beam_search", 4, m=2)) for prompt in PROMPTS]


def run(out: Path, units=UNITS, generator=None, settings=None) -> list[Unit]:
    """Collect; return the units that were really run."""
    ran: list[Unit] = []
    collect(
        units,
        generator or FakeGenerator(),
        FakeVerifier(),
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


class DiesAfter(FakeGenerator):
    """An engine that breaks down after a number of calls."""

    calls_left = 5

    async def extend(self, *args, **kwargs):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise EngineUnavailable("gone")
        return await super().extend(*args, **kwargs)


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
    assert (torn["prompt_id"], torn["arm"]) in [unit.key for unit in run(out)]
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
        "import sys; from pathlib import Path; from tests.test_collect import UNITS, run, FakeGenerator;"
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
