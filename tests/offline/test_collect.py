"""Collecting: what an interruption leaves, and what the next run makes of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest

from router.attempts.collect import Unit, collect
from router.attempts.journal import different, named
from router.attempts.prompts import Problem
from router.attempts.schema import read_attempts
from router.backends import Engines, Generator
from router.backends.fake import FakeGenerator, FakeVerifier
from router.errors import EngineUnavailable, InvalidFile
from router.prompt import Prompt
from router.tuning.evidence import evidence
from strategies import BeamSearch, Single, parse

ROOT = Path(__file__).parent.parent.parent


def problem(i: int, text: str = "{i} + 5 - 2 =", reference: str | None = None) -> Problem:
    return Problem(f"p{i}", Prompt.of(text.format(i=i)), reference)


PROBLEMS = [problem(i, reference=str(i + 3)) for i in range(6)]
UNITS = [Unit(each, arm, 4) for arm in (None, BeamSearch(n=4, m=2)) for each in PROBLEMS]


def engines(generator: Generator | None = None, verifier=None, **models: Generator) -> Engines:
    return Engines({"small": generator or FakeGenerator(), **models}, "small", verifier or FakeVerifier())


def run(out: Path, units=UNITS, generator=None, settings=None) -> list[Unit]:
    """Collect; return the units that were really run."""
    ran: list[Unit] = []
    collect(
        units,
        lambda: engines(generator, large=FakeGenerator(parameters=2_500)),
        out,
        settings=settings or {"seed": 0},
        concurrency=8,  # two units: an interruption finds some finished, some under way and some not begun
        on_unit=lambda unit, tally: ran.append(unit),
    )
    return ran


def untimed(frame: pd.DataFrame) -> pd.DataFrame:
    """Two runs of the same take different seconds."""
    return frame.drop(columns=["seconds", "score_seconds"])


def test_the_seconds_of_a_pool_are_each_attempts_and_those_of_a_run_its_own(tmp_path):
    class Slow(FakeGenerator):
        async def extend(self, *args, **kwargs):
            await asyncio.sleep(0.05)
            return await super().extend(*args, **kwargs)

    run(tmp_path / "attempts.parquet", UNITS[:1] + UNITS[-1:], generator=Slow())
    frame = read_attempts([tmp_path / "attempts.parquet"])
    pool, beam = (frame.loc[frame["arm"] == arm, "seconds"] for arm in ("sample", "beam_search(n=4, m=2)"))
    assert pool.nunique() == 1
    assert pool.iloc[0] >= 0.05
    assert beam.iloc[0] >= 0.1  # several steps


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
    assert beam["scored_tokens"] > beam["generated_tokens"]  # each round reads the whole candidate again


def test_the_mean_log_probability_of_a_token_is_kept_where_the_engine_says_it(tmp_path):
    class Silent(FakeGenerator):
        async def extend(self, *args, **kwargs):
            return [replace(each, log_probs=()) for each in await super().extend(*args, **kwargs)]

    for name, generator in (("told", FakeGenerator()), ("silent", Silent())):
        run(tmp_path / f"{name}.parquet", UNITS[:1], generator=generator)
    told, silent = (read_attempts([tmp_path / f"{name}.parquet"])["log_prob"] for name in ("told", "silent"))
    assert (told < 0).all()
    assert silent.isna().all()


class Seeded(FakeGenerator):
    """Remembers what it was asked to draw from."""

    def __init__(self):
        super().__init__()
        self.seeds: list[tuple[Prompt, int]] = []

    async def extend(self, prompt, *args, seed, **kwargs):
        self.seeds.append((prompt, seed))
        return await super().extend(prompt, *args, seed=seed, **kwargs)


def test_an_arm_that_is_to_run_more_often_gets_the_missing_runs(tmp_path):
    out, arm = tmp_path / "attempts.parquet", BeamSearch(n=4, m=2)
    run(out)
    first = read_attempts([out])
    more = [Unit(problem, arm, 4, sample) for sample in range(3) for problem in PROBLEMS]
    generator = Seeded()
    assert {unit.sample for unit in run(out, more, generator)} == {1, 2}
    assert len(generator.seeds) == len(set(generator.seeds))  # each run is drawn anew
    frame = read_attempts([out])
    runs = frame[frame["arm"] == str(arm)]
    assert runs.groupby("prompt_id")["sample"].apply(list).tolist() == [[0, 1, 2]] * len(PROBLEMS)
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
    return engines()


def dying() -> Engines:
    os._exit(3)


def broken() -> Engines:
    return engines(DiesAfter())


@pytest.mark.processes
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
        on_unit=lambda unit, tally: finished.append((unit, tally.tokens)),
    )
    one, two = (read_attempts([tmp_path / f"{name}.parquet"]) for name in ("one", "two"))
    assert untimed(one).equals(untimed(two))
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
    assert untimed(read_attempts([out])).equals(untimed(read_attempts([tmp_path / "whole.parquet"])))


@pytest.mark.processes
def test_workers_end_that_needed_a_process_to_compare_answers(tmp_path):
    units = [Unit(replace(problem, reference="x + 1"), None, 2) for problem in PROBLEMS]
    collect(units, scripted, tmp_path / "a.parquet", settings={}, concurrency=8, workers=2)
    assert not read_attempts([tmp_path / "a.parquet"])["correct"].any()


@pytest.mark.processes
@pytest.mark.parametrize(("load", "says"), [(dying, "2 of 2 workers died"), (broken, "gone")])
def test_what_ends_a_worker_ends_the_run_and_loses_nothing(tmp_path, load, says):
    out = tmp_path / "a.parquet"
    with pytest.raises(EngineUnavailable, match=says):
        collect(UNITS, load, out, settings={"seed": 0}, concurrency=8, workers=2)
    kept = (tmp_path / "a.parquet.journal.jsonl").read_text().count("\n") - 1
    assert len(run(out)) == len(UNITS) - kept
    run(tmp_path / "whole.parquet")
    assert untimed(read_attempts([out])).equals(untimed(read_attempts([tmp_path / "whole.parquet"])))


def test_another_model_is_run_where_its_arm_or_its_pool_is_named(tmp_path):
    units = [Unit(PROBLEMS[1], Single(model="large"), 4), Unit(PROBLEMS[1], None, 4, model="large")]
    run(tmp_path / "a.parquet", units)
    frame = read_attempts([tmp_path / "a.parquet"])
    assert Counter(frame["arm"]) == {"single(model=large)": 1, "sample(model=large)": 4}
    single = frame[frame["arm"] == "single(model=large)"].iloc[0]
    assert (single["sample"], single["answer"], single["correct"], single["usage"]) == (0, "4", True, None)
    assert frame[frame["arm"] == "sample(model=large)"]["scores"].notna().all()


def test_a_run_that_asks_several_models_has_its_bill_by_model(tmp_path):
    cascade = parse("majority(n=2) @1 > single(model=large)")
    run(tmp_path / "a.parquet", [Unit(each, cascade, 4) for each in PROBLEMS])
    for row in read_attempts([tmp_path / "a.parquet"]).to_dict("records"):
        lines = {(line["model"], line["role"]): line for line in row["usage"]}
        assert set(lines) == {("small", "generator"), ("verifier", "verifier"), ("large", "generator")}
        for column in ("prompt_tokens", "generated_tokens", "scored_tokens"):
            assert row[column] == sum(line[column] for line in lines.values())
        assert lines["large", "generator"]["generated_tokens"] > 0


def test_what_an_arm_returned_is_scored_so_that_a_cascade_can_be_replayed_from_its_runs(tmp_path):
    out, cascade = tmp_path / "a.parquet", parse("single @0.7 > majority(n=2)")
    run(out, [Unit(each, arm, 4) for each in PROBLEMS for arm in (None, Single())])
    frame = read_attempts([out])
    single = frame[frame["arm"] == "single"].set_index("prompt_id")
    assert single["scored_tokens"].tolist() == [0] * len(PROBLEMS)  # scoring it was no part of the arm
    for prompt_id, points in evidence(frame, [1, 2], reference="small", arms=[cascade]).items():
        row, point = single.loc[prompt_id], points[cascade]
        assert point.scored_tokens == row["prompt_tokens"] + row["generated_tokens"]
        believed = row["scores"][-1] >= 0.7
        assert (point.generated_tokens["small"] == row["generated_tokens"]) == believed
        assert point.accuracy == (float(row["correct"]) if believed else points[parse("majority(n=2)")].accuracy)


def test_all_messages_of_a_prompt_are_kept(tmp_path):
    prompt = Prompt.read([{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4 ="}])
    run(tmp_path / "a.parquet", [Unit(Problem("chat", prompt, "7"), None, 2)])
    frame = read_attempts([tmp_path / "a.parquet"])
    assert frame["prompt"].tolist() == ["3 + 4 ="] * 2
    assert [[dict(message) for message in messages] for messages in frame["messages"]] == [prompt.json] * 2
    assert frame["correct"].all()
    assert frame["prompt_tokens"].tolist() == [len("Be short.3 + 4 =")] * 2


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
    assert untimed(read_attempts([out])).equals(untimed(read_attempts([whole])))
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
        run(out, [Unit(PROBLEMS[0], None, 8)])


def test_a_journal_of_other_settings_is_not_continued(tmp_path):
    out = tmp_path / "attempts.parquet"
    with pytest.raises(EngineUnavailable):
        run(out, generator=DiesAfter())
    with pytest.raises(InvalidFile, match=r"an unfinished run with other settings \(seed\); run that one to its end"):
        run(out, settings={"seed": 1})
    assert len(run(out)) > 0  # and is still there for its own run


def test_settings_that_differ_are_named_by_their_place():
    before = {"seed": 0, "models": {"small": {"template": {"user": "a"}, "temperature": 0.7}}}
    now = {"seed": 0, "models": {"small": {"template": {"user": "b", "repair": None}, "temperature": 0.7}, "large": {}}}
    assert different(before, now) == ["models.small.template.user", "models.large"]  # None is as if it were not there
    assert different(before, before) == []
    assert named(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"


@pytest.mark.processes
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
    deadline = time.monotonic() + 200
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
    return engines(FakeGenerator(latency=0.5))


@pytest.mark.processes
def test_workers_end_with_the_process_that_began_them(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r});"
        "from pathlib import Path;"
        "from tests.offline.test_collect import UNITS, collect, slow;"
        "collect(UNITS, slow, Path(sys.argv[1]), settings={}, concurrency=8, workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a.parquet")])
    deadline = time.monotonic() + 200
    workers: list[psutil.Process] = []
    while len(workers) < 2 and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
