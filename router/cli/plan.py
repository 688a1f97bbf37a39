"""The command plan: shares one budget over many prompts."""

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Served, finite
from router.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from router.solving.solver import Decision


class Unit(StrEnum):
    GENERATIONS = "generations"
    FLOPS = "flops"
    MONEY = "money"


def plan(
    prompts: Annotated[Path, typer.Argument(help="Prompts file, JSON Lines or Parquet.")],
    *,
    budget: Annotated[
        float, typer.Option(callback=finite, help="The most that all prompts together are expected to spend.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for decisions, a JSON object a line, in the prompts' order.  [default: standard output; the "
            "summary then goes to standard error]"
        ),
    ] = None,
    unit: Annotated[
        Unit,
        typer.Option(
            help="Unit of the budget: complete solutions of the reference model, FLOPs, or money by the bundle's "
            "prices."
        ),
    ] = Unit.GENERATIONS,
    bundle: Served,
) -> None:
    """Share one budget over many prompts: choose each prompt's arm so that all together gain most. Runs no arm.

    No server is needed. RouteBatch decides the same for at most 1,000 prompts, and SolveBatch also runs the arms.
    """
    import asyncio
    import json
    import sys
    from functools import partial

    from router.attempts.prompts import read_prompts
    from router.backends import Engines
    from router.backends.fake import FakeGenerator, FakeVerifier
    from router.backends.registry import load_reference
    from router.backends.specs import Deployment
    from router.bundle.bundle import load_bundle
    from router.solving.batch import Total, decide
    from router.solving.features import features_of
    from router.solving.request import Request
    from router.solving.solver import Solver

    problems = read_prompts(prompts)
    loaded = load_bundle(bundle)
    setup = loaded.setup
    # No arm is run, so a model is loaded only where the difficulty model reads its hidden states.
    engines = Engines({name: FakeGenerator(name=name) for name in setup.models}, setup.reference, FakeVerifier())
    if features_of(loaded.manifest.features).vectors:
        real = load_reference(setup, bundle, Deployment())
        engines = Engines({**engines.models, setup.reference: real.main}, setup.reference, real.verifier)
    requests = [Request(each.prompt, inputs=each.inputs, task=each.task) for each in problems]

    async def decided() -> "tuple[list[dict[str, object]], float]":
        try:
            solver = Solver(loaded, engines, solves=False)
            batch = await decide(solver, requests, Total(budget, unit.value))
            return [_row(each) for each in batch.decisions], batch.expected
        finally:
            await engines.close()

    try:
        rows, expected = asyncio.run(decided())
    except InvalidRequest as error:
        raise InvalidRequest(error.field, f"{prompts}: {error}", reason=error.reason) from error
    lines = [
        json.dumps({"id": problem.id, **row}, ensure_ascii=False) + "\n"
        for problem, row in zip(problems, rows, strict=True)
    ]
    if out is None:
        sys.stdout.writelines(lines)
    else:
        out.write_text("".join(lines))
    tell = partial(typer.echo, err=out is None)  # so that a pipe gets the decisions alone
    for line in _summary(rows, f"expected to spend {expected:.6g} of {budget:.6g} {unit.value}"):
        tell(line)
    if out is not None:
        tell(f"wrote {out}")


def _summary(rows: "Sequence[Mapping[str, object]]", spends: str) -> "Iterator[str]":
    """Say how often each arm is chosen, what all of it costs, and what it is worth."""
    for arm, count in Counter(str(row["arm"]) for row in rows).most_common():
        yield f"{count:8}  {arm}"
    yield f"{len(rows)} prompts, {spends}"
    accuracy = [float(str(row["accuracy"])) for row in rows if row["familiar"]]
    if accuracy:
        yield f"expected accuracy {sum(accuracy) / len(accuracy):.3f}, over {len(accuracy)} familiar prompts"
    if strange := len(rows) - len(accuracy):
        yield f"{strange} prompts are unlike those of training: they get a vote, and no accuracy is promised"


def _row(decision: "Decision") -> "dict[str, object]":
    expected = decision.expectation
    assert expected
    return {
        "level": decision.level,
        "probabilities": [round(each, 6) for each in decision.probabilities],
        "arm": str(decision.arm),
        "familiar": decision.familiar,
        "accuracy": expected.accuracy if decision.familiar else None,
        "generations": expected.cost.generations,
        "flops": expected.cost.flops,
        "money": expected.cost.money,
    }
