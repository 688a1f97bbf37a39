"""Measures the server's memory under a mix of the longest calls allowed: a real `router serve` on the shipped model.

Usage: python -m benchmarks.memory [--minutes 10] [--bundle models/smollm2-135m] [--memory GIB]
                                    [--characters N] [--json]

Prompts are as long as the model takes, and arms as large as a caller may pin. Calls have a deadline, some are
cancelled, and short ones run beside them. A line every half minute says how much memory the server and its workers
hold. The run has three parts with a pause after each: memory that is held in the pauses and grows is a leak, all other
is the calls'. The last line is a JSON object:

peak_gib     the most that was held
growth_gib   mean of the last part less mean of the second: about 0 where memory does not grow
at_rest_gib  held 15 seconds after the last call of each part; start_gib: held before the first
calls        number of calls by status
"""

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean

import grpc
import psutil

from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

LONGEST = ["majority(n=256)", "best_of_n(n=256)", "weighted_best_of_n(n=128)", "beam_search(n=64, m=4)"]
LONGEST += ["dvts(n=64, m=4)", "lookahead(n=16, m=4, k=1)", "revision(n=64, chains=16)", "majority(n=16)"]
SHORT = ["majority(n=4)", "best_of_n(n=8)", "beam_search(n=4, m=2)"]
AT_ONCE = 16  # calls at a time, as many as the server runs
PARTS = 3
EVERY, REST = 30.0, 15.0  # seconds between two lines, and of a pause
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/smollm2-135m"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--memory", type=float, help="serve --memory")
    parser.add_argument("--characters", type=int, help="of the longest prompts; as many as the model takes by default")
    parser.add_argument("--log", action="store_true", help="show the log of the server on standard error")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


async def measure(options: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, "-m", "router.cli", "serve", "--bundle", str(options.bundle), "--port", "0"]
    command += ["--memory", str(options.memory)] if options.memory else []
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=None if options.log else asyncio.subprocess.DEVNULL
    )
    assert process.stdout
    try:
        line = (await process.stdout.readline()).decode()
        found = re.match(r"serving \S+ on (\S+)", line)
        assert found, f"the server said {line!r}"
        server, ended = psutil.Process(process.pid), Counter[str]()
        start = held(server)
        async with grpc.aio.insecure_channel(found[1]) as channel:
            stub = RouterServiceStub(channel)
            longest = options.characters or await longest_prompt(stub)
            parts: list[list[float]] = []
            rest: list[float] = []
            began = time.monotonic()
            for part in range(PARTS):
                parts.append([])
                stop = time.monotonic() + 60 * options.minutes / PARTS
                callers = [
                    asyncio.create_task(call_until(stop, stub, 1000 * part + i, longest, ended)) for i in range(AT_ONCE)
                ]
                while (left := stop - time.monotonic()) > 0:
                    await asyncio.sleep(min(EVERY, left))
                    parts[-1].append(held(server))
                    if not options.json:
                        minute = (time.monotonic() - began) / 60
                        print(f"{minute:5.1f} min {parts[-1][-1]:6.2f} GiB  {dict(ended)}", flush=True)
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)
                await asyncio.sleep(REST)
                rest.append(held(server))
                if not options.json:
                    print(f"at rest  {rest[-1]:6.2f} GiB", flush=True)
            last = await stub.Solve(pb.SolveRequest(prompt="What is 7 + 8?"), timeout=300)
            assert last.solution.text
    finally:
        process.terminate()
        await process.wait()
    growth = mean(parts[-1]) - mean(parts[-2])
    return {
        "peak_gib": round(max(map(max, parts)), 2),
        "growth_gib": round(growth, 2),
        "start_gib": round(start, 2),
        "at_rest_gib": [round(each, 2) for each in rest],
        "calls": dict(ended),
        "prompt_characters": longest,
    }


def held(server: psutil.Process) -> float:
    """Return the GiB that the server and its workers hold; memory that they share counts once."""
    total: int = server.memory_info().rss
    for child in server.children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:
            continue  # the process has ended
    return total / GIB


def problem(characters: int, draw: random.Random) -> str:
    """Return a sum of that length; no two are alike."""
    terms = "".join(f"{draw.randrange(10, 99)} + " for _ in range(characters // 5))
    return f"Work this out: {terms}{draw.randrange(10, 99)} ="


async def longest_prompt(stub: RouterServiceStub) -> int:
    """Return the characters of the longest sum that the server takes, to within a few hundred."""
    least, most = 100, 40_000
    while most - least > 400:
        middle = (least + most) // 2
        message = pb.SolveRequest(
            prompt=problem(middle, random.Random(0)),
            options=pb.SolveOptions(arm="single", max_generated_tokens=1, allow_partial=True),
        )
        try:
            await stub.Solve(message, timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                most = middle
                continue
        least = middle
    return least - 200


async def call_until(stop: float, stub: RouterServiceStub, number: int, longest: int, ended: Counter[str]) -> None:
    draw = random.Random(number)
    while time.monotonic() < stop:
        long = draw.random() < 0.7
        options = pb.SolveOptions(
            arm=draw.choice(LONGEST if long else SHORT), seed=draw.randrange(1000), allow_partial=True
        )
        length = draw.choice([longest, longest // 3, 600]) if long else 20
        call = stub.Solve(
            pb.SolveRequest(prompt=problem(length, draw), options=options), timeout=draw.choice([15, 40, 90, 240])
        )
        try:
            if draw.random() < 0.15:
                await asyncio.sleep(draw.uniform(0.1, 10))
                call.cancel()
            reply = await call
            ended[pb.StopReason.Name(reply.solution.stop_reason).removeprefix("STOP_REASON_").lower()] += 1
        except grpc.aio.AioRpcError as error:
            ended[error.code().name] += 1
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not call.cancelled() or (task and task.cancelling()):
                raise
            ended["cancelled by the caller"] += 1


if __name__ == "__main__":
    main()
