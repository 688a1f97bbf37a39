"""The `router` commands. Settings are read here and nowhere else: options, or environment variables named ROUTER_*."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import groups as commands
from router.cli.options import parse_arm
from router.errors import InvalidFile, InvalidRequest, RouterError
from router.extras import missing

if TYPE_CHECKING:
    from router.v1 import router_pb2 as pb

UINT32 = 2**32 - 1


class _Commands(typer.core.TyperGroup):
    """Prints a RouterError as one line: exit code 2 where the input is wrong, 1 where the router is.

    An optional package that is not installed is one, too.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError as error:
                if not (known := missing(error)):
                    raise
                raise known from error
        except RouterError as error:
            typer.echo(f"router: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, InvalidRequest | InvalidFile) else 1) from error


main = typer.Typer(
    cls=_Commands,
    help="Routes each prompt to the test-time strategy and budget that were measured to be best at its difficulty.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # in rich's own markup "[default: none]" would be a tag, and vanish
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"router {version('compute-optimal-router')}")
        raise typer.Exit


@main.callback()
def _version(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


Prompt = Annotated[str, typer.Argument(help="The problem's text; - reads it from standard input.")]
Budget = Annotated[
    int | None,
    typer.Option(
        envvar="ROUTER_BUDGET",
        min=0,
        max=UINT32,
        help="Objective: the best arm of at most so many complete solutions' worth of sampling.  "
        "[default objective: the bundle's]",
    ),
]
AverageBudget = Annotated[
    float | None,
    typer.Option(help="Objective: the best accuracy with so many complete solutions spent on average over prompts."),
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(help="Objective: the cheapest arm that is right with at least this probability, from 0 to 1."),
]
PricePerFlop = Annotated[
    float | None,
    typer.Option(help="Objective: the largest accuracy less price, a FLOP costing this and a right answer worth 1."),
]
Address = Annotated[str, typer.Option(envvar="ROUTER_ADDRESS", help="host:port of the server.")]
Token = Annotated[
    str | None, typer.Option(envvar="ROUTER_TOKEN", help="Bearer token; the variable keeps it out of process lists.")
]
Tls = Annotated[bool, typer.Option("--tls", envvar="ROUTER_TLS", help="Encrypt; implied by the next three.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(envvar="ROUTER_TLS_CA", help="Authorities of the server's certificate, PEM.  [default: the usual]"),
]
TlsCert = Annotated[
    Path | None, typer.Option(envvar="ROUTER_TLS_CERT", help="Your own certificate, PEM, for mutual TLS.")
]
TlsKey = Annotated[Path | None, typer.Option(envvar="ROUTER_TLS_KEY", help="Its private key, PEM.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", envvar="ROUTER_INSECURE", help="Send the token without encryption.")
]
Timeout = Annotated[float, typer.Option(envvar="ROUTER_TIMEOUT", min=0.001, help="Deadline of the call, in seconds.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a line.")]


@main.command()
def route(
    prompt: Prompt,
    *,
    budget: Budget = None,
    average_budget: AverageBudget = None,
    target_accuracy: TargetAccuracy = None,
    price_per_flop: PricePerFlop = None,
    address: Address = "127.0.0.1:50551",
    token: Token = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
    timeout: Timeout = 60.0,
    json: Json = False,
) -> None:
    """Show a prompt's predicted level and the arm that would run, without running it."""
    from router.client import connect
    from router.v1 import router_pb2 as pb

    objective = _objective(budget, average_budget, target_accuracy, price_per_flop)
    with connect(address, token=token, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, insecure=insecure) as stub:
        reply = stub.Route(pb.RouteRequest(prompt=_text(prompt), **objective), timeout=timeout)
    if json:
        _print_json(reply)
    else:
        _print_decision(reply.decision)


@main.command()
def solve(
    prompt: Prompt,
    *,
    budget: Budget = None,
    average_budget: AverageBudget = None,
    target_accuracy: TargetAccuracy = None,
    price_per_flop: PricePerFlop = None,
    arm: Annotated[
        str | None,
        typer.Option(help='Run this arm instead of the policy\'s choice, e.g. "beam_search(n=16, m=4)".'),
    ] = None,
    max_generated_tokens: Annotated[
        int | None, typer.Option(min=0, max=UINT32, help="Hard cap on generated tokens.  [default: none]")
    ] = None,
    max_scored_tokens: Annotated[
        int | None, typer.Option(min=0, max=UINT32, help="Hard cap on tokens the verifier reads.  [default: none]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=UINT32, help="Seed of the sampling.")] = 0,
    allow_partial: Annotated[
        bool, typer.Option(help="Take what was found when a cap or the deadline ends the search.")
    ] = False,
    candidates: Annotated[bool, typer.Option(help="Show every solution that was weighed, with its scores.")] = False,
    stream: Annotated[bool, typer.Option(help="Show the search's rounds live.")] = False,
    address: Address = "127.0.0.1:50551",
    token: Token = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
    timeout: Timeout = 600.0,
    json: Json = False,
) -> None:
    """Route a prompt, run the arm, and print the answer with its bill."""
    from router.client import connect
    from router.service import conversion as wire
    from router.v1 import router_pb2 as pb

    objective = _objective(budget, average_budget, target_accuracy, price_per_flop)
    options = pb.SolveOptions(
        arm=wire.arm(parse_arm(arm)) if arm else None,
        max_generated_tokens=max_generated_tokens,
        max_scored_tokens=max_scored_tokens,
        seed=seed,
        allow_partial=allow_partial,
        return_candidates=candidates,
    )
    with connect(address, token=token, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, insecure=insecure) as stub:
        if not stream:
            reply = stub.Solve(pb.SolveRequest(prompt=_text(prompt), **objective, options=options), timeout=timeout)
            return _print_json(reply) if json else _print_solution(reply.solution)
        request = pb.StreamSolveRequest(prompt=_text(prompt), **objective, options=options)
        for event in stub.StreamSolve(request, timeout=timeout):
            if json:
                _print_json(event)
            elif event.HasField("round"):
                _print_round(event.round)
            else:
                _print_solution(event.solution)
    return None


for _command in (*commands.SERVICE, *commands.PIPELINE):
    main.command()(_command)


def _objective(
    budget: int | None, average_budget: float | None, target_accuracy: float | None, price_per_flop: float | None
) -> dict[str, Any]:
    """As a field of a request; empty: the bundle's default."""
    options = {
        "budget": budget,
        "average_budget": average_budget,
        "target_accuracy": target_accuracy,
        "price_per_flop": price_per_flop,
    }
    given = {kind: value for kind, value in options.items() if value is not None}
    if len(given) > 1:
        raise InvalidRequest(
            "objective", f"{' and '.join(given)} were given; a prompt has one objective", reason="UNSPECIFIED"
        )
    return given


def _text(prompt: str) -> str:
    return sys.stdin.read() if prompt == "-" else prompt


def _print_json(message: "pb.RouteResponse | pb.SolveResponse | pb.StreamSolveResponse") -> None:
    from google.protobuf.json_format import MessageToJson

    print(
        MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        ),
        flush=True,
    )


def _print_decision(decision: "pb.Decision") -> None:
    from router.service.conversion import arm_of
    from router.v1 import router_pb2 as pb

    levels = "  ".join(f"{level}: {p:.2f}" for level, p in enumerate(decision.probabilities, start=1))
    print(f"level       {decision.level} of 5   ({levels})")
    print(f"arm         {arm_of(decision.arm)}")
    if decision.HasField("expectation"):
        expected, cost = decision.expectation, decision.expectation.cost
        print(
            f"expected    accuracy {expected.accuracy:.2f} [{expected.accuracy_low:.2f}, {expected.accuracy_high:.2f}],"
            f" {cost.generations:.1f} generations, {cost.generated_tokens:.0f} tokens generated,"
            f" {cost.scored_tokens:.0f} scored"
        )
        if expected.evidence == pb.EVIDENCE_INSUFFICIENT:
            print("evidence    insufficient: no measured arm is known to reach the target on this prompt")
    print(f"bundle      {decision.bundle_id}")


def _print_round(progress: "pb.Round") -> None:
    leader = f", leading answer {progress.answer} ({progress.share:.0%})" if progress.HasField("answer") else ""
    print(
        f"round {progress.number}: {progress.alive} paths open, {progress.finished} finished,"
        f" {progress.generated_tokens} tokens generated, {progress.scored_tokens} scored{leader}",
        flush=True,
    )


def _print_solution(solution: "pb.Solution") -> None:
    from router.v1 import router_pb2 as pb

    for number, candidate in enumerate(solution.candidates, start=1):
        end = "" if candidate.finished else ", cut"
        print(f"candidate {number}: {candidate.tokens} tokens{end}, answer {_answer(candidate)}")
        for step in candidate.steps:
            score = f"{step.score:.3f}" if step.HasField("score") else "  -  "
            print(f"    {score}  {step.text.rstrip()}")
    _print_decision(solution.decision)
    bill = solution.bill
    print(
        f"bill        {bill.prompt_tokens} prompt, {bill.generated_tokens} generated, {bill.scored_tokens} scored"
        f" tokens; {bill.generator_flops + bill.verifier_flops:.3g} FLOPs; {bill.engine_calls} engine calls;"
        f" {bill.route_seconds:.2f} s routing, {bill.generate_seconds:.2f} generating, {bill.score_seconds:.2f} scoring"
    )
    if solution.stop_reason != pb.STOP_REASON_COMPLETE:
        name = pb.StopReason.Name(solution.stop_reason).removeprefix("STOP_REASON_").lower()
        print(f"stopped     early, by {name}: a partial result")
    if solution.text:
        print("solution\n" + "".join(f"    {line}\n" for line in solution.text.splitlines()), end="")
    print(f"answer      {_answer(solution)}" + (f" ({solution.share:.0%} of votes)" if solution.text else ""))


def _answer(message: "pb.Solution | pb.Candidate") -> str:
    return message.answer if message.HasField("answer") else "none"


if __name__ == "__main__":
    main()
