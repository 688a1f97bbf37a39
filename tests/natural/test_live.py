"""Each natural bundle serves on its backend and solves held-out problems. Fetches the weights: `make test-natural`."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.live import SECONDS, Solved, solve
from benchmarks.routing import started
from router.attempts.prompts import read_prompts
from router.bundle.bundle import load_bundle
from router.policy.objectives import parse_objective
from router.tasks.code import CodeTask
from router.tasks.sandbox import Sandbox

pytestmark = [pytest.mark.natural, pytest.mark.timeout(3600)]  # on two cores

NATURAL = Path(__file__).parent.parent.parent / "models" / "natural"
PROMPTS = 10
# Solutions of the larger model; of code, which CI tries on any machine, those of the smaller one, chosen by the test.
OBJECTIVE = "budget=4"
OBJECTIVES = {"mbpp": "budget=2"}
HELD_OUT = {
    "gsm8k": ["gsm8k"],
    "mbpp": ["mbpp"],
    "mmlu-stem": ["mmlu-stem"],
    "mixed": ["gsm8k", "mbpp", "mmlu-stem"],
}
TASKS = {"gsm8k": "math", "mbpp": "code", "mmlu-stem": "choice"}


def solved(bundle: str, monkeypatch: pytest.MonkeyPatch) -> list[Solved]:
    folder = NATURAL / bundle
    if not (folder / "manifest.json").exists():
        pytest.skip(f"{bundle} was not made yet: models/natural/recipe/README.md")
    code = "mbpp" in HELD_OUT[bundle]
    if code:
        monkeypatch.setattr(CodeTask, "sandbox", Sandbox(allow_code=True))
    problems = []
    for task in HELD_OUT[bundle]:
        rows = read_prompts(NATURAL / "recipe" / "data" / f"{task}-heldout.jsonl")
        own = list(rows)[: -(-PROMPTS // len(HELD_OUT[bundle]))]
        problems += [replace(problem, task=TASKS[task]) for problem in own]
    command = [sys.executable, "-m", "router.cli", "serve", "--port=0", f"--bundle={folder}"]
    command += [f"--longest-search={SECONDS:g}"]
    with started([*command, *["--allow-code"] * code]) as server:
        address = f"127.0.0.1:{server.port}"
        # All at once: on a slow machine a round takes the time in which the weights are read, whatever its width.
        objective = OBJECTIVES.get(bundle, OBJECTIVE)
        return asyncio.run(solve(address, problems[:PROMPTS], parse_objective(objective), PROMPTS, load_bundle(folder)))


@pytest.mark.parametrize("bundle", HELD_OUT)
def test_a_bundle_solves_held_out_problems(bundle, monkeypatch):
    found = solved(bundle, monkeypatch)
    assert len(found) == PROMPTS
    assert all(each.flops > 0 for each in found)
    assert any(each.right for each in found)
    assert all(0 <= each.confidence <= 1 for each in found)
