"""Callers that try again as errors tell them to, and a tally of what a fault cost them."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import sqlalchemy as sql
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from router.outcomes.tables import decisions, outcomes
from router.service import statuses
from router.v1 import router_pb2 as pb
from router.v1.admin_pb2_grpc import AdminServiceStub
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.breakable import Router

PATIENCE = 120  # seconds that a caller keeps trying
CASCADE = "majority(n=2) @0.9 > best_of_n(n=4)"
ARMS = ["single", "best_of_n(n=4)", "majority(n=4)", CASCADE, "beam_search(n=4, m=2)", "revision(n=4, chains=2)"]

Reply = TypeVar("Reply")


@dataclass
class Tally:
    """The cost of one fault.

    times    how often the fault was made
    calls    number of calls during it
    refused  number of their attempts that got a documented error and were repeated as it says
    slowest  seconds of the slowest call, all its attempts together
    lost     a text for each call or outcome that was not answered as it should have been
    """

    fault: str
    times: int = 0
    calls: int = 0
    refused: int = 0
    slowest: float = 0.0
    lost: list[str] = field(default_factory=list)


def report(tallies: list[Tally]) -> str:
    """Return the tallies as a table in Markdown, with the number of kinds of fault."""
    lines = ["| fault | times | calls | told to try again | lost | slowest call, s |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {t.fault} | {t.times:,} | {t.calls:,} | {t.refused:,} | {len(t.lost):,} | {t.slowest:.1f} |"
        for t in tallies
    ]
    return "\n".join(lines) + "\n"


class Caller:
    """Makes calls on one channel, repeats each where the server says so, and counts them in ``tally``."""

    def __init__(self, channel: grpc.aio.Channel, tally: Tally, name: str = "app", *, exact: bool = True):
        self.channel = channel
        self.stub = RouterServiceStub(channel)
        self.admin = AdminServiceStub(channel)
        self.tally = tally
        self.exact = exact  # whether greedy solutions are always right, unlike the fake backend's
        self.metadata = (("authorization", f"Bearer {name}"),)

    async def ask(
        self,
        what: str,
        call: Callable[[], Awaitable[Reply]],
        right: Callable[[Reply], bool] = lambda reply: True,
        *,
        also: grpc.StatusCode | None = None,
        again: bool = True,
    ) -> Reply | None:
        """Make a call and return its reply. Where there is none, count the call as lost and return None.

        also   a status that counts as an answer, too
        again  whether to repeat the call where the error says so
        """
        self.tally.calls += 1
        began = time.monotonic()
        try:
            while True:
                try:
                    reply = await call()
                except grpc.aio.AioRpcError as error:
                    if also is not None and error.code() is also:
                        return None
                    seconds = told_to_retry(error)
                    if seconds is None or time.monotonic() - began > PATIENCE:
                        self.tally.lost.append(f"{what}: {error.code().name} {error.details()}")
                        return None
                    self.tally.refused += 1
                    if not again:
                        return None
                    await asyncio.sleep(seconds)
                else:
                    if not right(reply):
                        self.tally.lost.append(f"{what}: {reply}")
                    return reply
        finally:
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)

    async def refused(self, what: str, call: Callable[[], Awaitable[object]], code: str, because: str = "") -> None:
        """Make a call that must end with status ``code`` and ``because`` in its message; else count it as lost."""
        self.tally.calls += 1
        began = time.monotonic()
        try:
            reply = await call()
        except grpc.aio.AioRpcError as error:
            if error.code().name != code or because not in str(error.details()):
                self.tally.lost.append(f"{what}: {error.code().name} {error.details()}")
        else:
            self.tally.lost.append(f"{what} is taken: {reply}")
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)

    async def solve(
        self, number: int, arm: str, timeout: float = 100, *, again: bool = True, **options: Any
    ) -> pb.SolveResponse | None:
        """Solve one problem. A greedy solution must be right; others must have an answer."""
        prompt, answer = problem(number)
        chosen = pb.SolveOptions(arm=arm, seed=number, **options)
        message = pb.SolveRequest(prompt=prompt, options=chosen)

        def right(reply: pb.SolveResponse) -> bool:
            found = reply.solution.answer
            return found == answer if arm == "single" and self.exact else bool(found)

        return await self.ask(
            f"{arm} of {prompt}",
            lambda: self.stub.Solve(message, timeout=timeout, metadata=self.metadata),
            right,
            again=again,
        )

    async def record(self, call_id: str, correct: bool = True) -> bool:
        """Record an outcome; return whether it was acknowledged."""
        message, began = pb.RecordOutcomeRequest(call_id=call_id, correct=correct), time.monotonic()
        try:
            await self.stub.RecordOutcome(message, timeout=30, metadata=self.metadata)
        except grpc.aio.AioRpcError:
            return False
        finally:
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
        return True


def told_to_retry(error: grpc.aio.AioRpcError) -> float | None:
    """Return the seconds to wait before a retry, where a documented error says so; else None."""
    status = rpc_status.from_call(error)
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details if status else ():
        if not detail.Unpack(info):
            detail.Unpack(retry)
    if info.domain != statuses.DOMAIN or not retry.HasField("retry_delay"):
        return None
    return retry.retry_delay.ToTimedelta().total_seconds()


# Problems contain it, so that they can be found in any log. Fewer digits could stand in an id or a time by chance.
SECRET = 918_273_645_546_000_000


def problem(number: int) -> tuple[str, str]:
    """Return a prompt of five terms, and its answer; no two are alike."""
    terms = [SECRET + number, *(number % (7 + i) + 11 for i in range(4))]
    return " + ".join(map(str, terms)) + " =", str(sum(terms))


def recorded(url: str) -> tuple[set[str], set[str]]:
    """Return the call ids of recorded decisions, and of recorded outcomes."""
    engine = sql.create_engine(url)
    with engine.connect() as connection:
        decided, learned = (
            set(connection.execute(sql.select(table.c.call_id)).scalars()) for table in (decisions, outcomes)
        )
    engine.dispose()
    return decided, learned


async def settled(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Wait until a condition is true; return whether it was in time. It is checked in a thread, since it may block."""
    give_up = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(0.05)
    return True


async def stopped_within(
    router: Router, tally: Tally, seconds: float, calls: Sequence["asyncio.Future[pb.SolveResponse]"]
) -> None:
    """Send SIGTERM while ``calls`` run. The server must end in time, and every call with a reply or a status."""
    began = time.monotonic()
    router.process.signal(signal.SIGTERM)
    tally.times += 1
    tally.calls += len(calls)
    if code := await asyncio.to_thread(router.process.wait):
        tally.lost.append(f"ended with {code}")
    took = time.monotonic() - began
    tally.slowest = max(tally.slowest, took)
    if took > seconds:
        tally.lost.append(f"stopping took {took:.1f} s")
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        if not isinstance(ended, grpc.aio.AioRpcError | pb.SolveResponse):
            tally.lost.append(repr(ended))


async def many_calls(
    caller: Caller, count: int, first: int = 0, *, again: bool = True
) -> Sequence[pb.SolveResponse | None]:
    return await asyncio.gather(*(caller.solve(first + i, ARMS[i % len(ARMS)], again=again) for i in range(count)))


def told_nothing(router: Router) -> None:
    """Check that no prompts and answers are in the log."""
    log = router.log.read_text()
    assert '"message":"call"' in log
    assert [line for line in log.splitlines() if str(SECRET)[:12] in line] == []
    assert "INTERNAL" not in log
    assert "Traceback" not in log
