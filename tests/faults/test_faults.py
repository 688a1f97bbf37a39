"""Things break while a real server answers real calls: nothing may be lost.

Each fault is made a few times here, and often by `make test-faults`, which writes the table in docs/reliability.md.
"""

import asyncio
import importlib.util
import platform
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.service import conversion as wire
from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from strategies import parse
from tests.support.fake_vllm import GARBAGE, SPOILT_CHOICES, SPOILT_SCORES
from tests.support.faults import (
    ROOT,
    SECRET,
    Caller,
    Engine,
    PostgreSQL,
    Process,
    Router,
    Tally,
    characters,
    digest,
    named,
    problem,
    recorded,
    report,
    settled,
)

Often = Callable[[int, int], int]
ARMS = ["single", "best_of_n(n=4)", "majority(n=4)", "beam_search(n=4, m=2)", "revision(n=4, chains=2)"]
TABLE = ROOT / "build" / "faults.md"
_tallies: list[Tally] = []


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.faults)])
def often(request) -> Often:
    """How often something is done: the first number in `make test`, the second in `make test-faults`."""
    return lambda few, many: few if request.param == "few" else many


@pytest.fixture
def tallied(request):
    """Counts what a fault costs; in the end nothing may be lost."""

    @contextmanager
    def counting(fault: str) -> Iterator[Tally]:
        tally = Tally(fault)
        yield tally
        if request.node.get_closest_marker("faults"):
            _tallies.append(tally)
            TABLE.parent.mkdir(exist_ok=True)
            TABLE.write_text(report(_tallies))
        assert not tally.lost, f"{len(tally.lost)} lost, e.g. {tally.lost[:3]}"
        assert tally.calls
        assert tally.times

    return counting


@pytest.fixture(scope="module")
def bundles(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and ``two`` are for the double of vLLM."""
    root = tmp_path_factory.mktemp("bundles")
    model = str(characters(root / "tokenizer"))
    template = {"prompt": "{prompt}|", "retry": "|", "delimiter": "\n"}
    generator = {"model": model, "adapter": None, "parameters": 1000, "template": template, "temperature": 0.8}
    verifier = {"kind": "qwen2.5-math-prm", "adapter": None, "parameters": 500, "model": model}
    for name in ("one", "two"):
        named(
            bundle_folder,
            root / name,
            name=name,
            generator={**generator, "max_tokens": 256, "reviser": None},
            verifier=verifier,
        )
    return root


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    folder = tmp_path_factory.mktemp("engines")
    engines = {name: Engine(folder / f"{name}.log") for name in ("a", "b", "verifier")}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(autouse=True)
def well(request) -> None:
    """Every fault begins with engines that are well."""
    engines = request.getfixturevalue("engines") if "engines" in request.fixturenames else {}
    for engine in engines.values():
        engine.tell(latency=0.01)


def on_vllm(engines: dict[str, Engine]) -> list[str]:
    urls = [f"--generator-url={engines[name].url}" for name in ("a", "b")]
    return ["--backend=vllm", *urls, f"--verifier-url={engines['verifier'].url}", "--concurrency=32", "--queue=64"]


@pytest.fixture(scope="module")
def router(bundles: Path, engines: dict[str, Engine], tmp_path_factory) -> Iterator[Router]:
    """On two engines that generate and one that scores."""
    router = Router(bundles / "one", tmp_path_factory.mktemp("router"), *on_vllm(engines))
    yield router
    assert router.stop() == 0
    told_nothing(router)


@pytest.fixture(scope="module")
def scripted(bundle_folder: Path, tmp_path_factory) -> Iterator[Router]:
    """On engines in its own process, which answer at once."""
    router = Router(bundle_folder, tmp_path_factory.mktemp("scripted"), "--backend=fake")
    yield router
    assert router.stop() == 0
    told_nothing(router)


def told_nothing(router: Router) -> None:
    """Prompts and answers are not in the log, whatever broke."""
    log = router.log.read_text()
    assert '"message": "call"' in log
    assert str(SECRET)[:6] not in log
    assert "INTERNAL" not in log
    assert "Traceback" not in log


async def many_calls(
    caller: Caller, count: int, first: int = 0, *, again: bool = True
) -> Sequence[pb.SolveResponse | None]:
    return await asyncio.gather(*(caller.solve(first + i, ARMS[i % len(ARMS)], again=again) for i in range(count)))


# Engines


async def test_one_of_two_engines_is_killed_in_mid_search(router, engines, often, tallied):
    with tallied("one of two engines killed (kill -9) in mid-search, and started again") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(2, 20)):
                victim = engines["ab"[i % 2]]
                calls = [asyncio.create_task(many_calls(caller, 10, first=10 * i))]
                # Since its last death it may be left alone for half a minute, longer than ten calls take.
                while not await settled(lambda victim=victim: victim.running() > 0, seconds=1):
                    assert len(calls) < 60
                    calls.append(asyncio.create_task(many_calls(caller, 10, first=10 * i)))
                await asyncio.sleep(random.uniform(0, 0.2))
                victim.kill()
                tally.times += 1
                await asyncio.sleep(random.uniform(0, 0.5))
                await asyncio.to_thread(victim.revive)
                await asyncio.gather(*calls)


async def test_all_engines_are_killed_in_mid_search(router, engines, often, tallied):
    with tallied("all engines killed in mid-search, and started again after a second") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 10)):
                calls = asyncio.create_task(many_calls(caller, 10, first=10 * i))
                assert await settled(lambda: engines["a"].running() + engines["b"].running() > 0)
                for engine in engines.values():
                    engine.kill()
                tally.times += 1
                await asyncio.sleep(1)
                for engine in engines.values():
                    await asyncio.to_thread(engine.revive)
                await calls


async def test_a_verifier_that_hangs_costs_no_more_than_the_deadline(router, engines, often, tallied):
    with tallied("verifier hangs; calls have 3 s, and half of them take partial results") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(1, 10)):
                engines["verifier"].tell("hang")
                tally.times += 1

                async def late(number: int, *, partial: bool) -> None:
                    options = pb.SolveOptions(arm=wire.arm(parse("best_of_n(n=4)")), allow_partial=partial)
                    message = pb.SolveRequest(prompt=problem(number)[0], options=options)
                    reply = await caller.ask(
                        f"partial={partial}",
                        lambda: caller.stub.Solve(message, timeout=3, metadata=caller.metadata),
                        lambda reply: reply.solution.stop_reason == pb.STOP_REASON_DEADLINE,
                        also=grpc.StatusCode.DEADLINE_EXCEEDED,
                    )
                    if partial and reply is None and often(0, 1):  # a busy machine may be too late to send it
                        tally.lost.append("no partial result")

                await asyncio.gather(
                    *(late(10 * i + j, partial=bool(j % 2)) for j in range(4)),
                    *(caller.solve(10 * i + j, "majority(n=4)", timeout=60) for j in range(4)),
                )
                engines["verifier"].tell()
                await caller.solve(i, "best_of_n(n=4)")


STREAMED = ["half", "die", "cut", "abort", "fail", "hang up", "500", "503", *GARBAGE, *SPOILT_CHOICES]
SCORED = ["half", "hang up", "500", "503", "400", "strange usage", *GARBAGE, *SPOILT_SCORES]


@pytest.mark.parametrize("what", ["generator", "verifier"])
async def test_engines_that_answer_garbage(router, engines, often, tallied, what):
    moods, arm = (STREAMED, "single") if what == "generator" else (SCORED, "best_of_n(n=4)")
    with tallied(f"{what} answers garbage ({len(moods)} kinds), then is well again") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            broken = [engines[name] for name in ("ab" if what == "generator" else ["verifier"])]
            for i, mood in enumerate(moods[:: often(4, 1)]):
                for engine in broken:
                    engine.tell(mood, latency=0.0)
                tally.times += 1
                calls = [asyncio.create_task(caller.solve(100 * i + j, arm, return_candidates=True)) for j in range(3)]
                await asyncio.sleep(0.3)
                for engine in broken:
                    engine.tell()
                for reply in await asyncio.gather(*calls):
                    scores = [
                        step.score
                        for candidate in (reply.solution.candidates if reply else ())
                        for step in candidate.steps
                        if step.HasField("score")
                    ]
                    if arm != "single" and not (scores and all(0 <= score <= 1 for score in scores)):
                        tally.lost.append(f"{mood}: scores {scores}")


# Clients


VANISHING = """
import asyncio, sys, grpc
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        stub, metadata = RouterServiceStub(channel), (("authorization", "Bearer app"),)
        options = pb.SolveOptions(arm=pb.Arm(strategy="STRATEGY_BEAM_SEARCH", n=16, m=4))
        calls = [stub.Solve(pb.SolveRequest(prompt=sys.argv[2], options=options), metadata=metadata) for _ in range(10)]
        streams = [
            stub.StreamSolve(pb.StreamSolveRequest(prompt=sys.argv[2], options=options), metadata=metadata)
            for _ in range(10)
        ]
        for stream in streams:
            await stream.read()
        print("running", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_clients_that_vanish_leave_nothing_behind(router, engines, often, tallied, tmp_path):
    prompt, _ = problem(1)
    with tallied("client killed (kill -9) with 20 searches running") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            await many_calls(caller, 5)
            assert await settled(lambda: router.busy() == 0)
            tasks, files = router.tasks(), router.files()
            for i in range(often(1, 10)):
                for engine in engines.values():
                    engine.tell(latency=0.3)
                client = Process([sys.executable, "-c", VANISHING, router.address, prompt], tmp_path / "client.log")
                await asyncio.to_thread(client.hear, "running")
                assert router.busy() > 0
                client.kill()
                tally.times += 1
                tally.calls += 20
                gone = time.monotonic()
                if not await settled(lambda: not any(engine.running() for engine in engines.values())):
                    tally.lost.append("an engine works on for a client that is gone")
                tally.slowest = max(tally.slowest, time.monotonic() - gone)
                if not await settled(lambda: router.busy() == 0):
                    tally.lost.append("a place is not given back")
                for engine in engines.values():
                    engine.tell(latency=0.0)
                await caller.solve(i, "single")
            if not await settled(lambda: router.tasks() <= tasks):
                tally.lost.append(f"{router.tasks()} tasks, {tasks} before")
            # Connections to engines are kept for a while; those of clients are not.
            if not await settled(lambda: router.files() <= files + 64):
                tally.lost.append(f"{router.files()} open files, {files} before")


@pytest.mark.faults
async def test_a_client_that_is_frozen_is_noticed(router, engines, tallied, tmp_path):
    """As one whose machine or network is gone: nothing closes the connection."""
    prompt, _ = problem(1)
    with tallied("client frozen (SIGSTOP) with 20 searches running") as tally:
        for engine in engines.values():
            engine.tell(latency=30)  # a piece
        client = Process([sys.executable, "-c", VANISHING, router.address, prompt], tmp_path / "client.log")
        assert await settled(lambda: router.busy() == 20)
        client.signal(signal.SIGSTOP)
        tally.times += 1
        tally.calls += 20
        frozen = time.monotonic()
        if not await settled(lambda: router.busy() == 0, seconds=200):
            tally.lost.append("a place is not given back")
        tally.slowest = time.monotonic() - frozen
        client.kill()


# A solution does not fit into what the connection holds.
NARROW = [("grpc.http2.lookahead_bytes", 8192), ("grpc.http2.bdp_probe", 0)]


async def test_streams_that_are_read_slowly_or_not_at_all(scripted, often, tallied):
    seconds = often(3, 15)
    prompt = " + ".join(["7"] * 33) + " ="
    arm = wire.arm(parse("best_of_n(n=64)"))
    message = pb.StreamSolveRequest(prompt=prompt, options=pb.SolveOptions(arm=arm, return_candidates=True))
    with tallied(f"16 streams read for {seconds} s at a message a second, or not at all") as tally:
        async with scripted.channel() as channel:
            caller = Caller(channel, tally, exact=False)
            await asyncio.gather(*(caller.solve(i, "single") for i in range(20)))
            assert await settled(lambda: scripted.busy() == 0)
            before, tally.slowest = scripted.memory(), 0.0
            slow = [scripted.channel(*NARROW) for _ in range(16)]
            streams = [
                Caller(each, tally).stub.StreamSolve(message, metadata=caller.metadata, timeout=300) for each in slow
            ]
            tally.times += len(streams)

            async def read_on(stream: grpc.aio.UnaryStreamCall) -> None:
                while (event := await stream.read()) is not grpc.aio.EOF:
                    last = event
                    await asyncio.sleep(1)
                if last.WhichOneof("event") != "solution":
                    tally.lost.append("a slow reader got no solution")

            readers = [asyncio.create_task(read_on(stream)) for stream in streams[::2]]
            ended, number = time.monotonic() + seconds, 0
            while time.monotonic() < ended:
                number += 1
                await caller.solve(number, "single")
                await asyncio.sleep(0.02)
            await asyncio.gather(*readers)
            if not await settled(lambda: scripted.busy() == 0):
                tally.lost.append("who does not read holds a place")
            grown = scripted.memory() - before
            for each in slow:
                await each.close()
            if not await settled(lambda: scripted.busy() == 0):
                tally.lost.append("a place is not given back")
            assert grown < 200e6, f"{grown / 1e6:.0f} MB for streams that nobody reads"


# What clients send


def methods() -> list[tuple[str, MethodDescriptor]]:
    """Paths and descriptors of all methods of both services."""
    services = [
        file.DESCRIPTOR.services_by_name[name] for file, name in ((pb, "RouterService"), (admin, "AdminService"))
    ]
    return [(f"/{service.full_name}/{method.name}", method) for service in services for method in service.methods]


VALID = {
    "Route": [pb.RouteRequest(prompt="7 + 7 =", budget=4), pb.RouteRequest(prompt="x", target_accuracy=0.5)],
    "Solve": [
        pb.SolveRequest(prompt="7 + 7 =", options=pb.SolveOptions(arm=pb.Arm(strategy=5, n=4, m=2), seed=3)),
        pb.SolveRequest(prompt="7 + 7 + 7 =", price_per_flop=0.1, options=pb.SolveOptions(max_generated_tokens=30)),
    ],
    "StreamSolve": [pb.StreamSolveRequest(prompt="7 - 7 =", options=pb.SolveOptions(allow_partial=True))],
    "GetBundle": [pb.GetBundleRequest()],
    "RecordOutcome": [pb.RecordOutcomeRequest(call_id="a", correct=True, score=0.5)],
    "ListBundles": [admin.ListBundlesRequest()],
    "ActivateBundle": [admin.ActivateBundleRequest(name="one", digest="0" * 64)],
    "RollBackBundle": [admin.RollBackBundleRequest()],
    "ShadowBundle": [admin.ShadowBundleRequest(name="../one", digest="f" * 64), admin.ShadowBundleRequest()],
}
PROPER = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def strange(rng: random.Random, method: MethodDescriptor) -> bytes:
    """Random bytes, or a valid request with some of its bytes changed."""
    if rng.random() < 0.5:
        return rng.randbytes(min(int(rng.expovariate(1 / 40)), 60_000))
    data = bytearray(rng.choice(VALID[method.name]).SerializeToString())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(5)
        if change == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif change == 2:
            del data[at : at + rng.randint(1, 4)]
        elif change == 3:
            data += data[at:]
        else:
            data[at:at] = b"\x22" + struct.pack("B", rng.randrange(128)) + rng.randbytes(rng.randrange(20))
    return bytes(data)


async def test_malformed_requests(scripted, often, tallied):
    rng, known = random.Random(7), methods()
    headers = [(), (("x-request-id", "x" * 500),), (("traceparent", "00-zz"),), (("data-bin", b"\xff\x00"),)]
    with tallied("malformed requests: random bytes, and valid ones with bytes changed") as tally:
        async with scripted.channel() as channel:
            pending = asyncio.Semaphore(16)

            async def send(path: str, method: MethodDescriptor, data: bytes, metadata: tuple) -> None:
                async with pending:
                    began = time.monotonic()
                    code = await status(channel, path, data, metadata, stream=method.server_streaming)
                    tally.slowest = max(tally.slowest, time.monotonic() - began)
                    if code not in PROPER:
                        tally.lost.append(f"{method.name} {data!r}: {code}")

            memory = 0
            for _ in range(5):
                sent = []
                for _ in range(often(60, 1400)):
                    path, method = rng.choice(known)
                    metadata = (("authorization", "Bearer ops"), *rng.choice(headers))
                    sent.append(send(path, method, strange(rng, method), metadata))
                await asyncio.gather(*sent)
                tally.calls += len(sent)
                tally.times += len(sent)
                memory = memory or scripted.memory()  # after the first part
            grown = scripted.memory() - memory
            assert grown < 50e6, f"{grown / 1e6:.0f} MB"
            await still_well(channel, tally)


async def status(channel: grpc.aio.Channel, path: str, data: bytes, metadata: tuple, *, stream: bool) -> object:
    """What a call of 10 seconds ends with; gRPC's own answers, without the service's details, are none."""
    try:
        if stream:
            async for _ in channel.unary_stream(path)(data, timeout=10, metadata=metadata):
                pass
        else:
            await channel.unary_unary(path)(data, timeout=10, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def still_well(channel: grpc.aio.Channel, tally: Tally) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    health = await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    await Caller(channel, tally, exact=False).solve(1, "single")


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of a type, in range or not."""
    kinds = {
        FieldDescriptor.TYPE_STRING: st.text(max_size=30) | st.text(min_size=1000, max_size=9000),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_DOUBLE: st.floats() | st.floats(0, 1),
        FieldDescriptor.TYPE_UINT32: st.integers(0, 20) | st.integers(0, 2**32 - 1),
        FieldDescriptor.TYPE_ENUM: st.integers(0, 9) | st.integers(-(2**31), 2**31 - 1),
    }
    fields = {
        field.name: messages(GetMessageClass(field.message_type)) if field.message_type else kinds[field.type]
        for field in cls.DESCRIPTOR.fields
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: cls(**given))


def test_strange_requests(scripted, often, tallied):
    known = methods()
    with tallied("strange requests: well-formed messages with any values") as tally:
        channel = grpc.insecure_channel(scripted.address)
        with channel:

            @settings(
                max_examples=often(150, 3000),
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(st.data())
            def answers(data: st.DataObject) -> None:
                path, method = data.draw(st.sampled_from(known))
                message = data.draw(messages(GetMessageClass(method.input_type)))
                tally.calls += 1
                tally.times += 1
                began = time.monotonic()
                call = (channel.unary_stream if method.server_streaming else channel.unary_unary)(path)
                code = grpc.StatusCode.OK
                try:
                    reply = call(message.SerializeToString(), timeout=10, metadata=(("authorization", "Bearer ops"),))
                    if method.server_streaming:
                        list(reply)
                except grpc.RpcError as error:
                    code = error.code()
                tally.slowest = max(tally.slowest, time.monotonic() - began)
                assert code in PROPER, f"{method.name} {message}: {code}"

            answers()


# The outcome database


async def recording(router: Router, tally: Tally, times: int, breaks: Callable, mends: Callable) -> None:
    """Calls and outcomes while the database is broken and mended: what is acknowledged must be there in the end."""
    answered, acknowledged = set(), set()
    async with router.channel() as channel:
        caller = Caller(channel, tally, exact=False)

        async def one(number: int) -> None:
            reply = await caller.solve(number, "single")
            if reply:
                answered.add(reply.solution.call_id)
                if await caller.record(reply.solution.call_id):
                    acknowledged.add(reply.solution.call_id)

        for i in range(times):
            await asyncio.gather(*(one(100 * i + j) for j in range(5)))
            breaks()
            tally.times += 1
            before = len(acknowledged)
            await asyncio.gather(*(one(100 * i + 10 + j) for j in range(10)))
            assert len(acknowledged) == before, "acknowledged without a database"
            mends()

            async def acknowledge(call_id: str) -> None:
                message = pb.RecordOutcomeRequest(call_id=call_id, correct=True)
                await caller.ask(
                    "an outcome", lambda: caller.stub.RecordOutcome(message, timeout=60, metadata=caller.metadata)
                )
                acknowledged.add(call_id)

            await asyncio.gather(*map(acknowledge, answered - acknowledged))
    decisions, outcomes = recorded(router.outcomes)
    tally.lost += [f"decision {call_id}" for call_id in answered - decisions]
    tally.lost += [f"outcome {call_id}" for call_id in acknowledged - outcomes]
    assert router.metric("router_decisions_dropped_total") == 0


async def test_a_full_disk(scripted, often, tallied):
    _, hard = resource.prlimit(scripted.process.pid, resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.prlimit(scripted.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    with tallied("no file may grow, outcome database and log alike, then they may again") as tally:
        try:
            await recording(scripted, tally, often(1, 10), lambda: limit(1), lambda: limit(resource.RLIM_INFINITY))
        finally:
            limit(resource.RLIM_INFINITY)


async def test_a_database_that_is_gone_and_comes_back(scripted, often, tallied):
    folder = scripted.data
    away = folder.with_name("away")
    with tallied("the outcome database's folder is gone, then back") as tally:
        await recording(scripted, tally, often(1, 10), lambda: folder.rename(away), lambda: away.rename(folder))


def postgresql_folder() -> Path | None:
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


async def test_a_postgresql_that_is_killed_and_comes_back(bundle_folder, often, tallied, tmp_path):
    if (binaries := postgresql_folder()) is None:
        pytest.skip("no PostgreSQL server here")
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # which others than root can enter
        database = await asyncio.to_thread(PostgreSQL, Path(folder), binaries)
        router = Router(bundle_folder, tmp_path, "--backend=fake", outcomes=database.url)
        try:
            with tallied("PostgreSQL killed (kill -9), and started again") as tally:
                await recording(router, tally, often(1, 5), database.kill, database.start)
        finally:
            assert router.stop() == 0
            database.kill()


async def test_a_killed_server_loses_no_acknowledged_outcome(bundle_folder, often, tallied, tmp_path):
    with tallied("server killed (kill -9) while outcomes are recorded, and started again") as tally:
        acknowledged: set[str] = set()

        async def outcomes(caller: Caller, name: str) -> None:
            number = 0
            while await caller.record(f"{name}.{number}"):
                acknowledged.add(f"{name}.{number}")
                tally.calls += 1
                number += 1

        for i in range(often(1, 6)):
            router = Router(bundle_folder, tmp_path, "--backend=fake")
            async with router.channel() as channel:
                caller = Caller(channel, tally)

                writers = [asyncio.create_task(outcomes(caller, f"{i}.{j}")) for j in range(8)]
                await asyncio.sleep(random.uniform(0.2, 1.0))
                assert await settled(lambda i=i: any(each.startswith(f"{i}.") for each in acknowledged))
                router.process.kill()
                tally.times += 1
                await asyncio.gather(*writers)
            tally.lost += [f"outcome {each}" for each in acknowledged - recorded(router.outcomes)[1]]


# Time and the server itself


@pytest.mark.skipif(platform.machine() != "x86_64", reason="libfaketime's wheel is for x86-64")
async def test_the_wall_clock_jumps(bundles, engines, often, tallied, tmp_path):
    package = importlib.util.find_spec("libfaketime").origin
    clock = tmp_path / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": str(next(Path(package).parent.rglob("libfaketime.so.1"))),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    router = Router(bundles / "one", tmp_path, *on_vllm(engines), env=env)
    with tallied("wall clock jumps by an hour or ten years, forth and back, in mid-search") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            await many_calls(caller, 5)
            for i in range(often(1, 8)):
                engines["verifier"].tell("hang")
                prompt, _ = problem(i)
                options = pb.SolveOptions(arm=wire.arm(parse("best_of_n(n=2)")))
                message = pb.SolveRequest(prompt=prompt, options=options)
                began = time.monotonic()
                # The server's own answer: it knows the deadline as well after the jump as before.
                late = caller.stub.Solve(message, timeout=4, metadata=caller.metadata)
                calls = asyncio.gather(*(caller.solve(10 * i + j, "majority(n=4)") for j in range(5)))
                await asyncio.sleep(0.5)
                ahead = ["+3650d", "+0", "-1h", "+1h"][i % 4]
                (tmp_path / "next").write_text(ahead)
                (tmp_path / "next").replace(clock)
                tally.times += 1
                tally.calls += 1
                try:
                    await late
                except grpc.aio.AioRpcError as error:
                    took = time.monotonic() - began
                    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or took < 3:
                        tally.lost.append(f"{error.code().name} after {took:.1f} s with the clock at {ahead}")
                    if often(0, 1) and "the deadline ended the search" not in error.details():
                        tally.lost.append("the server did not keep the deadline")
                else:
                    tally.lost.append("a deadline was not kept")
                await calls
                engines["verifier"].tell()
                await caller.solve(i, "best_of_n(n=4)")
        assert router.stop() == 0
    log = router.log.read_text()
    years = {line[10:14] for line in log.splitlines() if line.startswith('{"time": "')}
    assert len(years) >= 2, f"the clock did not jump: {years}"


async def test_bundles_are_swapped_under_full_load(router, bundles, engines, often, tallied):
    for engine in engines.values():
        engine.tell(latency=0.0)
    ids = {name: f"{name}@{digest(bundles / name)[:12]}" for name in ("one", "two")}
    with tallied("bundle activated or rolled back under full load") as tally:
        async with router.channel() as channel:
            caller, ops = Caller(channel, tally), Caller(channel, tally, "ops")
            # When which bundle may have decided: both during a change.
            history: list[tuple[float, set[str]]] = [(0.0, {ids["one"]})]
            ended = asyncio.Event()

            async def load(worker: int) -> None:
                number = 0
                while not ended.is_set():
                    began, number = time.monotonic(), number + 1
                    reply = await caller.solve(1000 * worker + number, ARMS[number % 3])
                    since = [deciding for at, deciding in history if at >= began]
                    before = [deciding for at, deciding in history if at < began][-1:]
                    if reply and reply.solution.decision.bundle_id not in set().union(*before, *since):
                        tally.lost.append(f"decided by {reply.solution.decision.bundle_id}")

            workers = [asyncio.create_task(load(worker)) for worker in range(24)]
            for i in range(often(2, 20)):
                await asyncio.sleep(0.2)
                to = ("two", "one")[i % 2]
                history.append((time.monotonic(), set(ids.values())))
                if i % 2:
                    call = lambda: ops.admin.RollBackBundle(admin.RollBackBundleRequest(), metadata=ops.metadata)  # noqa: E731
                else:
                    request = admin.ActivateBundleRequest(name=to, digest=digest(bundles / to))
                    call = lambda request=request: ops.admin.ActivateBundle(request, metadata=ops.metadata)  # noqa: E731
                await ops.ask("a swap", call, lambda reply, to=to: reply.id == ids[to])
                history.append((time.monotonic(), {ids[to]}))
                tally.times += 1
            ended.set()
            await asyncio.gather(*workers)


async def test_sigterm_lets_running_calls_finish(bundles, engines, often, tallied, tmp_path):
    with tallied("server told to stop (SIGTERM) in mid-search") as tally:
        for _ in range(often(1, 5)):
            for engine in engines.values():
                engine.tell(latency=0.3)
            router = Router(bundles / "one", tmp_path, *on_vllm(engines), "--grace=60")
            async with router.channel() as channel, router.channel() as other:
                caller = Caller(channel, tally)
                calls = asyncio.create_task(many_calls(caller, 20, again=False))
                assert await settled(lambda router=router: router.busy() > 5)
                router.process.signal(signal.SIGTERM)
                tally.times += 1

                async def ask_until_it_has_noticed(channel=other, metadata=caller.metadata) -> None:
                    while True:
                        await Caller(channel, tally).stub.GetBundle(pb.GetBundleRequest(), metadata=metadata)
                        await asyncio.sleep(0.05)

                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await ask_until_it_has_noticed()
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                replies = await calls
            assert await asyncio.to_thread(router.process.wait) == 0
            answered = {reply.solution.call_id for reply in replies if reply}
            tally.lost += [f"decision {call_id}" for call_id in answered - recorded(router.outcomes)[0]]
            told_nothing(router)
