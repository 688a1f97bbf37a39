"""Rows of the outcome database: of finished calls and of outcomes, and how they are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sql

from router.outcomes.tables import decisions, outcomes
from router.service.middleware.call import CallRecord, Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller learned of a call's answer; at least one of ``correct`` and ``score``, 0 to 1, is given."""

    call_id: str
    correct: bool | None = None
    score: float | None = None


class Recorded(NamedTuple):
    """``changed`` is False where the same was recorded before.

    verdict  where the outcome is the first of a decision that promised an accuracy
    """

    changed: bool
    verdict: Verdict | None = None


def decision_row(call: CallRecord, *, prompts: bool) -> dict[str, Any]:
    """Of a call that came to a decision; with ``prompts`` its prompt and solution, too."""
    assert call.decision
    assert call.request
    assert call.bill
    decision, result = call.decision, call.solution.result if call.solution else None
    return {
        "call_id": call.id,
        "at": datetime.now(UTC),
        "method": call.method,
        "caller": call.caller,
        "bundle": decision.bundle_id,
        "prompt_sha256": call.request.prompt.digest,
        "prompt": call.request.prompt.question if prompts else None,
        "messages": call.request.prompt.json if prompts and not call.request.prompt.plain else None,
        "task": decision.task or None,
        "inputs": dict(call.request.inputs) if prompts and call.request.inputs else None,
        "level": decision.level,
        "probabilities": list(decision.probabilities),
        "arm": call.arm,
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
        "objective_given": call.request.objective is not None if decision.objective else None,
        "choice": str(decision.choice) if decision.choice else None,
        "explore": decision.explore if decision.choice else None,
        "levels_by": decision.levels_by,
        "stop": call.solution.stop.value if call.solution else None,
        "answer": result.answer if result and prompts else None,
        "text": result.shown.text if result and result.shown and prompts else None,
    }


def write(connection: sql.Connection, content: Outcome | Mapping[str, Any]) -> Recorded:
    """Write an outcome, or a decision's row. A call that was tried again under its id, or an outcome that was
    corrected: the last one counts."""
    if isinstance(content, Outcome):
        recorded = _compare(connection, content)
        if not recorded.changed:
            return recorded
        row: Mapping[str, Any] = {
            "call_id": content.call_id,
            "at": datetime.now(UTC),
            "correct": content.correct,
            "score": content.score,
        }
        table = outcomes
    else:
        recorded, row, table = Recorded(changed=True), content, decisions
    connection.execute(sql.delete(table).where(table.c.call_id == row["call_id"]))
    connection.execute(sql.insert(table), [dict(row)])
    return recorded


def _compare(connection: sql.Connection, outcome: Outcome) -> Recorded:
    """With what is recorded already. Only the first outcome gives a verdict: counters can't take a correction back."""
    same = sql.select(outcomes.c.correct, outcomes.c.score).where(outcomes.c.call_id == outcome.call_id)
    before = connection.execute(same).one_or_none()
    if before == (outcome.correct, outcome.score):
        return Recorded(changed=False)
    if outcome.correct is None or (before and before.correct is not None):
        return Recorded(changed=True)
    its = sql.select(decisions).where(decisions.c.call_id == outcome.call_id, decisions.c.expected.is_not(None))
    decision = connection.execute(its).one_or_none()
    if decision is None:
        return Recorded(changed=True)
    verdict = Verdict(decision.level, decision.arm, decision.bundle, decision.expected, outcome.correct)
    return Recorded(changed=True, verdict=verdict)
