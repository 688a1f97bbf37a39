"""Measures the service at ten times its capacity: a real server with scripted engines, in a process of its own.

Usage: python -m benchmarks.load [--seconds 20] [--overload 10] [--latency 0.02] [--json]

Two callers with tokens share the server: one asks for a tenth of its capacity, the other for the rest of the load.
Neither retries. Before that, the same calls are made at a fifth of the capacity. The last line is one JSON object:

p99_ratio      p99 latency of admitted calls, under overload / without
polite_share   share of the modest caller's calls that were admitted under overload
goodput        searches finished under overload / the capacity
refused_p99    p99 of the seconds until a refusal
unanswered     number of calls neither answered nor refused
memory_ratio   the server's resident memory at the end of the overload / after its first third
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import random
import tempfile
import time
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import psutil

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.bundle.bundle import load_bundle
from router.service.admission import Admission
from router.service.app import Server
from router.service.auth.callers import read_tokens
from router.service.bundle_manager import BundleManager
from router.solving.solver import Solver
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

CONCURRENCY, QUEUE = 8, 4
PROMPTS = ["7 + 7 =", "12 + 30 - 5 =", "3 + 4 + 5 + 6 =", "71 - 46 + 58 ="]
ARMS = ["majority(n=4)", "majority(n=2) @0.99 > majority(n=4)"]  # the second is a plan of two stages
REQUESTS = [pb.SolveRequest(prompt=prompt, options=pb.SolveOptions(arm=arm)) for prompt, arm in product(PROMPTS, ARMS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/smollm2-135m"))
    parser.add_argument("--seconds", type=float, default=20, help="of overload")
    parser.add_argument("--overload", type=float, default=10, help="calls asked for, over the capacity")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the engine takes for a token")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.toml"
        tokens.write_text(
            "".join(
                f'[{name}]\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n' for name in ("polite", "flood")
            )
        )
        server = context.Process(target=serve, args=(theirs, options.bundle, tokens, options.latency), daemon=True)
        server.start()
        try:
            report = asyncio.run(measure(ours.recv(), server.pid, options))
        finally:
            server.terminate()
            server.join()
    if not options.json:
        print(f"capacity {report['capacity']} searches/s, {report['offered']} asked for", report["counts"])
    print(json.dumps(report))


def serve(pipe: Connection, bundle: Path, tokens: Path, latency: float) -> None:
    async def run() -> None:
        served = load_bundle(bundle)
        reference = served.setup.reference
        engines = Engines({reference: FakeGenerator(latency=latency)}, reference, FakeVerifier())
        solver = Solver(served, engines)
        known = read_tokens(tokens)
        server = Server(
            BundleManager(solver), "127.0.0.1", 0, tokens=lambda: known, admission=Admission(CONCURRENCY, QUEUE)
        )
        await server.start()
        pipe.send(server.port)
        await asyncio.Event().wait()

    asyncio.run(run())


async def measure(port: int, pid: int, options: argparse.Namespace) -> dict[str, object]:
    server = psutil.Process(pid)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = partial(call, RouterServiceStub(channel))
        warm = [await ask("polite", request) for request in REQUESTS]
        mean = sum(seconds for _, _, seconds in warm) / len(warm)
        capacity = CONCURRENCY / mean
        unloaded = await offer(ask, {"polite": 0.2 * capacity}, max(options.seconds, 100 / capacity))
        memory: list[int] = []
        sampling = asyncio.create_task(sample(server, memory))
        rates = {"polite": 0.1 * capacity, "flood": (options.overload - 0.1) * capacity}
        loaded = await offer(ask, rates, options.seconds)
        sampling.cancel()
    seconds = {code: sorted(took for _, found, took in loaded if found == code) for code in ("OK", "REFUSED", "OTHER")}
    polite = [code for name, code, _ in loaded if name == "polite"]
    return {
        "p99_ratio": round(p99(seconds["OK"]) / p99(sorted(took for _, _, took in unloaded)), 2),
        "polite_share": round(polite.count("OK") / len(polite), 3),
        "goodput": round(len(seconds["OK"]) / (options.seconds + mean) / capacity, 3),
        "refused_p99": round(p99(seconds["REFUSED"]), 4),
        "unanswered": len(seconds["OTHER"]),
        "memory_ratio": round(memory[-1] / memory[len(memory) // 3], 3),
        "capacity": round(capacity, 1),
        "offered": round(len(loaded) / options.seconds, 1),
        "unloaded_ok": sum(code == "OK" for _, code, _ in unloaded) / len(unloaded),
        "counts": {code: len(values) for code, values in seconds.items()},
    }


async def offer(ask, rates: dict[str, float], seconds: float) -> list[tuple[str, str, float]]:
    """Make calls at random times, whether or not earlier ones were answered; return (caller, code, seconds) of each."""
    calls: list[asyncio.Task] = []

    async def arrive(name: str, rate: float) -> None:
        draw, due = random.Random(name), time.monotonic()
        end = due + seconds
        while (due := due + draw.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.append(asyncio.create_task(ask(name, draw.choice(REQUESTS))))

    await asyncio.gather(*(arrive(name, rate) for name, rate in rates.items()))
    return await asyncio.gather(*calls)


async def call(stub: RouterServiceStub, name: str, request: pb.SolveRequest) -> tuple[str, str, float]:
    started = time.monotonic()
    try:
        await stub.Solve(request, metadata=[("authorization", f"Bearer {name}")], timeout=120)
        code = "OK"
    except grpc.RpcError as error:
        code = "REFUSED" if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else "OTHER"
    return name, code, time.monotonic() - started


async def sample(server: psutil.Process, memory: list[int]) -> None:
    while True:
        memory.append(server.memory_info().rss)
        await asyncio.sleep(0.5)


def p99(seconds: list[float]) -> float:
    return seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))] if seconds else float("nan")


if __name__ == "__main__":
    main()
