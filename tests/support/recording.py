"""A server that records decisions and outcomes, and functions that read what its database holds."""

import contextlib
from typing import Any

import grpc
import sqlalchemy as sql

from router.policy.objectives import Budget
from router.prompt import Prompt
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.middleware.call import CallRecord
from router.service.recorder import Recorder
from router.solving.bill import Bill
from router.solving.request import Request
from router.solving.solver import Decision, Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.searches import named

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


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


def routed(call_id: str, caller: str = "app", prompt: str = EASY, code: str = "OK", **fields: Any) -> CallRecord:
    """Return a finished call with a decision."""
    decision = Decision(1, (1.0, 0.0, 0.0, 0.0, 0.0), named("single"), None, "b@1", objective=Budget(1))
    request = Request(Prompt.of(prompt))
    return CallRecord(
        call_id, "Router", "Route", caller, code, "", 0.1, request=request, decision=decision, bill=Bill(), **fields
    )


def decided(recorder: Recorder, *call_ids: str, caller: str = "app") -> None:
    """Record decisions, so that outcomes of these calls can be recorded."""
    for call_id in call_ids:
        recorder.record_decision(routed(call_id, caller))
