"""Compares Route with an empty service: what deciding costs beyond answering a call at all.

Usage: python -m benchmarks.routing [--bundle models/smollm2-135m] [--servers 1] [--rounds 20] [--json]

This process calls two services in turn, a few hundred calls at a time, over one connection to each server and with the
same code, on bytes. `route` is a plain `router serve` with log and metrics. `echo` is the least that any gRPC service
in Python costs: a grpc.aio server with the same limits, no interceptors, and a Route that parses the same requests and
sends a reply made in advance, of the same size. Requests are the bundle's prompts with other numbers, no two alike.
With `--servers 2` each service is two processes that take calls in turn, as with `--share-port` and many callers. The
last line is one JSON object:

p50_ratio, p99_ratio    latency of Route over that of the echo, one call in flight
p50_ratio_8             the same with 8 in flight, where both servers are busy all the time
throughput_ratio        calls a second of Route over those of the echo, 64 in flight
estimator_ms            median milliseconds of the difficulty model on one prompt
echo, route             p50_ms and p99_ms of one call in flight, calls a second, and CPU microseconds of the servers for
                        each of these; client_cpu_us are this process's, beside it: on two cores it can be the limit
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import grpc
import pandas as pd
import psutil

from router.bundle.bundle import Bundle, load_bundle
from router.service.app import MAX_OTHER_CALLS
from router.service.grpc_door import MAX_MESSAGE_BYTES
from router.v1 import router_pb2 as pb
from router.v1 import router_pb2_grpc

ROUTE = f"/{pb.DESCRIPTOR.services_by_name['RouterService'].full_name}/Route"
IN_FLIGHT = {1: 200, 8: 400, 64: 1000}  # calls in flight → calls in a round


@dataclass
class Measured:
    """Measurements of one service, by number of calls in flight.

    latencies                     seconds of each call
    wall, server_cpu, client_cpu  seconds of wall and CPU time, summed over bursts
    """

    latencies: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in IN_FLIGHT})
    wall: dict[int, float] = field(default_factory=lambda: dict.fromkeys(IN_FLIGHT, 0.0))
    server_cpu: dict[int, float] = field(default_factory=lambda: dict.fromkeys(IN_FLIGHT, 0.0))
    client_cpu: dict[int, float] = field(default_factory=lambda: dict.fromkeys(IN_FLIGHT, 0.0))

    def quantile(self, share: float, in_flight: int = 1) -> float:
        ordered = sorted(self.latencies[in_flight])
        return ordered[int(share * (len(ordered) - 1))]

    def rate(self) -> float:
        return len(self.latencies[64]) / self.wall[64]

    def summary(self) -> dict[str, float]:
        calls = len(self.latencies[64])
        return {
            "p50_ms": round(1e3 * self.quantile(0.5), 3),
            "p99_ms": round(1e3 * self.quantile(0.99), 3),
            "calls_per_s": round(self.rate(), 1),
            "cpu_us": round(1e6 * self.server_cpu[64] / calls, 1),
            "client_cpu_us": round(1e6 * self.client_cpu[64] / calls, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/smollm2-135m"), help="one with its attempts")
    parser.add_argument("--servers", type=int, default=1, help="processes of each service")
    parser.add_argument("--rounds", type=int, default=20, help="of 1600 calls to each server")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--echo", metavar="REPLY", help="be the echo: answer this reply, in hexadecimal")
    options = parser.parse_args()
    if options.echo:
        asyncio.run(echo(pb.RouteResponse.FromString(bytes.fromhex(options.echo))))
        return
    bundle, requests = load_bundle(options.bundle), prompts(options.bundle)
    estimator_ms = 1e3 * statistics.median(_seconds(bundle, next(requests)) for _ in range(300))
    messages = (pb.RouteRequest(prompt=prompt).SerializeToString() for prompt in requests)
    with ExitStack() as stack:
        route = [sys.executable, "-m", "router.cli", "serve", "--backend=fake", "--port=0", "--metrics=127.0.0.1:0"]
        route += [f"--bundle={options.bundle}"]
        servers = {"route": [stack.enter_context(started(route)) for _ in range(options.servers)]}
        reply = asyncio.run(_ask(servers["route"][0].port, next(messages)))
        command = [sys.executable, "-m", "benchmarks.routing", "--echo", reply.hex()]
        servers["echo"] = [stack.enter_context(started(command)) for _ in range(options.servers)]
        measured = asyncio.run(measure(servers, messages, options.rounds))
    echoed, routed = measured["echo"], measured["route"]
    report = {
        "p50_ratio": round(routed.quantile(0.5) / echoed.quantile(0.5), 3),
        "p99_ratio": round(routed.quantile(0.99) / echoed.quantile(0.99), 3),
        "throughput_ratio": round(routed.rate() / echoed.rate(), 3),
        "estimator_ms": round(estimator_ms, 4),
        "p50_ratio_8": round(routed.quantile(0.5, 8) / echoed.quantile(0.5, 8), 3),
        **{name: measured[name].summary() for name in ("echo", "route")},
    }
    if not options.json:
        for name, value in report.items():
            print(f"{name}: {value}")
    print(json.dumps(report))


def prompts(bundle: Path) -> Iterator[str]:
    """Yield prompts like those that the bundle was made from, with every digit drawn anew."""
    files = sorted((bundle / "attempts").glob("*.parquet"))
    known = sorted({prompt for file in files for prompt in pd.read_parquet(file, columns=["prompt"])["prompt"]})
    draw = random.Random(0)
    while True:
        yield re.sub(r"\d", lambda digit: str(draw.randint(digit[0] != "0", 9)), draw.choice(known))


class Started(NamedTuple):
    """A running server."""

    process: psutil.Process
    port: int

    def cpu(self) -> float:
        """Return the seconds of CPU time that it has spent."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def started(command: list[str]) -> Iterator[Started]:
    """Start a server by a command whose first output line ends in its port; stop it at the end."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise SystemExit(f"{' '.join(command)} did not start: {log.read().decode()}")
            yield Started(psutil.Process(process.pid), int(line.rpartition(":")[2]))
        finally:
            process.terminate()


async def echo(reply: pb.RouteResponse) -> None:
    class Echo(router_pb2_grpc.RouterServiceServicer):
        async def Route(self, message: pb.RouteRequest, context: grpc.aio.ServicerContext) -> pb.RouteResponse:  # noqa: N802
            return reply

    server = grpc.aio.server(
        maximum_concurrent_rpcs=MAX_OTHER_CALLS,
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)],
    )
    router_pb2_grpc.add_RouterServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echoing on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def measure(servers: dict[str, list[Started]], messages: Iterator[bytes], rounds: int) -> dict[str, Measured]:
    measured = {name: Measured() for name in servers}
    async with AsyncExitStack() as stack:
        calls: dict[str, list[grpc.aio.UnaryUnaryMultiCallable]] = {name: [] for name in servers}
        for name, started_ones in servers.items():
            for server in started_ones:
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
                calls[name].append((await stack.enter_async_context(channel)).unary_unary(ROUTE))
            await burst(calls[name], [next(messages) for _ in range(200)], 8)  # warms up
        for number in range(rounds):
            for name in sorted(servers, reverse=number % 2 == 1):
                for in_flight, many in IN_FLIGHT.items():
                    batch = [next(messages) for _ in range(many)]
                    cpu, own, began = _cpu(servers[name]), time.process_time(), time.perf_counter()
                    measured[name].latencies[in_flight] += await burst(calls[name], batch, in_flight)
                    measured[name].wall[in_flight] += time.perf_counter() - began
                    measured[name].server_cpu[in_flight] += _cpu(servers[name]) - cpu
                    measured[name].client_cpu[in_flight] += time.process_time() - own
    return measured


async def burst(calls: list[grpc.aio.UnaryUnaryMultiCallable], messages: list[bytes], in_flight: int) -> list[float]:
    """Make calls, ``in_flight`` at a time, to the servers in turn; return the seconds of each."""
    left, seconds = iter(zip(messages, cycle(calls), strict=False)), []

    async def ask() -> None:
        for message, call in left:
            began = time.perf_counter()
            await call(message)
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(ask() for _ in range(in_flight)))
    return seconds


async def _ask(port: int, message: bytes) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reply: bytes = await channel.unary_unary(ROUTE)(message)
        return reply


def _seconds(bundle: Bundle, prompt: str) -> float:
    began = time.perf_counter()
    bundle.difficulty.probabilities(prompt)
    return time.perf_counter() - began


def _cpu(servers: list[Started]) -> float:
    return sum(server.cpu() for server in servers)


if __name__ == "__main__":
    main()
