"""The command demo: starts the real server, sends it problems of rising difficulty, and prints a row for each."""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from router.cli.call import stage_line
from router.cli.compared import Ran
from router.cli.compared import table as compared
from router.cli.options import Backend, ObjectiveOption, Served
from router.client import connect
from router.errors import RouterError
from router.policy.objectives import parse_objective
from router.service.objectives import objective_message
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub

_SUM = "State the final answer to the following arithmetic problem: {} ="
_PRODUCT = "Solve the following multiplication: {}. Give only the result as your final answer."
_LEGS = (
    "Your task is to count how many legs there are in total when given a list of animals.\n\n"
    "Now, how many legs are there in total if you have {}?"
)
_EQUATION = "Solve for x: {}"
_GCD = "Find the Greatest Common Divisor (GCD) of these numbers: {}. Give only the GCD as your final answer."
# Each problem: the part that varies, the prompt around it, the right answer.
PROBLEMS = [
    ("3 + 8 + 6", _SUM, "17"),
    ("3 * 5 * 4", _PRODUCT, "60"),
    ("4*x + 6 = 26", _EQUATION, "5"),
    ("3 chickens, 5 beetles", _LEGS, "36"),
    ("38 + 47", _SUM, "85"),
    ("84, 36", _GCD, "12"),
    ("24 + 61 + 35 + 47", _SUM, "167"),
    ("47 * 36", _PRODUCT, "1692"),
]
_COLUMNS = (
    ("problem", 25),
    ("level", 8),
    ("arm", 25),
    ("answer", 7),
    ("", 5),
    ("sure", 4),
    ("tokens", 8),
    ("scored", 7),
    ("s", 5),
)
_START_SECONDS, _SOLVE_SECONDS = 300, 600


class ServerFailed(Exception):
    """The server ended, or never answered."""


def demo(
    *,
    bundle: Served,
    backend: Backend = None,
    objective: ObjectiveOption = None,
) -> None:
    """Serve a bundle on a free loopback port, solve a few problems on it, and stop it again."""
    console = Console(highlight=False)
    console.width = max(console.width, sum(width for _, width in _COLUMNS) + 2 * len(_COLUMNS))
    signal.signal(signal.SIGTERM, _exit)  # so that SIGTERM also stops the server
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        console.print(f"starting the server with {bundle}; loading the models takes a while", soft_wrap=True)
        try:
            with console.status("starting the server") as status, _server(bundle, backend, log) as process:
                address = _address(process, log, status)
                console.print(f"the server answers on {address}")
                with connect(address) as stub:
                    _solve_all(stub, objective, console, status)
        except (RouterError, ServerFailed) as error:
            said = log.read_text().splitlines()
            if said and said[-1].startswith("router: "):  # the server's own error in one line
                typer.echo(said[-1], err=True)
                raise typer.Exit(1) from error
            console.print(f"the demo failed: {error}\nthe server's last lines:", markup=False)
            console.print("\n".join(said[-20:]), markup=False)
            raise typer.Exit(1) from error


def _exit(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


@contextmanager
def _server(bundle: Path, backend: list[str] | None, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `router serve` on a free port, and stop it at the end, whatever happens."""
    command = [
        sys.executable,
        "-m",
        "router.cli",
        "serve",
        "--bundle",
        str(bundle),
        "--port",
        "0",
        *(part for name in backend or () for part in ("--backend", name)),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path, status: Status) -> str:
    """Wait until the server reports SERVING, and return its address."""
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < _START_SECONDS:
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with exit code {process.returncode}")
        status.update(f"starting the server: loading the models, {seconds:.0f} s")
        found = re.search(r"^serving \S+ on (\S+)$", log.read_text(), re.M)
        if found and _serving(found[1]):
            return found[1]
        time.sleep(0.2)
    raise ServerFailed(f"the server did not answer within {_START_SECONDS} s")


def _serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _solve_all(stub: RouterServiceStub, objective: str | None, console: Console, status: Status) -> None:
    asked = parse_objective(objective) if objective else None
    wanted = objective_message(asked) if asked else None
    console.print(_row(f"[bold]{name}" for name, _ in _COLUMNS))
    ran: list[Ran] = []
    for number, (varying, prompt, reference) in enumerate(PROBLEMS, start=1):
        started = time.monotonic()
        doing = f"problem {number} of {len(PROBLEMS)}: {varying}"
        status.update(doing)
        request = pb.StreamSolveRequest(prompt=prompt.format(varying), objective=wanted)
        for event in stub.StreamSolve(request, timeout=_SOLVE_SECONDS):
            if event.HasField("solution"):
                solution = event.solution
                console.print(_solved(varying, reference, solution, time.monotonic() - started))
                for stage in solution.stages:
                    console.print(f"  [dim]{escape(stage_line(stage))}", soft_wrap=True)
                ran.append(Ran(solution.decision, solution.bill, _right(solution, reference)))
            elif event.HasField("stage"):
                status.update(f"{doing}: {escape(stage_line(event.stage))}")
            elif event.HasField("round"):
                now = event.round
                leader = f", leading answer {now.answer} ({now.share:.0%})" if now.answer else ""
                status.update(f"{doing}: round {now.number}, {now.generated_tokens} tokens{leader}")
    console.print()
    console.print(compared(stub.GetBundle(pb.GetBundleRequest(), timeout=_SOLVE_SECONDS).bundle, ran))


def _solved(varying: str, reference: str, solution: pb.Solution, seconds: float) -> Table:
    decision, bill = solution.decision, solution.bill
    return _row(
        (
            varying,
            f"{decision.level} ({decision.probabilities[decision.level - 1]:.2f})",
            decision.arm.text,
            solution.answer if solution.HasField("answer") else "none",
            "[green]right" if _right(solution, reference) else "[red]wrong",
            f"{solution.confidence:.0%}" if solution.HasField("confidence") else "",
            str(bill.generated_tokens),
            str(bill.scored_tokens),
            f"{seconds:.1f}",
        )
    )


def _right(solution: pb.Solution, reference: str) -> bool:
    return solution.HasField("answer") and bool(solution.answer == reference)


def _row(cells: Iterator[str] | tuple[str, ...]) -> Table:
    """Return one row of a table that is printed row by row."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, width in _COLUMNS:
        table.add_column(
            width=width, justify="right" if name in ("answer", "sure", "tokens", "scored", "s") else "left"
        )
    table.add_row(*cells)
    return table
