"""What the README shows is what the code does."""

import asyncio
import contextlib
import io
import re
from pathlib import Path

import typer

from router.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


async def test_the_python_example_runs(server):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        await asyncio.to_thread(exec, example.replace("127.0.0.1:50551", f"127.0.0.1:{server.port}"), {})
    answer, level, tokens = printed.getvalue().split()
    assert (answer, int(level) in range(1, 6), int(tokens) > 0) == ("83", True, True)


def test_every_setting_of_the_commands_is_in_the_table():
    commands = typer.main.get_command(main).commands
    variables = {option.envvar for command in commands.values() for option in command.params if option.envvar}
    assert variables == set(re.findall(r"`(ROUTER_\w+)`", README))


def test_every_command_is_named():
    for name in typer.main.get_command(main).commands:
        assert f"router {name}" in README or f"`{name}`" in README, name
