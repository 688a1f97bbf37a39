"""A server that records its decisions, outcomes told to it, and what its database then holds."""

import contextlib
from typing import Any

import grpc
import sqlalchemy as sql

from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.recorder import Recorder
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

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
