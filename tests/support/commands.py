"""Finds the router's commands by their names on the command line; a group's command has two words."""

from typing import Any

import typer

from router.cli.main import main
from router.cli.settings import commands

_root: Any = typer.main.get_command(main)
COMMANDS: dict[str, Any] = dict(commands(_root))


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the name of the command that a line calls, and its arguments."""
    group = next((name for name in COMMANDS if words[:2] == name.split()), words[0])
    return group, words[len(group.split()) :]
