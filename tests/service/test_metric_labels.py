"""No number that a caller chooses becomes a label of a metric: each new label is a time series kept for ever."""

from dataclasses import replace

import grpc
import pytest

from router.outcomes import tables as database
from router.policy.table import Policy
from router.service.admission import Admission
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.metrics import Metrics
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import parse
from tests.support.recording import HARD, record, rows

CASCADE = "single @0.5 > majority(n=4)"
TARGETS = (0.211, 0.212, 0.213)


@pytest.fixture
def cascading(solver: Solver) -> Solver:
    """A solver whose policy takes a cascade where a caller asks for an accuracy."""
    known = solver.bundle.policy
    cells = [
        replace(cell, arm=parse(CASCADE), low=0.9, accuracy=0.93) if cell.arm == parse("majority(n=4)") else cell
        for cell in known.cells
    ]
    policy = Policy(cells, known.default, deciding=known.deciding, worth=known.worth)
    return Solver(replace(solver.bundle, policy=policy), solver.engines)


async def test_a_target_accuracy_is_in_no_label(cascading, recorder, url):
    bundles = BundleManager(cascading)
    metrics = Metrics(bundles, Admission(), recorder)
    server = Server(bundles, "127.0.0.1", 0, recorder=recorder, observers=[metrics.observe])
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        for target in TARGETS:
            for _ in range(2):  # the second keeps the arm of the first
                asked = pb.SolveRequest(
                    prompt=HARD, objective=pb.Objective(target_accuracy=target), conversation=f"about {target}"
                )
                solution = (await stub.Solve(asked)).solution
                assert solution.decision.arm.text == f"single @{target} > majority(n=4)"  # what ran
                assert await record(stub, solution.call_id, correct=True)
    await server.stop(grace=0)
    labels = {
        sample.labels["arm"]
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if "arm" in sample.labels
    }
    assert labels == {str(arm) for arm in cascading.policy.arms}
    counted = {"level": "5", "arm": CASCADE}
    assert metrics.registry.get_sample_value("router_decisions_total", counted) == 2 * len(TARGETS)
    assert metrics.registry.get_sample_value("router_outcomes_right_total", counted) == len(TARGETS)
    assert {row["listed"] for row in rows(url, database.decisions)} == {CASCADE}
