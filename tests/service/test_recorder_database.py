"""Databases that fail, hang, restart or are old: durable once acknowledged, never in a call's way."""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sql
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy.exc import OperationalError

from router.errors import InvalidRequest, OutcomesUnavailable
from router.outcomes import tables as database
from router.service.recorder import Recorder
from router.service.rows import Outcome, write
from router.v1 import router_pb2 as pb
from tests.support.recording import EASY, record, rows, serving


async def test_a_database_that_is_away_holds_up_no_call_and_comes_back(solver, url):
    away = threading.Event()
    away.set()

    def failing(connection, content):
        if away.is_set():
            raise OperationalError("insert", {}, Exception("disk full"))
        return write(connection, content)

    recorder = Recorder(url, write=failing, retry_seconds=0.01)
    async with serving(solver, recorder) as stub:
        answered = [(await stub.Solve(pb.SolveRequest(prompt=EASY))).solution for _ in range(3)]
        with pytest.raises(grpc.RpcError) as raised:
            await record(stub, answered[0].call_id, correct=True)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        away.clear()
        assert await record(stub, answered[0].call_id, correct=True)
    assert {row["call_id"] for row in rows(url, database.decisions)} == {solution.call_id for solution in answered}
    assert recorder.dropped == 0


def waits(event: threading.Event) -> Any:
    """A database that does not answer before the event."""
    return lambda *args: event.wait(120)


async def test_a_full_queue_drops_decisions_and_refuses_outcomes(solver, url):
    blocked = threading.Event()
    recorder = Recorder(url, write=waits(blocked), queue_size=2)
    async with serving(solver, recorder) as stub:
        for _ in range(6):
            await stub.Route(pb.RouteRequest(prompt=EASY))
        assert recorder.dropped > 0
        with pytest.raises(OutcomesUnavailable):
            recorder.record(Outcome("a", correct=True))
        blocked.set()


@pytest.mark.parametrize("refusal", [sql.exc.DataError("insert", {}, Exception("NUL")), OverflowError("too large")])
def test_a_row_that_the_database_refuses_spoils_no_other(url, refusal):
    def picky(connection, content):
        if content.call_id == "poison":
            raise refusal
        return write(connection, content)

    recorder = Recorder(url, write=picky)
    waiting = {name: recorder.record(Outcome(name, correct=True)) for name in ("a", "poison", "b")}
    assert waiting["a"].result(10).changed
    assert waiting["b"].result(10).changed
    with pytest.raises(OutcomesUnavailable):
        waiting["poison"].result(10)
    recorder.close()


def test_a_database_that_hangs_holds_up_no_ending(tmp_path, caplog):
    hanging = threading.Event()
    url = f"sqlite:///{tmp_path}/hanging.db"
    others = threading.enumerate()
    recorder = Recorder(url, write=waits(hanging), close_seconds=0.1)
    recorder.record(Outcome("a", correct=True))
    recorder.close()
    assert "decisions are lost" in caplog.text
    hanging.set()
    for thread in set(threading.enumerate()) - set(others):
        thread.join()
    recorder.close()


@pytest.mark.parametrize("becomes", ["gone", "another"])
def test_a_file_that_was_moved_away_acknowledges_nothing(tmp_path, becomes):
    folder, away = tmp_path / "data", tmp_path / "away"
    folder.mkdir()
    file = folder / "outcomes.db"
    recorder = Recorder(f"sqlite:///{file}", retry_seconds=0.01)
    assert recorder.record(Outcome("before", correct=True)).result(60).changed
    folder.rename(away)
    if becomes == "another":
        folder.mkdir()
        file.touch()
    with pytest.raises(OutcomesUnavailable):
        recorder.record(Outcome("meanwhile", correct=True)).result(60)
    assert file.exists() == (becomes == "another")
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    assert recorder.record(Outcome("after", correct=True)).result(60).changed
    recorder.close()
    assert {row["call_id"] for row in rows(f"sqlite:///{file}", database.outcomes)} == {"before", "after"}


@pytest.mark.processes
def test_a_kill_loses_no_acknowledged_outcome(url):
    code = (
        "import sys\nfrom router.service.recorder import Recorder\nfrom router.service.rows import Outcome\n"
        "recorder = Recorder(sys.argv[1])\n"
        "for number in range(100_000):\n"
        "    recorder.record(Outcome(f'call-{number}', correct=True)).result()\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        acknowledged += map(int, process.stdout.read().split())
    found = {row["call_id"] for row in rows(url, database.outcomes)}
    assert {f"call-{number}" for number in acknowledged} <= found


def test_migrations_lead_to_the_tables_that_are_used(recorder, url):
    engine = sql.create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), database.tables) == []
    engine.dispose()


def test_a_database_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_by_a_server(tmp_path):
    url = f"sqlite:///{tmp_path}/old.db"
    engine = sql.create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    old = {"call_id": "a", "at": datetime(2026, 1, 1, tzinfo=UTC), "method": "Solve", "bundle": "b@1", "level": 1}
    old |= {"prompt_sha256": "0" * 64, "probabilities": [1, 0, 0, 0, 0], "arm": "single(n=1)", "propensity": 1.0}
    old |= {"code": "OK", "reason": "", "prompt_tokens": 1, "generated_tokens": 2, "scored_tokens": 3}
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sql.insert(database.decisions), [old | {"flops": 4.0, "seconds": 0.5}])
    wanted = ["call_id", "arm", "objective", "explore", "text", "correct"]
    expected = [{"call_id": "a", "arm": "single(n=1)", **dict.fromkeys(wanted[2:])}]
    assert database.read(url, wanted) == expected
    assert "objective" not in {column["name"] for column in sql.inspect(engine).get_columns("decisions")}
    Recorder(url).close()
    assert database.read(url, wanted) == expected
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), database.tables) == []
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    assert "objective" not in {column["name"] for column in sql.inspect(engine).get_columns("decisions")}
    engine.dispose()


def test_a_database_of_the_first_version_keeps_its_rows(url):
    engine = sql.create_engine(url)
    database.upgrade(engine, "0001")
    old = sql.Table("decisions", sql.MetaData(), autoload_with=engine)
    row: dict[str, Any] = {column.name: 1 for column in old.columns if isinstance(column.type, sql.Integer | sql.Float)}
    row |= {"call_id": "old", "at": datetime(2026, 1, 1, tzinfo=UTC), "probabilities": [0.2] * 5}
    with engine.begin() as connection:
        connection.execute(sql.insert(old), [{column.name: "" for column in old.columns} | row])
    engine.dispose()
    with contextlib.closing(Recorder(url)) as recorder:
        assert recorder.record(Outcome("old", correct=True)).result(10) == (True, None)  # it promised nothing
    ((found),) = rows(url, database.decisions)
    assert (found["call_id"], found["level"], found["probabilities"], found["expected"]) == ("old", 1, [0.2] * 5, None)


@pytest.mark.postgresql
def test_servers_that_start_together_make_the_tables_once(cluster):
    code = (
        "import sys\nfrom router.service.recorder import Recorder\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    Recorder(line.strip()).close()\n    print('made', flush=True)\n"
    )
    with contextlib.ExitStack() as stack:
        piped: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        servers = [stack.enter_context(subprocess.Popen([sys.executable, "-c", code], **piped)) for _ in range(4)]
        assert [server.stdout.readline() for server in servers] == ["ready\n"] * 4
        for url in [cluster.database() for _ in range(3)]:  # the first time their imports spread them out
            for server in servers:
                print(url, file=server.stdin, flush=True)
            assert [server.stdout.readline() for server in servers] == ["made\n"] * 4


@pytest.mark.postgresql
def test_servers_that_write_the_same_rows_neither_lose_nor_block_each_other(cluster):
    url = cluster.database()
    recorders = [Recorder(url) for _ in range(4)]
    shared = [f"shared-{number}" for number in range(200)]

    def write(recorder: Recorder) -> int:
        draw = random.Random(id(recorder))
        own = [f"{id(recorder)}-{number}" for number in range(200)]
        waiting = [
            recorder.record(Outcome(name, correct=True)) for name in draw.sample(shared + own, len(shared) + len(own))
        ]
        return sum(each.result(60).changed for each in waiting)

    with ThreadPoolExecutor(len(recorders)) as pool:
        news = sum(pool.map(write, recorders))
    for recorder in recorders:
        recorder.close()
    assert news == len(rows(url, database.outcomes)) == 200 + 4 * 200
    assert [(recorder.failures, recorder.dropped) for recorder in recorders] == [(0, 0)] * 4


@pytest.mark.postgresql
async def test_a_server_that_restarts_costs_no_decision(solver, cluster):
    url = cluster.database()
    recorder = Recorder(url)
    async with serving(solver, recorder) as stub:

        async def solve() -> str:
            return (await stub.Solve(pb.SolveRequest(prompt=EASY))).solution.call_id

        answered = [await solve()]
        assert await record(stub, answered[0], correct=True)
        await asyncio.to_thread(cluster.stop)
        try:
            answered += [await solve() for _ in range(3)]
            with pytest.raises(grpc.RpcError) as raised:
                await record(stub, answered[1], correct=True)
        finally:
            await asyncio.to_thread(cluster.start)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await record(stub, answered[1], correct=True)
    assert {row["call_id"] for row in rows(url, database.decisions)} == set(answered)
    assert recorder.failures > 0
    assert recorder.dropped == 0


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all.db", "magic://host/name"])
def test_a_wrong_database_is_a_clear_error(url):
    with pytest.raises(InvalidRequest, match=r"sqlite:///outcomes\.db"):
        Recorder(url)
