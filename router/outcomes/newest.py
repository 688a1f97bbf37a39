"""Reads the newest decisions with their outcomes, page by page."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sql

from router.outcomes.tables import decisions, outcomes


class Place(NamedTuple):
    """The place of a decision in the order by time."""

    at: datetime
    call_id: str


def newest(
    engine: sql.Engine, most: int, *, caller: str | None = None, before: Place | None = None
) -> list[dict[str, Any]]:
    """Return at most ``most`` decisions, newest first, with all columns and their outcomes.

    An outcome's keys are ``correct``, ``score``, and ``told``, when it was recorded.

    caller  only this caller's decisions; None: everybody's
    before  only decisions older than this one

    Raises SQLAlchemyError.
    """
    wanted: list[sql.ColumnElement[bool]] = [sql.true()]
    if caller is not None:
        wanted.append(decisions.c.caller == caller)
    if before is not None:
        same = sql.and_(decisions.c.at == before.at, decisions.c.call_id < before.call_id)
        wanted.append(sql.or_(decisions.c.at < before.at, same))
    its = sql.and_(decisions.c.caller == outcomes.c.caller, decisions.c.call_id == outcomes.c.call_id)
    found = (
        sql.select(decisions, outcomes.c.correct, outcomes.c.score, outcomes.c.at.label("told"))
        .select_from(decisions.outerjoin(outcomes, its))
        .where(*wanted)
        .order_by(decisions.c.at.desc(), decisions.c.call_id.desc())
        .limit(most)
    )
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(found).mappings()]
    for row in rows:  # SQLite keeps no time zone, but all times are UTC
        row["at"] = row["at"].replace(tzinfo=row["at"].tzinfo or UTC)
    return rows
