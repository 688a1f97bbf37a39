"""The `router` command. All settings are options of its commands, or environment variables named ROUTER_*."""

from typing import Annotated, Any

import typer

from router.cli import groups as commands
from router.errors import InvalidFile, InvalidRequest, RouterError
from router.extras import missing


class _Commands(typer.core.TyperGroup):
    """Prints a RouterError as one line. The exit code is 2 for wrong input, 1 for any other error.

    An optional package that is not installed also becomes a RouterError.
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
    rich_markup_mode="markdown",  # in rich's own markup, "[default: none]" would be read as a tag and disappear
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


for _command in (*commands.CALLS, *commands.SERVICE, *commands.PIPELINE):
    main.command()(_command)
for _group in commands.GROUPS:
    main.add_typer(_group)


if __name__ == "__main__":
    main()
