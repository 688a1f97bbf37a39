"""The commands as the command line has them."""

from typing import Any

import typer

from router.cli.main import main

_root: Any = typer.main.get_command(main)
COMMANDS: dict[str, Any] = _root.commands
