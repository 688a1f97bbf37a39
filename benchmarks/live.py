"""Checks that a running server does as well as the replay promises: solves prompts, and replays the same prompts.

Usage: python -m benchmarks.live PROMPTS [ATTEMPTS ...] [--bundle models/smollm2-135m] [--objective average_budget=16]
       [--arm ARM] [--skip 0] [--limit 200] [--calls 8] [--backend in_process] [--solved FILE] [--json]

`router serve` solves prompts that were never trained on (JSON Lines with references). The arm that it chose for each is
then replayed on the prompt's recorded attempts. Intervals are of the difference, paired by prompt: if one contains 0,
the two agree as far as so many prompts can tell. Without ATTEMPTS nothing is replayed, and prompts need none. With
--arm the same prompts are solved by that arm as well, such as the best fixed one. Solved prompts are kept in --solved,
a line for each, and are not solved again. The last line is one JSON object:

prompts               number solved and replayed; others have no attempts, or too few for their arm
accuracy              live and replayed share of right answers, difference with its 95% interval
generations           the same for generated tokens, in complete solutions of the reference model
flops_ratio           FLOPs spent live / FLOPs by replay, with its 95% interval
confidence            mean confidence that the server reported, and the share of right answers
beside                with --arm: number of prompts, accuracy and generated tokens a prompt of both; gain of accuracy by
                      the policy with its 95% interval
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.routing import started
from router.attempts.prompts import Problem, read_prompts
from router.attempts.schema import read_attempts
from router.bundle.bundle import Bundle, load_bundle
from router.client import connect_aio
from router.evaluation.curves import estimate
from router.policy.objectives import Objective, parse_objective
from router.service.objectives import objective_message
from router.tasks import Tasks
from router.tuning.candidates import replay
from router.tuning.evidence import measure, resamples
from router.tuning.of_bundle import replayable
from router.v1 import router_pb2 as pb
from strategies import Cascade, Strategy, parse

SECONDS = 1800.0  # that a call may take: a slow machine writes a token a second


@dataclass(frozen=True, slots=True)
class Solved:
    """The result for one prompt.

    objective  that was asked for, or the arm;  arm  that was run
    generated  tokens, where another model's tokens count by their relative cost
    """

    prompt_id: str
    objective: str
    arm: str
    levels: tuple[float, ...]
    right: bool
    confidence: float
    generated: float
    flops: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("attempts", type=Path, nargs="*")
    parser.add_argument("--bundle", type=Path, default=Path("models/smollm2-135m"))
    parser.add_argument("--objective", type=parse_objective, default="average_budget=16")
    parser.add_argument("--arm", type=parse, help="solves the same prompts beside the policy")
    parser.add_argument("--skip", type=int, default=0, help="prompts at the beginning that are left out")
    parser.add_argument("--limit", type=int, default=200, help="prompts that are solved")
    parser.add_argument("--calls", type=int, default=8, help="at a time; a server lets 16 run and 8 wait")
    parser.add_argument("--backend", default="in_process")
    parser.add_argument("--solved", type=Path, help="JSON Lines, written while it runs; read first where it is there")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    problems = read_prompts(options.prompts)[options.skip :]
    attempts = read_attempts(options.attempts) if options.attempts else None
    if attempts is not None:
        known = set(attempts["prompt_id"])
        problems = [problem for problem in problems if problem.id in known]
    problems = problems[: options.limit]
    solved = {}
    for asked in [options.objective, *([options.arm] if options.arm else [])]:
        solved[asked] = read(options.solved, str(asked), {problem.id for problem in problems})
        left = [problem for problem in problems if problem.id not in {each.prompt_id for each in solved[asked]}]
        if left:
            command = [sys.executable, "-m", "router.cli", "serve", f"--backend={options.backend}", "--port=0"]
            with started([*command, f"--bundle={options.bundle}"]) as server:
                address = f"127.0.0.1:{server.port}"
                solved[asked] += asyncio.run(solve(address, left, asked, options.calls, bundle, keep=options.solved))
    report = compare(solved[options.objective], attempts, bundle) if attempts is not None else {}
    if options.arm:
        report["beside"] = beside(solved[options.objective], solved[options.arm])
    if not options.json:
        for name, value in report.items():
            print(f"{name}: {value}")
    print(json.dumps(report))


def read(path: Path | None, objective: str, prompts: Set[str]) -> list[Solved]:
    """Read which of these prompts were solved for this objective, or by this arm."""
    if path is None or not path.exists():
        return []
    rows = map(json.loads, path.read_text().splitlines())
    found = [Solved(**{**row, "levels": tuple(row["levels"])}) for row in rows if row["objective"] == objective]
    return [each for each in found if each.prompt_id in prompts]


async def solve(
    address: str,
    problems: Sequence[Problem],
    asked: Objective | Strategy,
    calls: int,
    bundle: Bundle,
    *,
    keep: Path | None = None,
) -> list[Solved]:
    """Solve each prompt once, ``calls`` at a time, and append results to ``keep`` as they come."""
    tasks = Tasks(bundle.setup.tasks)
    options = pb.SolveOptions(arm=str(asked)) if isinstance(asked, Strategy) else None
    objective = None if isinstance(asked, Strategy) else objective_message(asked)
    places = asyncio.Semaphore(calls)
    async with connect_aio(address) as router:

        async def one(problem: Problem) -> Solved:
            messages = [pb.Message(role=each.role, content=each.text) for each in problem.prompt.messages]
            about: dict[str, Any] = {"inputs": dict(problem.inputs)} if problem.inputs else {}
            about |= {"objective": objective, "options": options}
            request = pb.SolveRequest(messages=messages, task=problem.task or "", **about)
            async with places:
                solution = (await router.Solve(request, timeout=SECONDS)).solution
            assert problem.reference is not None, f"{problem.id} has no reference"
            decision, bill = solution.decision, solution.bill
            found = Solved(
                problem.id,
                str(asked),
                decision.arm.text,
                tuple(decision.probabilities),
                bool(solution.answer) and await problem.bound(tasks).right(solution.answer, problem.reference),
                solution.confidence,
                sum(line.generated_tokens * bundle.setup.worth[line.model] for line in writers(bill)),
                bill.generator_flops + bill.verifier_flops,
            )
            if keep:
                with keep.open("a") as file:
                    file.write(json.dumps(asdict(found)) + "\n")
            return found

        with tqdm(total=len(problems), unit="prompt") as bar:
            async with asyncio.TaskGroup() as group:  # one refusal ends them all: a part would be no fair sample
                running = [group.create_task(one(problem)) for problem in problems]
                for each in running:
                    each.add_done_callback(lambda _: bar.update())
        return [each.result() for each in running]


def writers(bill: pb.Bill) -> list[pb.BillLine]:
    return [line for line in bill.lines if line.role == "generator"]


def beside(solved: Sequence[Solved], by_arm: Sequence[Solved]) -> dict[str, Any]:
    """Compare the policy with an arm at the prompts that both solved."""
    other = {each.prompt_id: each for each in by_arm}
    pairs = [(each, other[each.prompt_id]) for each in solved if each.prompt_id in other]
    right = np.array([[each.right for each in pair] for pair in pairs], dtype=float)
    generated = np.array([[each.generated for each in pair] for pair in pairs]).mean(axis=0)
    accuracy = right.mean(axis=0)
    gain = estimate(right[:, 0] - right[:, 1], resamples(len(pairs), np.random.default_rng(0)))
    return {
        "arm": by_arm[0].arm,
        "prompts": len(pairs),
        "accuracy": {"policy": round(float(accuracy[0]), 4), "arm": round(float(accuracy[1]), 4)},
        "generated": {"policy": round(float(generated[0]), 1), "arm": round(float(generated[1]), 1)},
        "gain": asdict(gain),
    }


def compare(solved: Sequence[Solved], attempts: pd.DataFrame, bundle: Bundle) -> dict[str, Any]:
    """Compare what was solved with the replay of the same arms."""
    rows = {each.prompt_id: each for each in solved}
    arms = sorted({parse(each.arm) for each in solved})
    pool = attempts[attempts["arm"] == "sample"].groupby("prompt_id").size()
    sizes = [2**power for power in range(12) if 2**power <= pool.max()]
    measured = measure(attempts, pd.Index(rows), sizes, bundle.setup, arms=arms)
    levels = np.array([rows[prompt].levels for prompt in measured.prompts])
    replayed, missing = replay(
        [arm for arm in arms if isinstance(arm, Cascade)], measured, replayable(bundle, measured, levels)
    )
    for each in missing:
        print(f"not replayed: {each['arm']}: {each['reason']}", file=sys.stderr)
    measured = measured.with_cascades(replayed)
    columns = {str(arm): column for column, arm in enumerate(measured.arms)}
    places = [i for i, prompt in enumerate(measured.prompts) if rows[prompt].arm in columns]
    lived = [rows[measured.prompts[i]] for i in places]
    chosen = np.array([columns[each.arm] for each in lived])
    draws = resamples(len(lived), np.random.default_rng(0))

    def against(live: Sequence[float], replay: Any) -> dict[str, float]:
        here = np.array(live, dtype=float)
        difference = estimate(here - replay, draws)
        return {
            "live": round(float(here.mean()), 4),
            "replay": round(float(replay.mean()), 4),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
        }

    spent, expected = np.array([each.flops for each in lived]), measured.flops[places, chosen]
    low, high = np.quantile((draws @ spent) / (draws @ expected), [0.025, 0.975])
    return {
        "prompts": len(lived),
        "accuracy": against([each.right for each in lived], measured.accuracy[places, chosen]),
        "generations": against(
            [each.generated / measured.sample_tokens[i] for i, each in zip(places, lived, strict=True)],
            measured.generations[places, chosen],
        ),
        "flops_ratio": {
            "value": round(float(spent.sum() / expected.sum()), 3),
            "low": round(float(low), 3),
            "high": round(float(high), 3),
        },
        "confidence": {
            "said": round(float(np.mean([each.confidence for each in lived])), 4),
            "right": round(float(np.mean([each.right for each in lived])), 4),
        },
    }


if __name__ == "__main__":
    main()
