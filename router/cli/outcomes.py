"""The commands on the outcome database of `serve --outcomes`."""

from typing import Annotated

import typer

from router.cli.options import finite
from router.errors import InvalidRequest

outcomes = typer.Typer(
    name="outcomes", help="The database of `serve --outcomes`.", no_args_is_help=True, rich_markup_mode="markdown"
)


@outcomes.callback()
def _group() -> None:
    pass


@outcomes.command()
def purge(
    *,
    url: Annotated[
        str,
        typer.Option(
            "--outcomes",
            envvar="ROUTER_OUTCOMES",
            help="The database: sqlite:///outcomes.db, or a postgresql+psycopg URL.",
        ),
    ],
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DAYS", callback=finite, help="Delete decisions older than so many days, and their outcomes."
        ),
    ] = None,
    caller: Annotated[
        str | None, typer.Option(help="Delete decisions of this caller (its name in the log), and their outcomes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; say what would be deleted.")] = False,
) -> None:
    """Delete recorded decisions with their prompts, solutions and outcomes: by age, by caller, or by both together.

    A server may go on recording meanwhile. An SQLite file shrinks, and keeps no trace of deleted rows.
    """
    from datetime import UTC, datetime, timedelta

    from router.outcomes import fitting
    from router.outcomes.purge import purge as delete
    from router.outcomes.tables import existing

    if older_than is None and caller is None:
        raise InvalidRequest(
            "older_than",
            "say what is to be deleted: --older-than DAYS, --caller NAME, or both; --older-than 0 is everything",
            reason="UNSPECIFIED",
        )
    try:
        before = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
    except OverflowError:
        raise InvalidRequest(
            "older_than", f"--older-than {older_than:g} is before the calendar begins", reason="UNSPECIFIED"
        ) from None
    with existing(url) as engine:
        name = None if caller is None else fitting.text(caller, fitting.NAME)
        purged = delete(engine, before=before, caller=name, delete=not dry_run)
    print(f"{'would delete' if dry_run else 'deleted'} {purged.decisions} decisions and {purged.outcomes} outcomes")
