"""Decisions and outcomes in a real database: durable once acknowledged, never in a call's way."""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
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
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from sqlalchemy.exc import OperationalError

from router.backends import Engines
from router.bundle.bundle import load_bundle
from router.errors import InvalidRequest, OutcomesUnavailable
from router.outcomes import tables as database
from router.policy.objectives import Budget
from router.prompt import Prompt
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.middleware.call import Verdict
from router.service.recorder import Recorder
from router.service.rows import Outcome, write
from router.solving.driver import Request
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.postgresql import Cluster

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Only tests marked postgresql may ask for it."""
    with contextlib.closing(Cluster()) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/outcomes.db"
    return request.getfixturevalue("cluster").database()


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    with contextlib.closing(Recorder(url)) as recorder:
        yield recorder


def rows(url: str, table: sql.Table) -> list[sql.RowMapping]:
    engine = sql.create_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(sql.select(table)).mappings())
    engine.dispose()
    return found


@contextlib.asynccontextmanager
async def serving(solver: Solver, recorder: Recorder | None):
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield RouterServiceStub(channel)
    await server.stop(grace=0)


async def record(stub: RouterServiceStub, call_id: str, **learned: Any) -> bool:
    return (await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=call_id, **learned))).changed


async def test_a_decision_and_what_became_of_it(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        solution = (await stub.Solve(pb.SolveRequest(prompt=HARD))).solution
        routed = await stub.Route(pb.RouteRequest(prompt=EASY), metadata=[("x-request-id", "mine")])
        assert routed.call_id == "mine"
        assert await record(stub, solution.call_id, correct=True, score=0.75)
        by_id = {row["call_id"]: row for row in rows(url, database.decisions)}  # acknowledged: so is all before
    row = by_id[solution.call_id]
    assert (row["level"], row["arm"], row["propensity"]) == (5, "revision(n=4, chains=2)", 1.0)
    assert (row["bundle"], row["generated_tokens"]) == (solution.decision.bundle_id, solution.bill.generated_tokens)
    assert row["probabilities"] == list(solution.decision.probabilities)
    assert (row["prompt"], len(row["prompt_sha256"]), row["code"]) == (None, 64, "OK")
    assert (row["objective"], row["objective_value"], row["objective_given"]) == ("budget", 4, False)
    assert (row["choice"], row["explore"], row["stop"]) == (row["arm"], 0, "complete")
    assert (row["levels_by"], row["answer"], row["text"]) == (solver.bundle.levels_by, None, None)
    assert (by_id["mine"]["method"], by_id["mine"]["stop"]) == ("Route", None)
    ((outcome),) = rows(url, database.outcomes)
    assert (outcome["call_id"], outcome["correct"], outcome["score"]) == (solution.call_id, True, 0.75)


async def test_recording_again_changes_nothing_and_a_correction_counts(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        assert await record(stub, "early", correct=False)  # before its decision, or without one
        assert not await record(stub, "early", correct=False)
        assert await record(stub, "early", correct=True)
        assert await asyncio.gather(*(record(stub, "many", score=0.5) for _ in range(20))) != [True] * 20
    assert {row["call_id"]: (row["correct"], row["score"]) for row in rows(url, database.outcomes)} == {
        "early": (True, None),
        "many": (None, 0.5),
    }


async def test_an_outcome_is_held_against_what_was_promised(solver, recorder, url):
    seen = []
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder, observers=[seen.append])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)

        async def verdict(call_id: str, **learned: object) -> Verdict | None:
            assert await record(stub, call_id, **learned)
            return seen[-1].verdict

        solution = (await stub.Solve(pb.SolveRequest(prompt=HARD))).solution
        promised = solution.decision.expectation.accuracy
        assert await verdict(solution.call_id, score=0.5) is None
        told = await verdict(solution.call_id, correct=True)
        assert told == Verdict(5, "revision(n=4, chains=2)", solution.decision.bundle_id, promised, right=True)
        assert await verdict(solution.call_id, correct=False) is None  # a correction
        routed = await stub.Route(pb.RouteRequest(prompt=EASY))
        assert (await verdict(routed.call_id, correct=False)).right is False
        for options in (
            pb.SolveOptions(arm="majority(n=2)"),
            pb.SolveOptions(max_generated_tokens=3, allow_partial=True),
        ):
            solution = (await stub.Solve(pb.SolveRequest(prompt=HARD, options=options))).solution
            assert await verdict(solution.call_id, correct=True) is None
        assert await verdict("nobodys", correct=True) is None
    await server.stop(grace=0)
    assert [row["expected"] for row in rows(url, database.decisions)].count(None) == 2


async def test_a_call_tried_again_under_its_id_is_one_decision(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        for prompt in (EASY, HARD):
            await stub.Route(pb.RouteRequest(prompt=prompt), metadata=[("x-request-id", "same")])
        await record(stub, "same", correct=True)
    assert [row["level"] for row in rows(url, database.decisions)] == [5]


async def test_a_pinned_arm_has_no_propensity_and_a_bad_request_no_row(solver, recorder, url):
    async with serving(solver, recorder) as stub:
        options = pb.SolveOptions(arm="majority(n=2)")
        await stub.Solve(pb.SolveRequest(prompt=EASY, options=options))
        with pytest.raises(grpc.RpcError):
            await stub.Solve(pb.SolveRequest(prompt=""))
        await record(stub, "x", correct=True)
    ((row),) = rows(url, database.decisions)
    assert (row["arm"], row["propensity"]) == ("majority(n=2)", None)
    assert [row[name] for name in ("objective", "objective_value", "objective_given", "choice")] == [None] * 4


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"correct": True}, "call_id"),
        ({"call_id": "a b", "correct": True}, "call_id"),
        ({"call_id": "a"}, "correct"),
        ({"call_id": "a", "score": 1.5}, "score"),
        ({"call_id": "a", "score": float("nan")}, "score"),
    ],
)
async def test_a_wrong_outcome_names_its_field(solver, recorder, fields, field):
    async with serving(solver, recorder) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await stub.RecordOutcome(pb.RecordOutcomeRequest(**fields))
    violation = BadRequest()
    assert any(each.Unpack(violation) for each in rpc_status.from_call(raised.value).details)
    assert violation.field_violations[0].field == field


async def test_without_a_database_outcomes_are_refused(solver):
    async with serving(solver, None) as stub:
        with pytest.raises(grpc.RpcError) as raised:
            await record(stub, "a", correct=True)
    info = ErrorInfo()
    assert rpc_status.from_call(raised.value).details[0].Unpack(info)
    assert info.reason == "OUTCOMES_OFF"


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


async def test_prompts_are_kept_by_choice(solver, url):
    recorder = Recorder(url, prompts=True)
    async with serving(solver, recorder) as stub:
        await stub.Route(pb.RouteRequest(prompt=EASY))
    assert [row["prompt"] for row in rows(url, database.decisions)] == [EASY]  # written when the server stopped


@pytest.mark.parametrize(("explore", "budget"), [(0.0, 16), (0.5, 16), (1.0, 16), (1.0, 4)])
async def test_explored_arms_have_the_probability_that_is_recorded(bundle_folder, generator, verifier, explore, budget):
    bundle = load_bundle(bundle_folder)
    engines = Engines({"small": generator}, "small", verifier)
    request = Request(Prompt.of(HARD), Budget(budget))
    chosen = await Solver(bundle, engines).decide(request)
    solver = Solver(bundle, engines, explore=explore)
    draws = 2000 if explore else 100
    drawn: Counter[str] = Counter()
    told: dict[str, float] = {}
    for _ in range(draws):
        decision = await solver.decide(request)
        assert decision.arm.budget() <= budget
        assert decision.choice == chosen.arm
        assert (decision.expectation is None) == (decision.arm != chosen.arm)
        drawn[str(decision.arm)] += 1
        told[str(decision.arm)] = decision.propensity
    assert sum(told.values()) == pytest.approx(1)
    for arm, propensity in told.items():
        assert drawn[arm] / draws == pytest.approx(propensity, abs=0.055)  # five standard errors
