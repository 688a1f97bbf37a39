"""Who runs, who waits and who is refused: decided by hand-held searches, never by the clock."""

import asyncio
import contextlib

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import Overloaded
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import Caller, Token, digest_of
from router.service.bundle_manager import BundleManager
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

EASY = "7 + 7 ="


class Searches:
    """Searches that end when they are told to. ``log`` has their names in the order that they started."""

    def __init__(self, concurrency: int, queue: int, search_seconds: float = 0.0, patience: float = 600.0):
        self.admission = Admission(concurrency, queue, search_seconds=search_seconds, patience=patience)
        self.log: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str, seconds: float | None = None) -> None:
        """``a1`` is a search of caller ``a``."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._search(name, seconds))
            await settle()

    async def _search(self, name: str, seconds: float | None) -> None:
        with await self.admission.place(name[0], seconds) as place:
            place.on_end = self.ends[name].set
            self.log.append(name)
            await self.ends[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await settle()

    def refused(self) -> set[str]:
        return {name for name, task in self.tasks.items() if task.done() and isinstance(task.exception(), Overloaded)}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_searches_run_up_to_the_limit_and_then_in_order():
    searches = Searches(concurrency=2, queue=2)
    await searches.ask("a1", "a2", "a3", "a4", "a5")
    assert (searches.log, searches.refused()) == (["a1", "a2"], {"a5"})
    await searches.end("a2", "a1", "a3", "a4")
    assert searches.log == ["a1", "a2", "a3", "a4"]
    assert (searches.admission.running.total(), searches.admission.waiting) == (0, 0)


async def test_a_free_place_goes_to_the_caller_with_the_fewest():
    searches = Searches(concurrency=2, queue=10)
    await searches.ask("a1", "a2", "a3", "a4", "b1", "c1", "b2")
    await searches.end("a1")  # a runs one, b and c none, and b asked before c
    await searches.end("a2")  # now only b runs one, and a asked before c
    assert searches.log == ["a1", "a2", "b1", "a3"]
    await searches.end("a3", "b1")
    assert searches.log[4:] == ["c1", "b2"]


async def test_a_call_that_was_cancelled_a_moment_ago_makes_room_as_well():
    searches = Searches(concurrency=1, queue=3)
    await searches.ask("a1", "a2", "a3", "a4")
    searches.ends["b1"] = asyncio.Event()
    searches.tasks["b1"] = asyncio.create_task(searches._search("b1", None))
    searches.tasks["a4"].cancel()  # it still stands in the queue when b1 comes to it
    await settle()
    assert searches.tasks["a4"].cancelled()
    await searches.end("a1", "b1", "a2", "a3")
    assert sorted(searches.log) == ["a1", "a2", "a3", "b1"]


async def test_a_full_queue_takes_from_the_caller_with_the_most():
    searches = Searches(concurrency=1, queue=3)
    await searches.ask("a1", "a2", "a3", "a4", "b1")
    assert searches.refused() == {"a4"}
    await searches.ask("a5", "c1")
    assert searches.refused() == {"a4", "a5", "a3"}
    await searches.ask("d1")
    assert "d1" in searches.refused()


async def test_a_search_that_would_wait_past_its_deadline_is_refused_at_once():
    searches = Searches(concurrency=1, queue=10, search_seconds=2.0)
    await searches.ask("a1", seconds=0.5)  # nothing runs: no wait
    await searches.ask("a2", seconds=3.0)
    await searches.ask("a3", seconds=3.0)  # behind a1 and a2: four seconds
    await searches.ask("b1", seconds=4.5)  # its turn comes before a3's would
    assert (searches.log, searches.refused()) == (["a1"], {"a3"})
    error = searches.tasks["a3"].exception()
    assert 4 <= error.retry_seconds <= 8
    assert "the wait would pass the deadline" in str(error)


async def test_whoever_holds_more_than_a_share_gives_way_to_who_has_waited():
    searches = Searches(concurrency=4, queue=4, patience=0.0)
    await searches.ask("a1", "a2", "a3", "a4")
    assert searches.admission.running == {"a": 4}  # all, while nobody else wants any
    await searches.ask("b1")
    assert searches.ends["a4"].is_set()  # the newest: the least is lost
    assert searches.admission.running == {"a": 3, "b": 1}
    await searches.ask("b2", "b3")
    assert searches.ends["a3"].is_set()
    assert searches.admission.running == {"a": 2, "b": 2}  # b3 waits: b has its share
    await searches.ask("c1")
    assert searches.admission.running == {"a": 1, "b": 2, "c": 1}
    assert searches.refused() == set()


async def test_before_its_patience_is_over_nobody_gives_way():
    searches = Searches(concurrency=2, queue=4)
    await searches.ask("a1", "a2", "b1")
    assert searches.admission.running == {"a": 2}
    assert not any(end.is_set() for end in searches.ends.values())


async def test_who_would_be_let_in_by_patience_is_not_refused_for_the_length_of_others_searches():
    searches = Searches(concurrency=1, queue=4, search_seconds=500.0, patience=5.0)
    await searches.ask("a1")
    assert searches.admission.expected_wait("b") == 500.0  # one place: nobody holds more than a share
    searches = Searches(concurrency=2, queue=4, search_seconds=500.0, patience=5.0)
    await searches.ask("a1", "a2")
    assert searches.admission.expected_wait("b") == 5.0
    assert searches.admission.expected_wait("a") == 250.0


async def test_how_long_searches_take_is_learned():
    searches = Searches(concurrency=1, queue=1)
    await searches.ask("a1")
    assert searches.admission.expected_wait("a") == 0
    await asyncio.sleep(0.02)
    await searches.end("a1")
    await searches.ask("a2")
    assert searches.admission.expected_wait("a") >= 0.02


@pytest.mark.parametrize("ending", ["cancel", "fail"])
async def test_a_search_that_ends_badly_gives_its_place_back(ending):
    admission, started = Admission(1, 0), asyncio.Event()

    async def search() -> None:
        with await admission.place("a", None):
            started.set()
            if ending == "fail":
                raise ValueError
            await asyncio.sleep(60)

    task = asyncio.create_task(search())
    await started.wait()
    task.cancel()
    with contextlib.suppress(ValueError, asyncio.CancelledError):
        await task
    assert admission.running.total() == 0


async def test_a_place_given_to_a_cancelled_search_is_passed_on():
    searches = Searches(concurrency=1, queue=2)
    await searches.ask("a1", "a2", "b1")
    searches.ends["a1"].set()
    await asyncio.sleep(0)  # a1 ends and gives its place to a2, which has not noticed yet
    assert searches.admission.running == {"a": 1}
    searches.tasks["a2"].cancel()
    await settle()
    assert searches.log == ["a1", "b1"]


@settings(max_examples=200, deadline=None)
@given(
    concurrency=st.integers(1, 3),
    queue=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "end", "cancel"]), st.sampled_from("abc")), max_size=40),
)
def test_places_are_never_lost_nor_given_twice(concurrency, queue, steps):
    async def run() -> None:
        searches, number = Searches(concurrency, queue), 0
        for step, caller in steps:
            mine = [name for name, task in searches.tasks.items() if name[0] == caller and not task.done()]
            if step == "ask":
                number += 1
                await searches.ask(f"{caller}{number}")
            elif step == "cancel" and mine:
                searches.tasks[mine[-1]].cancel()
                await settle()
            elif step == "end" and (begun := [name for name in mine if name in searches.log]):
                await searches.end(begun[0])
            open_tasks = [name for name, task in searches.tasks.items() if not task.done()]
            running = sum(name in searches.log for name in open_tasks)
            assert searches.admission.running.total() == running <= concurrency
            assert searches.admission.waiting == len(open_tasks) - running <= queue
            assert running == min(concurrency, len(open_tasks))
        for task in searches.tasks.values():
            task.cancel()
        await settle()
        assert (searches.admission.running.total(), searches.admission.waiting) == (0, 0)

    asyncio.run(run())


def long_search(**options) -> pb.SolveRequest:
    return pb.SolveRequest(prompt=EASY, options=pb.SolveOptions(arm="majority(n=2)", **options))


async def test_one_caller_cannot_shut_the_others_out(solver, generator):
    generator.write, generator.latency = (lambda *_: "Let me think.\n" * 30 + "Answer: 14"), 0.1
    known = [Token(digest_of(name), Caller(name)) for name in ("greedy", "modest")]
    admission = Admission(2, 4, patience=0.2)
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=admission, tokens=lambda: known)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        greedy, modest = ((("authorization", f"Bearer {name}"),) for name in ("greedy", "modest"))
        longs = [stub.Solve(long_search(), metadata=greedy) for _ in range(2)]
        while admission.running != {"greedy": 2}:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        short = stub.Solve(long_search(max_generated_tokens=4, allow_partial=True), metadata=modest)
        assert (await short).solution.stop_reason == pb.STOP_REASON_TOKEN_CAP
        (ended,) = [each for each in longs if each.done()]
        with pytest.raises(grpc.RpcError) as raised:
            await ended
        for each in longs:
            each.cancel()
    await server.stop(grace=0)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, bill = details(raised.value)
    assert reason == "GAVE_WAY"
    assert bill.generated_tokens > 0
    assert "others have waited" in raised.value.details()


@pytest.mark.parametrize(
    ("longest", "timeout", "stop"),
    [(0.3, None, "LONGEST_SEARCH"), (0.3, 60, "LONGEST_SEARCH"), (60, 0.6, "DEADLINE"), (None, 0.6, "DEADLINE")],
)
async def test_a_search_has_a_longest_time_and_the_reply_says_which_limit_ended_it(
    solver, generator, longest, timeout, stop
):
    generator.write, generator.latency = (lambda *_: "Let me think.\n" * 30 + "Answer: 14"), 0.05
    server = Server(BundleManager(solver), "127.0.0.1", 0, longest_search=longest)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        if stop == "LONGEST_SEARCH":
            reply = await stub.Solve(long_search(allow_partial=True), timeout=timeout)
            assert pb.StopReason.Name(reply.solution.stop_reason) == f"STOP_REASON_{stop}"
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Solve(long_search(), timeout=timeout)
    await server.stop(grace=0)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    if stop == "LONGEST_SEARCH":
        reason, bill = details(raised.value)
        assert (reason, bill.generated_tokens > 0) == ("SEARCH_TOO_LONG", True)
        assert "--longest-search" in raised.value.details()


def details(error: grpc.RpcError) -> tuple[str, pb.Bill]:
    info, bill, retry = ErrorInfo(), pb.Bill(), RetryInfo()
    for detail in rpc_status.from_call(error).details:
        assert detail.Unpack(info) or detail.Unpack(bill) or detail.Unpack(retry)
    return info.reason, bill


async def test_callers_see_a_refusal_with_a_time_to_retry(solver, generator):
    generator.latency = 0.05
    server = Server(BundleManager(solver), "127.0.0.1", 0, admission=Admission(1, 0))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        running = stub.Solve(pb.SolveRequest(prompt=EASY))
        while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        with pytest.raises(grpc.RpcError) as raised:
            await stub.Solve(pb.SolveRequest(prompt=EASY))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info, retry = ErrorInfo(), RetryInfo()
        for detail in rpc_status.from_call(raised.value).details:
            assert detail.Unpack(info) or detail.Unpack(retry)
        assert info.reason == "OVERLOADED"
        delay = retry.retry_delay.ToTimedelta().total_seconds()
        assert delay > 0
        assert dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"] == str(round(delay * 1000))
        assert (await stub.Route(pb.RouteRequest(prompt=EASY))).decision.level == 1  # decisions take no place
        assert (await running).solution.answer == "14"
        assert (await stub.Solve(pb.SolveRequest(prompt=EASY))).solution.answer == "14"
    await server.stop(grace=0)
