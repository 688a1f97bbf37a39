"""Compares searches through Solve with raw requests to the same vLLM, and with search-and-learn's algorithms.

Usage: python -m benchmarks.engine [--json]
       python -m benchmarks.engine --bundle FOLDER --url small=URL --url verifier=URL [--tokens 512] [--json]

Without addresses, vLLM is started on the CPU, from .venv-vllm (`make test-vllm` makes it), with the models of the
shipped bundle. Your own servers need VLLM_SERVER_DEV_MODE=1, since prefix caches are emptied before each measurement.
They must have no other callers, since tokens are read off vLLM's own counters. The router is `router serve` in a
process of its own. The last line is one JSON object:

throughput_ratio_8, throughput_ratio_32
                    tokens/s of majority(n=4) through Solve, over that of the same prompts, samples and seeds as plain
                    /v1/completions requests (no stream, no log-probabilities), at so many calls at a time
tokens_per_second   in each measurement
tokens_8, tokens_32 generated in each measurement: equal where floating point does not depend on the batch
router_cpu_ms_8, router_cpu_ms_32
                    CPU milliseconds of the router's process per generated token
prefix_hit_rate     of beam searches (n=16, m=4) through Solve: share of the prompts' tokens found in vLLM's cache
search              by arm: mean over prompts of calls (prefixes sent to the generator, n samples of one being one call,
                    and batches sent to the reward model), generated, prefilled and scored tokens; and seconds for all
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import search_and_learn
from benchmarks.search_and_learn import Beam
from router.backends import Usage, Verifier
from router.backends.specs import VERIFIER, Deployment, ModelSpec, Setup
from router.backends.template import encode, resolved
from router.backends.tokenizers import load_tokenizer
from router.backends.vllm import load_verifier
from router.bundle.manifest import digests, read_manifest, write_manifest
from router.cli.options import deployment
from router.client import connect_aio
from router.errors import RouterError
from router.prompt import Prompt
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from strategies import Candidate, Strategy, parse

ROOT = Path(__file__).parent.parent
SAMPLES = 4  # of each call when throughput is measured
CALLERS = (8, 32)
SIZES = (4, 16)  # N of the searches
M = 4
PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
QUERIES, HITS, GENERATED = (
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:generation_tokens_total",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--url",
        action="append",
        metavar="NAME=URL",
        help="vLLM that serves the bundle's reference model, by its name, or verifier=… for its reward model, which "
        "without one is run here",
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64, help="longest solution")
    parser.add_argument("--rounds", type=int, default=1, help="of throughput: raw, Solve, Solve, raw")
    parser.add_argument("--prompts", type=int, default=3, help="of each search beside search-and-learn's; 0: none")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers are stopped then, too
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest, _ = read_manifest(options.bundle)
        setup = manifest.setup
        where = deployment(["vllm"], options.url)
        if not options.url:
            servers = start_vllm(folder, stack)
            where = replace(where, urls={setup.reference: (servers.generator,), VERIFIER: (servers.likelihood,)})
        if setup.reference not in where.urls:
            raise SystemExit(f"name the server of the reference model: --url {setup.reference}=http://host:8000")
        bundle = folder / "bundle"
        shutil.copytree(options.bundle, bundle, ignore=shutil.ignore_patterns("attempts", "larger", "report", "recipe"))
        shortened = replace(setup.main, max_tokens=options.tokens)
        setup = replace(setup, models={**setup.models, setup.reference: shortened})
        write_manifest(bundle, replace(manifest, setup=setup, files=digests(bundle, setup.adapters)))
        address, process = stack.enter_context(router(bundle, where))
        work = run(address, process, setup=setup, where=where, options=options)
        try:
            report = asyncio.run(work)
        except (RouterError, httpx2.HTTPError) as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error
    if not options.json:
        for name, sides in report.get("search", {}).items():
            print(name, *(f"{side}: {values}" for side, values in sides.items()), sep="\n  ")
    print(json.dumps(report))


def start_vllm(folder: Path, stack: ExitStack) -> Any:
    from tests.support import vllm_servers

    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    if not Path(vllm_servers.VLLM[0]).exists():
        raise SystemExit(
            "there is no vLLM to start: `make .venv-vllm/.installed` installs it, or name servers by --url"
        )
    return vllm_servers.start(folder, stack)


@contextmanager
def router(bundle: Path, where: Deployment) -> Iterator[tuple[str, psutil.Process]]:
    """`router serve` on a free port: its address, and its process."""
    command = [sys.executable, "-m", "router.cli", "serve", "--bundle", str(bundle), "--backend", "vllm", "--port", "0"]
    command += [f"--url={name}={url}" for name, urls in where.urls.items() for url in urls]
    command += ["--concurrency", "1000"]  # nobody waits here: the engine's queue is the only one
    log = bundle.parent / "router.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output) as process:
        assert process.stdout
        try:
            said = process.stdout.readline().decode().split()
            if said[:1] != ["serving"]:
                raise SystemExit(f"the router did not start:\n{log.read_text()[-2000:]}")
            yield said[-1], psutil.Process(process.pid)
        finally:
            process.terminate()


@dataclass(frozen=True)
class Spent:
    """The cost of one measurement. ``counted``: increase of vLLM's counters."""

    seconds: float
    cpu: float
    counted: Counter[str]

    @property
    def rate(self) -> float:
        return self.counted[GENERATED] / self.seconds


class Engine:
    """The vLLM server behind the router, asked directly."""

    def __init__(self, url: str, spec: ModelSpec, client: httpx2.AsyncClient, router: psutil.Process):
        self.url, self.spec, self.client, self.router = url, spec, client, router
        self.model = ""

    async def look(self) -> None:
        models = (await self.client.get(f"{self.url}/v1/models")).raise_for_status().json()["data"]
        self.model = self.spec.adapter or models[0]["id"]
        await self.empty()

    async def empty(self) -> None:
        """Empty the prefix cache."""
        answer = await self.client.post(f"{self.url}/reset_prefix_cache")
        if answer.status_code != httpx2.codes.OK or not answer.json()["success"]:
            raise SystemExit(f"{self.url} can't empty its prefix cache: start vLLM with VLLM_SERVER_DEV_MODE=1")

    async def complete(self, prompt: Any, **body: Any) -> list[dict[str, Any]]:
        """Return the choices of one plain request."""
        body |= {"model": self.model, "prompt": prompt, "temperature": self.spec.temperature, **PLAIN}
        response = await self.client.post(f"{self.url}/v1/completions", json=body)
        return response.raise_for_status().json()["choices"]

    async def measure(self, work: Awaitable[Any]) -> Spent:
        """Run ``work`` from an empty prefix cache, and return its cost."""
        before = await self._counters()
        await self.empty()
        cpu, started = self._cpu(), time.monotonic()
        await work
        seconds, cpu = time.monotonic() - started, self._cpu() - cpu
        counted = await self._counters()
        counted.subtract(before)
        return Spent(seconds, cpu, counted)

    async def _counters(self) -> Counter[str]:
        """Return vLLM's counters once nothing runs, since vLLM updates them only after the last answer."""
        while True:
            text = (await self.client.get(f"{self.url}/metrics")).raise_for_status().text
            counters: Counter[str] = Counter()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    counters[sample.name] += sample.value
            if not counters["vllm:num_requests_running"] + counters["vllm:num_requests_waiting"]:
                return counters
            await asyncio.sleep(0.05)

    def _cpu(self) -> float:
        processes = [self.router, *self.router.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)


async def run(
    address: str,
    process: psutil.Process,
    *,
    setup: Setup,
    where: Deployment,
    options: argparse.Namespace,
) -> dict[str, Any]:
    limits = httpx2.Limits(max_keepalive_connections=max(CALLERS), keepalive_expiry=3)  # vLLM hangs up after 5 s
    async with (
        httpx2.AsyncClient(timeout=600, limits=limits, trust_env=False) as client,
        connect_aio(address) as stub,
    ):
        engine = Engine(where.urls[setup.reference][0].rstrip("/"), setup.main, client, process)
        await engine.look()
        report = await throughput(engine, stub, options.rounds)
        if not options.prompts:
            return report
        if setup.verifier.kind == "log_prob":
            return report | await side_by_side(engine, stub, None, options.prompts)
        async with closing(load_verifier(setup.verifier, setup.main, None, options.bundle, where)) as reader:
            return report | await side_by_side(engine, stub, reader, options.prompts)


# Throughput


async def throughput(engine: Engine, stub: RouterServiceStub, rounds: int) -> dict[str, Any]:
    tokenizer = load_tokenizer(engine.spec.model)
    template = resolved(engine.spec.template, tokenizer)
    arm = f"majority(n={SAMPLES})"

    async def raw(prompt: str, seed: int) -> None:
        # The seed that Solve's first request has, so that samples are the same.
        drawn = Random(f"{seed * 1_000_003 + 1}/1/0").getrandbits(62)
        tokens = encode(tokenizer, template.parts(Prompt.of(prompt)))
        await engine.complete(tokens, n=SAMPLES, max_tokens=engine.spec.max_tokens, seed=drawn)

    async def solve(prompt: str, seed: int) -> None:
        await stub.Solve(pb.SolveRequest(prompt=prompt, options=pb.SolveOptions(arm=arm, seed=seed)), timeout=600)

    sides = {"raw": raw, "solve": solve}
    for ask in sides.values():
        await at_once(ask, CALLERS[0], 1)  # warm
    report: dict[str, Any] = {"tokens_per_second": {}}
    spent: dict[str, list[Spent]] = {}
    for callers in CALLERS:
        spent = defaultdict(list)
        for side in ("raw", "solve", "solve", "raw") * rounds:
            spent[side].append(await engine.measure(at_once(sides[side], callers, 2)))
        # Rounds alternate between both sides, so that a machine that slows down affects both alike.
        rates = {
            side: sum(each.counted[GENERATED] for each in values) / sum(each.seconds for each in values)
            for side, values in spent.items()
        }
        report[f"throughput_ratio_{callers}"] = round(rates["solve"] / rates["raw"], 3)
        report["tokens_per_second"][callers] = {
            side: [round(each.rate, 1) for each in values] for side, values in spent.items()
        }
        report[f"tokens_{callers}"] = {side: [each.counted[GENERATED] for each in spent[side]] for side in rates}
        cpu = sum(each.cpu for each in spent["solve"]) / sum(each.counted[GENERATED] for each in spent["solve"])
        report[f"router_cpu_ms_{callers}"] = round(1000 * cpu, 4)
        print(report, file=sys.stderr, flush=True)  # on a CPU all of it takes more than twenty minutes
    return report


async def at_once(ask: Callable[[str, int], Awaitable[None]], callers: int, calls: int) -> None:
    """Ask about ``callers`` * ``calls`` prompts, ``callers`` at a time."""
    waiting = iter(enumerate(problems(callers * calls)))

    async def caller() -> None:
        for seed, prompt in waiting:
            await ask(prompt, seed)

    await asyncio.gather(*(caller() for _ in range(callers)))


def problems(count: int) -> list[str]:
    """Return prompts of about 50 tokens, whose solutions have 40; vLLM caches whole blocks of 32 tokens on a CPU."""
    draw = Random(0)
    animals = ["spiders", "cows", "ants", "chickens", "crabs", "horses", "beetles"]
    lists = [", ".join(f"{draw.randint(2, 9)} {each}" for each in draw.sample(animals, 2)) for _ in range(count)]
    return [
        "Your task is to count how many legs there are in total when given a list of animals.\n\n"
        f"Now, how many legs are there in total if you have {each}?"
        for each in lists
    ]


# Searches


async def side_by_side(
    engine: Engine, stub: RouterServiceStub, verifier: Verifier | None, count: int
) -> dict[str, Any]:
    """Measure both programs' searches. Without a verifier that reads text, measure only our own."""
    order = ("search_and_learn", "solve", "solve", "search_and_learn") if verifier else ("solve", "solve")
    prompts = problems(count)
    theirs = {"best_of_n": search_and_learn.best_of_n, "beam_search": search_and_learn.beam_search}
    theirs["dvts"] = search_and_learn.dvts
    report: dict[str, Any] = {"search": {}}
    for n in SIZES:
        for strategy, search in theirs.items():
            arm = parse(f"{strategy}(n={n})" if strategy == "best_of_n" else f"{strategy}(n={n}, m={M})")
            rows: dict[str, list[dict[str, float]]] = defaultdict(list)
            hits: Counter[str] = Counter()
            for seed, side in enumerate(order):
                usage = Usage()
                if verifier is None or side == "solve":
                    spent = await engine.measure(solve_all(stub, arm, prompts, seed, usage))
                    hits += spent.counted
                else:
                    ask = Asking(engine, verifier, usage)
                    spent = await engine.measure(search(prompts, n, M, ask.write, ask.read))
                rows[side].append(
                    {
                        "calls": usage.calls / count,
                        "generated": spent.counted[GENERATED] / count,
                        "prefilled": (spent.counted[QUERIES] - spent.counted[HITS]) / count,
                        "scored": usage.scored_tokens / count,
                        "seconds": spent.seconds,
                    }
                )
            report["search"][str(arm)] = {
                side: {name: round(mean(row[name] for row in values), 1) for name in values[0]}
                for side, values in rows.items()
            }
            if (strategy, n) == ("beam_search", SIZES[-1]):
                report["prefix_hit_rate"] = round(hits[HITS] / hits[QUERIES], 3)
            print(report, file=sys.stderr, flush=True)
    return report


async def solve_all(stub: RouterServiceStub, arm: Strategy, prompts: Sequence[str], seed: int, usage: Usage) -> None:
    options = pb.SolveOptions(arm=str(arm), seed=seed)
    calls = (stub.Solve(pb.SolveRequest(prompt=prompt, options=options), timeout=600) for prompt in prompts)
    for response in await asyncio.gather(*calls):
        bill = response.solution.bill
        usage.add(calls=bill.engine_calls, scored_tokens=bill.scored_tokens)


class Asking:
    """Calls the engines for search-and-learn's algorithms: sends a batch of texts, and waits for all answers."""

    def __init__(self, engine: Engine, verifier: Verifier, usage: Usage):
        self.engine, self.verifier, self.usage = engine, verifier, usage
        self.template = resolved(engine.spec.template, load_tokenizer(engine.spec.model))

    async def write(self, beams: Sequence[Beam], whole: bool) -> list[Beam]:
        stop = {} if whole else {"stop": [self.template.delimiter], "include_stop_str_in_output": True}
        texts = [self.template.render(Prompt.of(beam.prompt)) + beam.text for beam in beams]
        longest = self.engine.spec.max_tokens
        choices = await self.engine.complete(texts, n=1, max_tokens=longest, return_token_ids=True, **stop)
        self.usage.add(calls=len(beams))
        written = []
        for beam, choice in zip(beams, sorted(choices, key=lambda choice: choice["index"]), strict=True):
            tokens = beam.tokens + len(choice["token_ids"])
            stopped = choice["finish_reason"] == "stop" and isinstance(choice["stop_reason"], str)
            written.append(Beam(beam.prompt, beam.text + choice["text"], tokens, not stopped or tokens >= longest))
        return written

    async def read(self, beams: Sequence[Beam]) -> list[float]:
        delimiter = self.template.delimiter

        async def of(prompt: str) -> list[float]:
            texts = [beam.text for beam in beams if beam.prompt == prompt]
            solutions = [Candidate(steps=tuple(filter(str.strip, text.split(delimiter)))) for text in texts]
            scored = await self.verifier.score(Prompt.of(prompt), solutions, max_tokens=None, usage=self.usage)
            return [0.0 if solution.score is None else solution.score for solution in scored]

        prompts = list(dict.fromkeys(beam.prompt for beam in beams))
        scores = {
            prompt: iter(each) for prompt, each in zip(prompts, await asyncio.gather(*map(of, prompts)), strict=True)
        }
        return [next(scores[beam.prompt]) for beam in beams]


@asynccontextmanager
async def closing(verifier: Verifier) -> AsyncIterator[Verifier]:
    try:
        yield verifier
    finally:
        await verifier.close()


if __name__ == "__main__":
    main()
