"""Deletes recorded decisions and outcomes, by age and by caller."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sql

from router.outcomes.tables import decisions, outcomes

_ROWS = 1000  # most rows of one transaction, so that a server that records meanwhile waits only for those


class Purged(NamedTuple):
    """How many rows of each kind were deleted."""

    decisions: int
    outcomes: int


def purge(
    engine: sql.Engine, *, before: datetime | None = None, caller: str | None = None, delete: bool = True
) -> Purged:
    """Delete decisions with their outcomes: those made before a time, those of a caller, or those that are both.

    delete  False: only count them

    An outcome is deleted with its decision, however late it came. One without a decision is deleted by its own time.
    """
    found = [_chosen(table, before, caller) for table in (decisions, outcomes)]
    orphans = sql.and_(found[1], ~sql.exists().where(_same(outcomes)))
    if not delete:
        with engine.connect() as connection:
            counted = connection.scalar(sql.select(sql.func.count()).select_from(decisions).where(found[0]))
            joined = decisions.join(outcomes, _same(outcomes))
            told = connection.scalar(sql.select(sql.func.count()).select_from(joined).where(found[0]))
            alone = connection.scalar(sql.select(sql.func.count()).select_from(outcomes).where(orphans))
        return Purged(counted or 0, (told or 0) + (alone or 0))
    deleted = [0, 0]
    while keys := _some(engine, decisions, found[0]):
        with engine.begin() as connection:
            for i, table in enumerate((decisions, outcomes)):
                deleted[i] += connection.execute(sql.delete(table).where(_key(table).in_(keys))).rowcount
    while keys := _some(engine, outcomes, orphans):
        with engine.begin() as connection:
            deleted[1] += connection.execute(sql.delete(outcomes).where(_key(outcomes).in_(keys))).rowcount
    if engine.dialect.name == "sqlite" and any(deleted):
        _shrink(engine)
    return Purged(*deleted)


def _shrink(engine: sql.Engine) -> None:
    """Shrink an SQLite file and its log, whose free pages would still hold what was deleted."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sql.text("VACUUM"))
        connection.execute(sql.text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _chosen(table: sql.Table, before: datetime | None, caller: str | None) -> sql.ColumnElement[bool]:
    wanted: list[sql.ColumnElement[bool]] = [sql.true()]
    if before is not None:
        wanted.append(table.c.at < before)
    if caller is not None:
        wanted.append(table.c.caller == caller)
    return sql.and_(*wanted)


def _some(engine: sql.Engine, table: sql.Table, which: sql.ColumnElement[bool]) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sql.select(table.c.caller, table.c.call_id).where(which).limit(_ROWS))
        return [(row.caller, row.call_id) for row in rows]


def _key(table: sql.Table) -> sql.Tuple:
    return sql.tuple_(table.c.caller, table.c.call_id)


def _same(table: sql.Table) -> sql.ColumnElement[bool]:
    return sql.and_(decisions.c.caller == table.c.caller, decisions.c.call_id == table.c.call_id)
