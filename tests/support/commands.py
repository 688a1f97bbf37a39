"""The commands as the command line has them, those of a group by both words."""

from typing import Any

import typer

from router.cli.main import main
from router.cli.settings import commands

_root: Any = typer.main.get_command(main)
COMMANDS: dict[str, Any] = dict(commands(_root))


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The name of the command that a line calls, and what the line gives it."""
    group = next((name for name in COMMANDS if words[:2] == name.split()), words[0])
    return group, words[len(group.split()) :]
