"""What the README and the pages in docs show is what the code does and what the reports say."""

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path

from router import client
from router.bundle.bundle import read_policy
from router.v1 import router_pb2 as pb
from tests.support.commands import COMMANDS
from tests.support.http import serving

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
PAGES = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))


def run(example: str, port: int, http: int | None = None) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        here = example.replace("127.0.0.1:50551", f"127.0.0.1:{port}").replace("127.0.0.1:8080", f"127.0.0.1:{http}")
        exec(here, {"__name__": "__main__"})
    return printed.getvalue()


async def test_the_python_example_runs(server):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    answer, level, share = (await asyncio.to_thread(run, example, server.port)).split()
    assert (answer, int(level) in range(1, 6), share.endswith("%")) == ("83", True, True)


async def test_the_clients_examples_run(solver):
    examples = re.findall(r"```python\n(.*?)```", CLIENTS, re.S)
    async with serving(solver) as server:
        printed = [await asyncio.to_thread(run, example, server.port, server.http_port) for example in examples]
    solved, batch, gathered, streamed, failed, openai = printed
    assert solved.startswith("83 ")
    assert {line[:4] for line in batch.splitlines()[:2]} == {"0 17", "1 83"}
    assert batch.splitlines()[2].startswith("2 solved, ")
    assert gathered.split() == ["17", "83"]
    assert streamed.startswith("round 1")
    assert streamed.endswith("\n83\n")
    assert failed.startswith("prompt PROMPT_EMPTY")
    assert failed.endswith(f"{pb.STOP_REASON_COMPLETE} 83\n")
    assert re.fullmatch(r"71 - 46 = 25\n25 \+ 58 = 83\nAnswer: 83\n83 \d .+ \d+\n", openai)


def test_the_retries_that_other_languages_are_told_of_are_our_own():
    (told,) = re.findall(r"```json\n(.*?)```", CLIENTS, re.S)
    assert json.loads(told) == json.loads(client._RETRIES)


def test_every_command_is_named():
    for name in COMMANDS:
        assert f"router {name}" in PAGES or f"`{name}`" in PAGES, name


def written(found, sign="+"):
    return f"{found['value']:{sign}.3f} [{found['low']:.3f}, {found['high']:.3f}]".replace("-", "−")


def test_its_figures_of_generated_arithmetic_are_those_of_the_reports():
    bundle = ROOT / "models/smollm2-135m"
    alone, beside = (
        json.loads((folder / "report/evaluation.json").read_text()) for folder in (bundle, bundle / "larger")
    )
    for name in ("gain_over_best_fixed", "gain_over_best_fixed_cascade"):
        row = " | ".join(written(alone[name][budget]) for budget in ("8", "16", "32"))
        assert row in README, name
    levels = {row["budget"]: row["gains"]["confidence_only"] for row in alone["averages"]}
    assert " | ".join(written(levels[budget]) for budget in (8, 16, 32)) in README
    for figure in ("accuracy_at_larger_cost", "accuracy_at_1.5_larger_cost"):
        assert written(beside[figure], "") in README, figure
    assert f"its accuracy at {beside['cost_of_larger_accuracy']:.2f} of its cost" in README
    assert f"on {alone['prompts']} [held-out prompts]" in README
    for report in (alone, beside):
        for name in ("savings_fixed_budget", "savings_average_budget"):
            found = report[name]
            assert f"{found['value']:.1f}" in README
            assert f"[{found['low']:.1f}, {found['high']:.1f}]" in README, name


def test_the_pages_figures_of_arms_are_those_of_the_shipped_policy():
    _, _, policy = read_policy(ROOT / "models/smollm2-135m")
    cells = {(str(cell.level), str(cell.arm)): cell for cell in policy.cells}
    concepts, ui = ((ROOT / "docs" / name).read_text() for name in ("concepts.md", "ui.md"))
    rows = re.findall(r"^\| (\d) \| `(.+)` \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \| ([\d.]+) \|$", concepts, re.M)
    assert len(rows) == 3
    for level, arm, *figures in rows:
        cell = cells[level, arm]
        measured = f"{cell.accuracy:.2f}", f"{cell.low:.2f}", f"{cell.high:.2f}", f"{cell.cost.generations:.1f}"
        assert measured == tuple(figures), arm
    ((level, arm, right),) = re.findall(r"At level (\d) this arm,\s`(.+)`, is right on ([\d.]+)\. ", ui)
    assert f"{cells[level, arm].accuracy:.2f}" == right
