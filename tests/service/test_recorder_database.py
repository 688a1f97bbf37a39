"""Databases that fail, hang, restart or are old: durable once acknowledged, never in a call's way."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from router.prompt import Message, Prompt
from router.service.recorder import Recorder
from router.service.rows import Outcome, write
from router.v1 import router_pb2 as pb
from tests.support.recording import EASY, decided, record, routed, rows, serving


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
            recorder.record(Outcome("app", "a", correct=True))
        blocked.set()


def test_long_texts_that_wait_are_bounded_by_their_bytes(url):
    blocked = threading.Event()

    def slow(connection, content):
        blocked.wait(60)
        return write(connection, content)

    recorder = Recorder(url, write=slow, prompts=True, queue_bytes=1_000_000)
    long = Prompt((Message("system", "é" * 100_000), Message("user", "x" * 100_000)))
    call = routed("a")
    assert call.request
    for number in range(20):
        recorder.record_decision(replace(call, id=f"long-{number}", request=replace(call.request, prompt=long)))
    kept = 20 - recorder.dropped
    assert 1 <= kept <= 4  # of 200 to 300 kB each
    recorder.record_decision(routed("short"))  # has room
    blocked.set()
    assert recorder.record(Outcome("app", "short", correct=True)).result(10).changed
    again = replace(call, id="later", request=replace(call.request, prompt=long))
    recorder.record_decision(again)  # there is room again
    recorder.close()
    assert recorder.dropped == 20 - kept
    written = {row["call_id"] for row in rows(url, database.decisions)}
    assert written == {*(f"long-{number}" for number in range(kept)), "short", "later"}


def test_what_is_refused_leaves_its_room(url):
    def refusing(connection, content):
        raise sql.exc.DataError("insert", {}, Exception("NUL"))

    recorder = Recorder(url, write=refusing, queue_bytes=10_000)
    for number in range(30):
        decided(recorder, f"{number}")
        with pytest.raises(OutcomesUnavailable, match="does not answer"):  # and not: does not keep up
            recorder.record(Outcome("app", "a", correct=True)).result(10)
    assert recorder.dropped == 30
    recorder.close()


@pytest.mark.parametrize("refusal", [sql.exc.DataError("insert", {}, Exception("NUL")), OverflowError("too large")])
def test_a_row_that_the_database_refuses_spoils_no_other(url, refusal):
    def picky(connection, content):
        if isinstance(content, Outcome) and content.call_id == "poison":
            raise refusal
        return write(connection, content)

    recorder = Recorder(url, write=picky, close_seconds=100)
    decided(recorder, "a", "poison", "b")
    waiting = {name: recorder.record(Outcome("app", name, correct=True)) for name in ("a", "poison", "b")}
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
    recorder.record(Outcome("app", "a", correct=True))
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
    decided(recorder, "before", "after")
    assert recorder.record(Outcome("app", "before", correct=True)).result(60).changed
    folder.rename(away)
    if becomes == "another":
        folder.mkdir()
        file.touch()
    with pytest.raises(OutcomesUnavailable):
        recorder.record(Outcome("app", "meanwhile", correct=True)).result(60)
    assert file.exists() == (becomes == "another")
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    assert recorder.record(Outcome("app", "after", correct=True)).result(60).changed
    recorder.close()
    assert {row["call_id"] for row in rows(f"sqlite:///{file}", database.outcomes)} == {"before", "after"}


@pytest.mark.processes
def test_a_kill_loses_no_acknowledged_outcome(url):
    code = (
        "import sys\nfrom router.service.recorder import Recorder\nfrom router.service.rows import Outcome\n"
        "from tests.support.recording import decided\n"
        "recorder = Recorder(sys.argv[1])\n"
        "for number in range(100_000):\n"
        "    decided(recorder, f'call-{number}')\n"
        "    recorder.record(Outcome('app', f'call-{number}', correct=True)).result()\n"
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
    old |= {"caller": "app", "code": "OK", "reason": "", "prompt_tokens": 1, "generated_tokens": 2, "scored_tokens": 3}
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
        assert recorder.record(Outcome("", "old", correct=True)).result(10)[:2] == (True, None)  # it promised nothing
    ((found),) = rows(url, database.decisions)
    assert (found["call_id"], found["level"], found["probabilities"], found["expected"]) == ("old", 1, [0.2] * 5, None)


def test_two_callers_may_choose_the_same_id(recorder, url):
    for caller, correct in (("one", True), ("two", False)):
        decided(recorder, "same", caller=caller)
        assert recorder.record(Outcome(caller, "same", correct=correct)).result(10).changed
    assert {(row["caller"], row["correct"]) for row in rows(url, database.outcomes)} == {("one", True), ("two", False)}
    assert sorted(row["correct"] for row in database.read(url, ["correct"])) == [False, True]


def test_an_outcome_of_another_callers_call_is_not_known(recorder, url):
    decided(recorder, "mine", caller="one")
    found = recorder.record(Outcome("two", "mine", correct=True)).result(10)
    assert not found.known
    assert not recorder.record(Outcome("one", "never", correct=True)).result(10).known
    assert rows(url, database.outcomes) == []


@pytest.mark.parametrize(
    ("first", "second", "kept"), [("OK", "OK", 0), ("UNAVAILABLE", "OK", 1), ("OK", "INTERNAL", 0)]
)
def test_an_id_that_is_sent_again_erases_no_decision(recorder, url, first, second, kept):
    for prompt, code in (("one", first), ("two", second)):
        recorder.record_decision(routed("same", prompt=prompt, code=code))
    assert recorder.record(Outcome("app", "same", correct=True)).result(10).changed
    held = {row["prompt_sha256"]: row["call_id"] for row in rows(url, database.decisions)}
    digests = [routed("", prompt=prompt).request.prompt.digest for prompt in ("one", "two")]
    assert set(held) == set(digests)
    assert [held[digest] == "same" for digest in digests] == [kept == 0, kept == 1]


def test_a_decision_with_an_outcome_keeps_its_id(recorder, url):
    recorder.record_decision(routed("same", code="DEADLINE_EXCEEDED"))
    assert recorder.record(Outcome("app", "same", correct=True)).result(10).changed
    recorder.record_decision(routed("same", prompt="another"))
    assert not recorder.record(Outcome("app", "same", correct=True)).result(10).changed
    codes = {row["call_id"] == "same": row["code"] for row in rows(url, database.decisions)}
    assert codes == {True: "DEADLINE_EXCEEDED", False: "OK"}


def test_a_decision_whose_commit_was_not_heard_of_is_written_once(url):
    unheard = [True]

    def forgetful(connection, content):
        written = write(connection, content)
        if isinstance(content, Outcome) and unheard.pop():
            connection.commit()
            raise OperationalError("commit", {}, Exception("connection lost"))
        return written

    recorder = Recorder(url, write=forgetful, retry_seconds=0.01)
    decided(recorder, "a")
    with pytest.raises(OutcomesUnavailable):
        recorder.record(Outcome("app", "a", correct=True)).result(10)
    recorder.close()
    assert [row["call_id"] for row in rows(url, database.decisions)] == ["a"]


NASTY = ["\0", "a\0b" * 200, "x" * 10_000, "é" * 10_000, "\udc00", "\U0001f600" * 400, "\ufffe"]


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_any_value_of_a_caller_is_recorded(url, nasty):
    with contextlib.closing(Recorder(url, prompts=True)) as recorder:
        recorder.record_decision(routed("plain"))
        messages = Prompt((Message("system", "say " + nasty), Message("user", "7 " + nasty)))
        call = routed("a", caller=nasty)
        assert call.request
        recorder.record_decision(replace(call, request=replace(call.request, prompt=messages), reason=nasty))
        assert recorder.record(Outcome(nasty, "a", correct=True)).result(10).changed
        assert (recorder.dropped, recorder.failures) == (0, 0)
    assert [row["correct"] for row in database.read(url, ["correct"])] == [None, True]


def test_names_that_are_cut_stay_different(recorder, url):
    names = ["team-" + "x" * 300 + end for end in "ab"]
    for name in names:
        decided(recorder, "same", caller=name)
        assert recorder.record(Outcome(name, "same", correct=True)).result(10).changed
    assert len(rows(url, database.outcomes)) == 2


def test_a_row_that_is_refused_costs_the_others_a_few_transactions(url):
    transactions = 0
    free = threading.Event()

    def picky(connection, content):
        free.wait(60)
        if content["call_id"] == "poison":
            raise sql.exc.DataError("insert", {}, Exception("NUL"))
        return write(connection, content)

    recorder = Recorder(url, write=picky, close_seconds=100)

    def begun(*args: Any) -> None:
        nonlocal transactions
        transactions += 1

    sql.event.listen(recorder._engine, "begin", begun)
    decided(recorder, *(f"good-{number}" for number in range(400)), "poison")
    free.set()
    recorder.close()
    assert len(rows(url, database.decisions)) == 400
    assert recorder.dropped == 1
    assert transactions < 40


def test_an_sqlite_file_is_nobody_elses_to_read(tmp_path):
    file = tmp_path / "outcomes.db"
    before = os.umask(0o022)
    try:
        with contextlib.closing(Recorder(f"sqlite:///{file}")) as recorder:
            decided(recorder, "a")
            assert recorder.record(Outcome("app", "a", correct=True)).result(10).changed
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes["outcomes.db"] == 0o600
    assert set(modes.values()) == {0o600}


def test_an_sqlite_file_that_others_could_read_is_closed_to_them(tmp_path):
    file = tmp_path / "outcomes.db"
    Recorder(f"sqlite:///{file}").close()
    file.chmod(0o644)
    Recorder(f"sqlite:///{file}").close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


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
    decided(recorders[0], *shared, "last")
    assert recorders[0].record(Outcome("app", "last", score=0.5)).result(60).changed  # and with it all before

    def write(recorder: Recorder) -> int:
        draw = random.Random(id(recorder))
        own = [f"{id(recorder)}-{number}" for number in range(200)]
        decided(recorder, *own)
        waiting = [
            recorder.record(Outcome("app", name, correct=True))
            for name in draw.sample(shared + own, len(shared) + len(own))
        ]
        return sum(each.result(60).changed for each in waiting)

    with ThreadPoolExecutor(len(recorders)) as pool:
        news = sum(pool.map(write, recorders))
    for recorder in recorders:
        recorder.close()
    assert news + 1 == len(rows(url, database.outcomes)) == 1 + 200 + 4 * 200
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
