"""`router outcomes purge`: what is deleted, what stays, and that nothing of it is left in the file."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sql
from typer.testing import CliRunner

from router.cli.main import main
from router.outcomes import tables as database
from router.outcomes.purge import Purged, purge
from router.service.recorder import Recorder
from router.service.rows import Outcome
from tests.support.recording import decided, rows

DAY = timedelta(days=1)


def fill(url: str) -> None:
    """Decisions of two callers, made ten days ago and now, each with an outcome told now."""
    with contextlib.closing(Recorder(url)) as recorder:
        for caller in ("one", "two"):
            decided(recorder, "old", "new", caller=caller)
            for call_id in ("old", "new"):
                assert recorder.record(Outcome(caller, call_id, correct=True)).result(10).changed
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        ago = sql.update(database.decisions).where(database.decisions.c.call_id == "old")
        connection.execute(ago.values(at=datetime.now(UTC) - 10 * DAY))
    engine.dispose()


def left(url: str, table: sql.Table) -> set[tuple[str, str]]:
    return {(row["caller"], row["call_id"]) for row in rows(url, table)}


@pytest.mark.parametrize(
    ("options", "stay"),
    [
        ({"before": DAY}, {("one", "new"), ("two", "new")}),
        ({"caller": "one"}, {("two", "old"), ("two", "new")}),
        ({"caller": "one", "before": DAY}, {("one", "new"), ("two", "old"), ("two", "new")}),
        ({}, set()),
        ({"caller": "nobody"}, {(caller, which) for caller in ("one", "two") for which in ("old", "new")}),
    ],
)
def test_by_age_and_by_caller(url, options, stay):
    fill(url)
    if "before" in options:
        options = options | {"before": datetime.now(UTC) - options["before"]}
    with database.existing(url) as engine:
        would = purge(engine, **options, delete=False)
        assert len(left(url, database.decisions)) == 4
        assert purge(engine, **options) == would == Purged(4 - len(stay), 4 - len(stay))
    assert left(url, database.decisions) == left(url, database.outcomes) == stay


def test_an_outcome_without_a_decision_goes_by_its_own_age(url):
    fill(url)
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.delete(database.decisions))
    engine.dispose()
    with database.existing(url) as engine:
        assert purge(engine, before=datetime.now(UTC) - DAY) == (0, 0)
        assert purge(engine, before=datetime.now(UTC) + DAY) == (0, 4)


def test_more_than_one_transaction_holds(url, monkeypatch):
    monkeypatch.setattr("router.outcomes.purge._ROWS", 3)
    with contextlib.closing(Recorder(url)) as recorder:
        decided(recorder, *map(str, range(10)))
    with database.existing(url) as engine:
        assert purge(engine, caller="app") == (10, 0)


def test_nothing_is_left_in_the_file_while_a_server_records(tmp_path):
    url = f"sqlite:///{tmp_path}/outcomes.db"
    with contextlib.closing(Recorder(url)) as recorder:
        decided(recorder, "findable-needle", caller="gone")
        assert recorder.record(Outcome("gone", "findable-needle", correct=True)).result(10).changed
        found = run("--caller", "gone", url=url)
        assert found.output == "deleted 1 decisions and 1 outcomes\n"
        assert not any(b"findable-needle" in file.read_bytes() for file in tmp_path.iterdir())
        decided(recorder, "later")
        assert recorder.record(Outcome("app", "later", correct=True)).result(10).changed
    assert left(url, database.decisions) == {("app", "later")}


def run(*options: str, url: str):
    return CliRunner().invoke(main, ["outcomes", "purge", "--outcomes", url, *options])


def test_what_is_to_be_deleted_must_be_said(tmp_path):
    url = f"sqlite:///{tmp_path}/outcomes.db"
    fill(url)
    assert run(url=url).exit_code == 2
    assert run("--older-than", "1e12", url=url).exit_code == 2
    assert run("--older-than", "5", "--dry-run", url=url).output == "would delete 2 decisions and 2 outcomes\n"
    assert run("--older-than", "5", url=url).output == "deleted 2 decisions and 2 outcomes\n"
    assert left(url, database.decisions) == {("one", "new"), ("two", "new")}


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path):
    found = run("--older-than", "1", url=f"sqlite:///{tmp_path}/nowhere.db")
    assert found.exit_code == 2
    assert "there is no file" in found.output
    assert not list(tmp_path.iterdir())
