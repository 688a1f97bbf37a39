"""Valuing a policy from the log that a real server wrote."""

import random

import grpc
import numpy as np
import pytest

from router.backends import Engines
from router.bundle.bundle import load_bundle
from router.evaluation.off_policy import estimate
from router.policy.objectives import Budget
from router.policy.table import Cell, Policy
from router.prompt import Prompt
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.recorder import Recorder
from router.solving.request import Request
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import parse


@pytest.mark.long
async def test_what_a_real_server_wrote_while_exploring_tells_what_another_policy_really_gives(
    bundle_folder, generator, verifier, tmp_path
):
    url = f"sqlite:///{tmp_path}/outcomes.db"
    random.seed(0)  # what the server explores with
    rng = np.random.default_rng(0)
    hard = (
        "Work this out in your head, step by step, without help, paper or any rounding on the way, and then tell me: "
    )
    sums = [" + ".join(map(str, rng.integers(10, 99, size=2 + i % 4))) for i in range(200)]
    prompts, right = [f"{hard}{each} =" for each in sums], [str(sum(map(int, each.split(" + ")))) for each in sums]
    bundle = load_bundle(bundle_folder)
    solver = Solver(bundle, Engines({"small": generator}, "small", verifier), explore=0.5)
    recorder = Recorder(url)
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)
        for i, (prompt, reference) in enumerate(zip(prompts, right, strict=True)):
            options = pb.SolveOptions(seed=i)
            found = (await stub.Solve(pb.SolveRequest(prompt=prompt, options=options), timeout=60)).solution
            learned = pb.RecordOutcomeRequest(call_id=found.call_id, correct=found.answer == reference)
            await stub.RecordOutcome(learned)
    await server.stop(grace=0)

    wanted = parse("best_of_n(n=4)")
    cells = [
        Cell(cell.level, cell.arm, 0.99 if cell.arm == wanted else 0.5, 0.4, 1, cell.prompts, cell.cost)
        for cell in bundle.policy.cells
    ]
    new = Policy(cells, Budget(4))
    report = estimate(url, new, levels_by=bundle.levels_by)
    truth = []
    for seed in range(2):
        for prompt, reference in zip(prompts, right, strict=True):
            solution = await solver.solve(Request(Prompt.of(prompt), arm=wanted, seed=10_000 + seed))
            truth.append((solution.result.answer == reference, solution.bill.generated_tokens))
    accuracy, tokens = np.mean(truth, axis=0)
    assert 0.5 < accuracy < 0.95
    assert (report["used"], report["unsupported"]["share"]) == (200, 0.0)
    for name in ("dr", "snips", "ips"):
        assert report["outcome"][name]["low"] <= accuracy <= report["outcome"][name]["high"], name
    spent = report["cost"]["generated_tokens"]["dr"]
    assert spent["low"] <= tokens <= spent["high"]
