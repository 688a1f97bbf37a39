"""Compares RouteBatch with Route: how many prompts a second each decides, on one server in one run.

Usage: python -m benchmarks.batches [--bundle models/smollm2-135m] [--prompts 500] [--rounds 10] [--json]

This process calls one server, a plain `router serve` with log and metrics. Each round sends prompts by Route, with 64
calls in flight, and as many by RouteBatch, with two calls in flight. Messages are made in advance as bytes, and replies
are not parsed, so that only the server is measured. Prompts are the bundle's with other numbers, no two alike. The last
line is one JSON object:

ratio                     prompts a second of RouteBatch over those of Route
cpu_ratio                 CPU time of the server for a prompt of Route over that for one of RouteBatch; on a machine
                          that is shared it is the steadier number
route, route_batch        prompts a second, and CPU microseconds of the server for each
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import grpc

from benchmarks.routing import ROUTE, Started, burst, prompts, started
from router.v1 import router_pb2 as pb

BATCH = ROUTE.replace("/Route", "/RouteBatch")
GENERATIONS = 8  # budget of a batch, per prompt


@dataclass
class Measured:
    """Number of prompts decided, and the seconds of wall time and of the server's CPU time that they took."""

    prompts: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    def summary(self) -> dict[str, float]:
        return {
            "prompts_per_s": round(self.prompts / self.wall, 1),
            "cpu_us": round(1e6 * self.cpu / self.prompts, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/smollm2-135m"), help="one with its attempts")
    parser.add_argument("--prompts", type=int, default=500, help="of one batch")
    parser.add_argument("--rounds", type=int, default=10, help="of two batches, and of as many prompts by Route")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    command = [sys.executable, "-m", "router.cli", "serve", "--backend=fake", "--port=0", "--metrics=127.0.0.1:0"]
    with started([*command, f"--bundle={options.bundle}"]) as server:
        alone, together = asyncio.run(measure(server, prompts(options.bundle), options.prompts, options.rounds))
    report = {
        "ratio": round((together.prompts / together.wall) / (alone.prompts / alone.wall), 2),
        "cpu_ratio": round((alone.cpu / alone.prompts) / (together.cpu / together.prompts), 2),
        "route": alone.summary(),
        "route_batch": together.summary(),
    }
    if not options.json:
        for name, value in report.items():
            print(f"{name}: {value}")
    print(json.dumps(report))


async def measure(server: Started, texts: Iterator[str], size: int, rounds: int) -> tuple[Measured, Measured]:
    """Measure Route and RouteBatch. The first round only warms up."""
    alone, together = Measured(), Measured()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        route, batch = channel.unary_unary(ROUTE), channel.unary_unary(BATCH)
        for number in range(rounds + 1):
            single = [pb.RouteRequest(prompt=text).SerializeToString() for text in islice(texts, 2 * size)]
            batches = [_batch(list(islice(texts, size))) for _ in range(2)]
            kinds = [(alone, route, single, 64), (together, batch, batches, 2)]
            for measured, call, messages, in_flight in kinds if number % 2 else reversed(kinds):
                cpu, began = server.cpu(), time.perf_counter()
                await burst([call], messages, in_flight)
                if number:
                    measured.prompts += 2 * size
                    measured.wall += time.perf_counter() - began
                    measured.cpu += server.cpu() - cpu
    return alone, together


def _batch(texts: list[str]) -> bytes:
    total = pb.BatchBudget(generations=GENERATIONS * len(texts))
    return pb.RouteBatchRequest(
        prompts=[pb.BatchPrompt(prompt=text) for text in texts], budget=total
    ).SerializeToString()


if __name__ == "__main__":
    main()
