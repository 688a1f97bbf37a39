"""Makes rows of the outcome database from finished calls and outcomes, and writes them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sql

from router.outcomes.fitting import fitted
from router.outcomes.tables import decisions, outcomes
from router.policy.objectives import TargetAccuracy
from router.service.middleware.call import CallRecord, Verdict
from router.solving.request import Request
from router.solving.solver import Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller learned of its call's answer: ``correct``, ``score`` (0 to 1) or both."""

    caller: str
    call_id: str
    correct: bool | None = None
    score: float | None = None


class Recorded(NamedTuple):
    """The result of recording an outcome.

    changed  False: the same outcome was recorded before
    known    False: the caller has no decision with this id, and nothing was recorded
    verdict  given where the outcome is the first for a decision that promised an accuracy
    """

    changed: bool
    verdict: Verdict | None = None
    known: bool = True


def decision_row(call: CallRecord, *, prompts: bool) -> dict[str, Any]:
    """Return the row of a call with a decision, fitted to the columns. ``prompts``: include prompt and solution."""
    assert call.decision
    assert call.request
    assert call.bill
    decision, result = call.decision, call.solution.result if call.solution else None
    row = {
        "caller": call.caller or "",
        "call_id": call.id,
        "at": datetime.now(UTC),
        "method": call.method,
        "bundle": decision.bundle_id,
        "prompt_sha256": call.request.prompt.digest,
        "prompt": call.request.prompt.question if prompts else None,
        "messages": call.request.prompt.json if prompts and not call.request.prompt.plain else None,
        "task": decision.task or None,
        "inputs": dict(call.request.inputs) if prompts and call.request.inputs else None,
        "level": decision.level,
        "probabilities": list(decision.probabilities),
        "arm": call.arm,
        "listed": call.listed_arm,
        "propensity": decision.propensity if decision.choice else None,
        "expected": call.promised,
        "code": call.code,
        "reason": call.reason,
        "prompt_tokens": call.bill.prompt_tokens,
        "generated_tokens": call.bill.generated_tokens,
        "scored_tokens": call.bill.scored_tokens,
        "flops": call.bill.flops(),
        "seconds": call.seconds,
        "objective": decision.objective.kind if decision.objective else None,
        "objective_value": decision.objective.value if decision.objective else None,
        "objective_given": _objective_given(decision, call.request),
        "choice": str(decision.choice) if decision.choice else None,
        "explore": decision.explore if decision.choice else None,
        "levels_by": decision.levels_by,
        "stop": call.solution.stop.value if call.solution else None,
        "answer": result.answer if result and prompts else None,
        "text": result.shown.text if result and result.shown and prompts else None,
    }
    return fitted(row, decisions)


def _objective_given(decision: Decision, request: Request) -> bool | None:
    """Whether the caller named the objective; None where there is none, or where its conversation has it."""
    if decision.objective is None or (decision.kept and request.objective is None):
        return None
    return request.objective is not None


def write(connection: sql.Connection, content: Outcome | Mapping[str, Any]) -> Recorded:
    """Write an outcome or a decision's row. A later outcome of the same call replaces an earlier one."""
    if isinstance(content, Outcome):
        return _write_outcome(connection, content)
    _write_decision(connection, dict(content))
    return Recorded(changed=True)


def _write_decision(connection: sql.Connection, row: dict[str, Any]) -> None:
    """Write a decision's row. Where the caller used the call's id before, nothing is erased.

    The first call that succeeded keeps the id and its outcome; the other row gets a random id.
    """
    its = _of(decisions, row["caller"], row["call_id"])
    before = connection.execute(sql.select(decisions.c.at, decisions.c.code).where(its)).one_or_none()
    if before:
        if before.at.replace(tzinfo=before.at.tzinfo or UTC) == row["at"]:
            return  # written already, though the commit's acknowledgement was lost
        told = connection.execute(sql.select(outcomes.c.at).where(_of(outcomes, row["caller"], row["call_id"])))
        if before.code == "OK" or told.first():
            row["call_id"] = _new_id()
        else:
            connection.execute(sql.update(decisions).where(its).values(call_id=_new_id()))
    connection.execute(sql.insert(decisions), [row])


def _new_id() -> str:
    return os.urandom(16).hex()


def _write_outcome(connection: sql.Connection, outcome: Outcome) -> Recorded:
    row = fitted(
        {
            "caller": outcome.caller,
            "call_id": outcome.call_id,
            "at": datetime.now(UTC),
            "correct": outcome.correct,
            "score": outcome.score,
        },
        outcomes,
    )
    recorded = _compare(connection, outcome, row["caller"])
    if recorded.changed:
        connection.execute(sql.delete(outcomes).where(_of(outcomes, row["caller"], row["call_id"])))
        connection.execute(sql.insert(outcomes), [row])
    return recorded


def _compare(connection: sql.Connection, outcome: Outcome, caller: str) -> Recorded:
    """Compare an outcome with what is recorded. Only the first gives a verdict, since counters can't be corrected."""
    decision = connection.execute(sql.select(decisions).where(_of(decisions, caller, outcome.call_id))).one_or_none()
    if decision is None:
        return Recorded(changed=False, known=False)
    same = sql.select(outcomes.c.correct, outcomes.c.score).where(_of(outcomes, caller, outcome.call_id))
    before = connection.execute(same).one_or_none()
    if before == (outcome.correct, outcome.score):
        return Recorded(changed=False)
    if outcome.correct is None or (before and before.correct is not None) or decision.expected is None:
        return Recorded(changed=True)
    # A row that an earlier version wrote doesn't tell. Its arm may have a threshold of the caller's, a label too many.
    if decision.listed is None and decision.objective == TargetAccuracy.kind:
        return Recorded(changed=True)
    arm = decision.listed or decision.arm
    verdict = Verdict(decision.level, arm, decision.bundle, decision.expected, outcome.correct)
    return Recorded(changed=True, verdict=verdict)


def _of(table: sql.Table, caller: str, call_id: str) -> sql.ColumnElement[bool]:
    return sql.and_(table.c.caller == caller, table.c.call_id == call_id)
