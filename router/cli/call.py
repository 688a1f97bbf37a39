"""The commands route and solve, which call a server and show its answer."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import LONGEST_SECONDS, ObjectiveOption, finite, read_arm
from router.errors import InvalidFile, InvalidRequest
from router.policy.objectives import parse_objective
from router.prompt import Prompt as Chat

if TYPE_CHECKING:
    from router.v1 import router_pb2 as pb

UINT32 = 2**32 - 1
Prompt = Annotated[
    str | None, typer.Argument(help="The problem's text; - reads it from standard input.", show_default=False)
]
Messages = Annotated[
    Path | None,
    typer.Option(help='Chat messages instead of a text: a JSON file of [{"role": "user", "content": "…"}].'),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='The task\'s inputs, as a JSON object or a file with one: {"choices": ["Rome", "Paris"]}.',
    ),
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="One of the bundle's tasks.  [default: the bundle's first one]")
]
Conversation = Annotated[
    str, typer.Option(help="Name of the conversation that this call is part of: all its calls keep the first's arm.")
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        callback=finite, help="Leave out arms whose measured time is longer than so many seconds.  [default: none]"
    ),
]
Address = Annotated[str, typer.Option(envvar="ROUTER_ADDRESS", help="host:port of the server.")]
Token = Annotated[
    str | None, typer.Option(envvar="ROUTER_TOKEN", help="Bearer token. As a variable, it is not in process lists.")
]
Tls = Annotated[bool, typer.Option("--tls", envvar="ROUTER_TLS", help="Encrypt; implied by the next three.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(envvar="ROUTER_TLS_CA", help="Authorities of the server's certificate, PEM.  [default: the system's]"),
]
TlsCert = Annotated[
    Path | None, typer.Option(envvar="ROUTER_TLS_CERT", help="Your own certificate, PEM, for mutual TLS.")
]
TlsKey = Annotated[Path | None, typer.Option(envvar="ROUTER_TLS_KEY", help="Its private key, PEM.")]
Insecure = Annotated[
    bool, typer.Option("--insecure", envvar="ROUTER_INSECURE", help="Send the token without encryption.")
]
Timeout = Annotated[
    float,
    typer.Option(
        envvar="ROUTER_TIMEOUT",
        min=0.001,
        max=LONGEST_SECONDS,
        callback=finite,
        help="Deadline of the call, in seconds.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object a line.")]


def route(
    prompt: Prompt = None,
    *,
    objective: ObjectiveOption = None,
    max_seconds: MaxSeconds = None,
    messages: Messages = None,
    inputs: Inputs = None,
    task: TaskName = None,
    conversation: Conversation = "",
    address: Address = "127.0.0.1:50551",
    token: Token = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Show a prompt's predicted level and the arm that would run, without running it."""
    from router.client import connect
    from router.v1 import router_pb2 as pb

    asked: dict[str, Any] = {**_prompt(prompt, messages), **_inputs(inputs, task), "conversation": conversation}
    asked["objective"] = _objective(objective, max_seconds=max_seconds)
    with connect(address, token=token, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, insecure=insecure) as stub:
        reply = stub.Route(pb.RouteRequest(**asked), timeout=timeout)
    if as_json:
        _print_json(reply)
    else:
        _print_decision(reply.decision)


def solve(
    prompt: Prompt = None,
    *,
    objective: ObjectiveOption = None,
    max_seconds: MaxSeconds = None,
    messages: Messages = None,
    inputs: Inputs = None,
    task: TaskName = None,
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
        bool, typer.Option(help="When a cap or the deadline ends the search, return what was found so far.")
    ] = False,
    refuse: Annotated[
        bool, typer.Option(help="Fail where a target accuracy is not reached, rather than return the best answer.")
    ] = False,
    candidates: Annotated[bool, typer.Option(help="Show every solution to choose from, with its scores.")] = False,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help="Temperature of sampling, at most the bundle's.  [default: the bundle's]"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=UINT32, help="Longest solution, at most the bundle's.  [default: the bundle's]"),
    ] = None,
    stream: Annotated[bool, typer.Option(help="Show the search's rounds while it runs.")] = False,
    conversation: Conversation = "",
    address: Address = "127.0.0.1:50551",
    token: Token = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure: Insecure = False,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Route a prompt, run the arm, and print the answer with its bill."""
    from router.client import connect
    from router.v1 import router_pb2 as pb

    wanted = _objective(objective, refuse=refuse, max_seconds=max_seconds)
    asked: dict[str, Any] = {**_prompt(prompt, messages), **_inputs(inputs, task), "conversation": conversation}
    asked["objective"] = wanted
    options = pb.SolveOptions(
        arm=str(read_arm(arm)) if arm else "",
        max_generated_tokens=max_generated_tokens,
        max_scored_tokens=max_scored_tokens,
        seed=seed,
        allow_partial=allow_partial,
        return_candidates=candidates,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    with connect(address, token=token, tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, insecure=insecure) as stub:
        if not stream:
            reply = stub.Solve(pb.SolveRequest(**asked, options=options), timeout=timeout)
            return _print_json(reply) if as_json else _print_solution(reply.solution)
        request = pb.StreamSolveRequest(**asked, options=options)
        finished = 0
        for event in stub.StreamSolve(request, timeout=timeout):
            if as_json:
                _print_json(event)
            elif event.HasField("round"):
                finished = event.round.finished
                _print_round(event.round)
            elif event.HasField("stage"):
                print(stage_line(event.stage), flush=True)
            elif event.HasField("solution"):  # it includes the text of an earlier event
                _print_solution(event.solution, finished)
    return None


def _prompt(prompt: str | None, messages: Path | None) -> dict[str, Any]:
    """Return the prompt as fields of a request. Raises InvalidRequest."""
    from router.v1 import router_pb2 as pb

    if (prompt is None) == (messages is None):
        raise InvalidRequest("prompt", "give either the problem's text or --messages FILE", reason="PROMPT_INVALID")
    if messages is None:
        return {"prompt": sys.stdin.read() if prompt == "-" else prompt}
    try:
        read = Chat.read(json.loads(messages.read_text()))
    except (OSError, ValueError) as error:
        raise InvalidFile(f"{messages}: {error}") from error
    return {"messages": [pb.Message(role=each.role, content=each.text) for each in read.messages]}


def _inputs(inputs: str | None, task: str | None) -> dict[str, Any]:
    """Return inputs and task as fields of a request. Raises InvalidRequest, InvalidFile."""
    asked: dict[str, Any] = {"task": task}
    if inputs is None:
        return asked
    try:
        found = json.loads(inputs if inputs.lstrip().startswith("{") else Path(inputs).read_text())
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        raise InvalidFile(f"--inputs {inputs[:80]!r}: {error}; write an object, or name a file of one") from error
    return {**asked, "inputs": found}


def _objective(text: str | None, *, refuse: bool = False, max_seconds: float | None = None) -> "pb.Objective | None":
    from router.service.objectives import objective_message

    if text is None:
        if refuse:
            raise InvalidRequest(
                "objective", "--refuse needs --objective target_accuracy=…", reason="OBJECTIVE_OUT_OF_RANGE"
            )
        return None if max_seconds is None else objective_message(None, max_seconds=max_seconds)
    return objective_message(parse_objective(text), refuse=refuse, max_seconds=max_seconds)


def _print_json(message: "pb.RouteResponse | pb.SolveResponse | pb.StreamSolveResponse") -> None:
    from google.protobuf.json_format import MessageToJson

    print(
        MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        ),
        flush=True,
    )


def _print_decision(decision: "pb.Decision") -> None:
    from router.v1 import router_pb2 as pb

    levels = "  ".join(f"{level}: {p:.2f}" for level, p in enumerate(decision.probabilities, start=1))
    print(f"level       {decision.level} of 5   ({levels})")
    print(f"arm         {decision.arm.text}")
    if decision.HasField("expectation"):
        expected, cost = decision.expectation, decision.expectation.cost
        if expected.evidence == pb.EVIDENCE_UNFAMILIAR:
            print(
                "evidence    unfamiliar: the prompt is unlike those of training; its samples vote, nothing is promised"
            )
            print(f"expected    {cost.generations:.1f} generations, {cost.generated_tokens:.0f} tokens generated")
            print(f"bundle      {decision.bundle_id}")
            return
        print(
            f"expected    accuracy {expected.accuracy:.2f} [{expected.accuracy_low:.2f}, {expected.accuracy_high:.2f}],"
            f" {cost.generations:.1f} generations, {cost.generated_tokens:.0f} tokens generated,"
            f" {cost.scored_tokens:.0f} scored" + (f", {cost.seconds:.2g} s" if cost.HasField("seconds") else "")
        )
        if expected.HasField("corrected_average_budget"):
            print(
                f"corrected   to {expected.corrected_average_budget:.2f}: earlier calls spent more or less than asked"
            )
        if expected.evidence == pb.EVIDENCE_INSUFFICIENT:
            print("evidence    insufficient: no measured arm is known to reach the target on this prompt")
        if expected.evidence == pb.EVIDENCE_TOO_SLOW:
            print("evidence    too slow: no measured arm is expected to end in time; this is the fastest")
    print(f"bundle      {decision.bundle_id}")


def _print_round(progress: "pb.Round") -> None:
    leader = f", leading answer {progress.answer} ({progress.share:.0%})" if progress.HasField("answer") else ""
    print(
        f"round {progress.number}: {progress.alive} candidates open, {progress.finished} finished,"
        f" {progress.generated_tokens} tokens generated, {progress.scored_tokens} scored{leader}",
        flush=True,
    )


def stage_line(stage: "pb.StageResult") -> str:
    """Describe the result of a cascade's stage, and why the cascade ended there or went on."""
    sure = f"confidence {stage.confidence:.2f}" if stage.HasField("confidence") else "confidence unknown"
    found = f"answer {stage.answer}, {sure}" if stage.HasField("answer") else "no answer"
    if not stage.HasField("threshold"):
        why = "the last stage"
    elif stage.ends:
        why = f"reaches {stage.threshold:g}: done"
    else:
        why = f"below {stage.threshold:g}: on to the next stage"
    return f"stage {stage.number}: {stage.arm.text}: {found}, {why}"


def ended_line(arm: "pb.Arm", finished: int) -> str:
    """Describe why an arm that is no cascade ended. ``finished``: solutions that its last round had.

    Solutions that were cut at their length are not among these, so fewer than the most don't prove an early stop.
    """
    stop, most = arm.parameters.get("stop"), arm.parameters.get("n")
    if stop and most and finished < most:
        return f"with {finished} of at most {most:g} solutions finished; it stops once it is sure enough ({stop:g})"
    return "the arm had run to its end"


def _print_solution(solution: "pb.Solution", finished: int | None = None) -> None:
    """Print a solution. ``finished``: solutions that the last round of a stream had; None: there was no stream."""
    from router.v1 import router_pb2 as pb

    for number, candidate in enumerate(solution.candidates, start=1):
        end = "" if candidate.finished else ", cut"
        print(f"candidate {number}: {candidate.tokens} tokens{end}, answer {_answer(candidate)}")
        for step in candidate.steps:
            score = f"{step.score:.3f}" if step.HasField("score") else "  -  "
            print(f"    {score}  {step.text.rstrip()}")
    _print_decision(solution.decision)
    for stage in solution.stages:
        print(stage_line(stage))
    if solution.HasField("confidence"):
        print(f"confidence  {solution.confidence:.2f}")
    bill = solution.bill
    print(
        f"bill        {bill.prompt_tokens} prompt, {bill.generated_tokens} generated, {bill.scored_tokens} scored"
        f" tokens; {bill.generator_flops + bill.verifier_flops:.3g} FLOPs; {bill.engine_calls} engine calls;"
        f" {bill.route_seconds:.2f} s routing, {bill.generate_seconds:.2f} generating, {bill.score_seconds:.2f} scoring"
    )
    if solution.stop_reason != pb.STOP_REASON_COMPLETE:
        name = pb.StopReason.Name(solution.stop_reason).removeprefix("STOP_REASON_").lower()
        print(f"stopped     early, by {name}: a partial result")
    elif finished is not None and not solution.stages:  # a cascade's stages say why it ended
        print(f"ended       {ended_line(solution.decision.arm, finished)}")
    if solution.text:
        print("solution\n" + "".join(f"    {line}\n" for line in solution.text.splitlines()), end="")
    if solution.HasField("answer"):
        shown = solution.answer if "\n" not in solution.answer else f"{len(solution.answer.splitlines())} lines of it"
        print(f"answer      {shown} ({solution.share:.0%} of votes)")
    else:
        print(f"answer      none: {solution.no_answer}" if solution.no_answer else "answer      none")


def _answer(message: "pb.Solution | pb.Candidate") -> str:
    return message.answer if message.HasField("answer") else "none"
