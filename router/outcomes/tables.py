"""The database of decisions and outcomes, in SQLite or PostgreSQL: its tables, how to open it and how to read it."""

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DisconnectionError, NoSuchTableError, SQLAlchemyError

from router.errors import InvalidRequest
from router.extras import missing
from router.outcomes.fitting import NAME

_MIGRATING = 0x726F75746572  # number of PostgreSQL's lock for migrations
_PRIVATE = 0o600

tables = sql.MetaData()

decisions = sql.Table(
    "decisions",
    tables,
    sql.Column("caller", sql.String(NAME), primary_key=True),
    sql.Column("call_id", sql.String(128), primary_key=True),  # the caller may have chosen it
    sql.Column("at", sql.DateTime(timezone=True), nullable=False, index=True),
    sql.Column("method", sql.String(32), nullable=False),
    sql.Column("bundle", sql.String(256), nullable=False),
    sql.Column("prompt_sha256", sql.String(64), nullable=False, index=True),
    sql.Column("prompt", sql.Text),  # its text; with --outcome-prompts only, like messages, answer and text
    sql.Column("level", sql.Integer, nullable=False),
    sql.Column("probabilities", sql.JSON, nullable=False),  # of levels 1 to 5
    sql.Column("arm", sql.String(1000), nullable=False),
    sql.Column("propensity", sql.Float),  # the arm's probability of being chosen; null: the caller pinned it
    sql.Column("expected", sql.Float),  # the accuracy promised; null: none was, see CallRecord.promised
    sql.Column("code", sql.String(32), nullable=False),
    sql.Column("reason", sql.String(64), nullable=False),
    sql.Column("prompt_tokens", sql.BigInteger, nullable=False),
    sql.Column("generated_tokens", sql.BigInteger, nullable=False),
    sql.Column("scored_tokens", sql.BigInteger, nullable=False),
    sql.Column("flops", sql.Float, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    # The following columns are also null in rows that are older than the column.
    sql.Column("objective", sql.String(32)),  # the objective's kind; null: the caller pinned the arm
    sql.Column("objective_value", sql.Float),
    # true: by the caller; false: it was the bundle's default; null: none, or given earlier in the conversation
    sql.Column("objective_given", sql.Boolean),
    sql.Column("choice", sql.String(1000)),  # the policy's choice; the arm differs where it was drawn to explore
    # the arm as the policy lists it; it differs where the caller's objective gave a cascade another threshold
    sql.Column("listed", sql.String(1000)),
    sql.Column("explore", sql.Float),  # share of arms that were drawn to explore at that time
    sql.Column("levels_by", sql.String(12)),  # first digits of the difficulty model's SHA-256
    sql.Column("stop", sql.String(16)),  # why the search ended; null: no search, or it gave no answer
    sql.Column("answer", sql.Text),
    sql.Column("text", sql.Text),
    sql.Column("messages", sql.JSON(none_as_null=True)),  # all messages; null where the prompt is one user message
    sql.Column("task", sql.Text),  # the task's name
    sql.Column("inputs", sql.JSON(none_as_null=True)),  # the task's inputs; with --outcome-prompts only
    sql.Index("ix_decisions_caller_at", "caller", "at"),
)

outcomes = sql.Table(
    "outcomes",
    tables,
    sql.Column("caller", sql.String(NAME), primary_key=True),  # the decision's
    sql.Column("call_id", sql.String(128), primary_key=True),
    sql.Column("at", sql.DateTime(timezone=True), nullable=False),
    sql.Column("correct", sql.Boolean),
    sql.Column("score", sql.Float),
)


def read(url: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return every decision, oldest first, with the columns ``names`` and its outcome's ``correct`` and ``score``.

    These are None where no outcome was recorded. The database is only read, and may be one that no server has brought
    up to date: a column that it lacks is None.
    Raises InvalidRequest, and MissingDependency where the URL's driver is not installed.
    """
    try:
        engine = _engine(url)
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
            raise _unusable(f"there is no file {engine.url.database}")
        try:
            with engine.connect() as connection:
                held, learned = (
                    {column["name"] for column in sql.inspect(connection).get_columns(table.name)}
                    for table in (decisions, outcomes)
                )
                columns = [
                    outcomes.c[name]
                    if name not in decisions.c
                    else decisions.c[name]
                    if name in held
                    else sql.null().label(name)
                    for name in names
                ]
                same = decisions.c.call_id == outcomes.c.call_id
                if "caller" in learned:
                    same &= decisions.c.caller == outcomes.c.caller
                joined = decisions.outerjoin(outcomes, same)
                found = sql.select(*columns).select_from(joined).order_by(decisions.c.at, decisions.c.call_id)
                return [dict(row) for row in connection.execute(found).mappings()]
        finally:
            engine.dispose()
    except NoSuchTableError as error:
        raise _unusable("no decisions were ever recorded in it") from error
    except ModuleNotFoundError as error:
        raise missing(error) or _unusable(str(error)) from error
    except SQLAlchemyError as error:
        raise _unusable(str(error).splitlines()[0]) from error


def connect(url: str) -> sql.Engine:
    """Return an engine, with tables brought up to date. An SQLite file is made readable by its owner only.

    Raises InvalidRequest, MissingDependency.
    """
    try:
        engine = _engine(url, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            _make_private(engine.url.database)
            sql.event.listen(engine, "connect", _durable)
        upgrade(engine)
        if engine.dialect.name == "sqlite" and engine.url.database:
            _guard(engine, Path(engine.url.database))
    except ModuleNotFoundError as error:
        raise missing(error) or _unusable(str(error)) from error
    except SQLAlchemyError as error:
        raise _unusable(str(error).splitlines()[0]) from error
    return engine


def _make_private(database: str | None) -> None:
    """Make SQLite's file readable by its owner only. SQLite gives its other files the same mode."""
    if not database or database == ":memory:" or database.startswith("file:"):
        return
    with suppress(OSError):  # somebody else's file, or no such folder, for which SQLite has the better message
        os.close(os.open(database, os.O_CREAT | os.O_RDONLY, _PRIVATE))
        for file in (Path(database + suffix) for suffix in ("", "-wal", "-shm")):
            if file.exists() and stat.S_IMODE(file.stat().st_mode) & ~_PRIVATE:
                file.chmod(_PRIVATE)


@contextmanager
def existing(url: str) -> Iterator[sql.Engine]:
    """Yield an engine on a database that exists already, with tables brought up to date. Raises as :func:`connect`."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise _unusable(f"there is no file {parsed.database}")
    engine = connect(url)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise _unusable(str(error).splitlines()[0]) from error
    finally:
        engine.dispose()


def _parsed(url: str) -> sql.URL:
    """Raises InvalidRequest. The message does not quote the URL, since a password may be anywhere in a wrong one."""
    try:
        return sql.make_url(url)
    except (SQLAlchemyError, ValueError):
        raise _unusable("its URL can't be read; write signs in a password like %40 for @") from None


def _engine(url: str, **options: Any) -> sql.Engine:
    return sql.create_engine(_parsed(url), **options)


def _unusable(reason: str) -> InvalidRequest:
    return InvalidRequest(
        "outcomes",
        f"can't use the outcome database ({reason}); give a URL like sqlite:///outcomes.db or "
        "postgresql+psycopg://user@host/name",
        reason="UNSPECIFIED",
    )


def _durable(connection: Any, record: Any) -> None:
    """Set SQLite up so that readers don't wait for the writer, and committed rows survive a power cut."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _guard(engine: sql.Engine, file: Path) -> None:
    """Use an SQLite connection only while its file is still in place, and never let a new one create a new file.

    SQLite itself goes on writing to a file that was moved away or deleted, and these rows would be lost.
    """
    if (known := _identity(file)) is None:  # in memory
        return

    def connecting(*args: Any) -> None:
        nonlocal known
        known = _identity(file)
        if known is None:
            raise sqlite3.OperationalError(f"{file} is gone")

    def using(*args: Any) -> None:
        if _identity(file) != known:
            raise DisconnectionError(f"{file} is another file than before")

    sql.event.listen(engine, "do_connect", connecting)
    sql.event.listen(engine, "checkout", using)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def upgrade(engine: sql.Engine, revision: str = "head") -> None:
    """Bring the tables up to date by running the migrations."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # servers that start at the same time take turns
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_MIGRATING)))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
