"""Writes every setting of the commands as Markdown: `python -m router.cli.settings > docs/settings.md`."""

import re
from collections.abc import Iterator
from enum import Enum
from inspect import cleandoc
from typing import Any

import typer

from router.cli.main import main

_HEAD = """\
# Settings

Written by `make generate` from the commands; change those, not this page. An option takes precedence over its
environment variable, and the variable over the default. Options marked * are required. A variable with several values
has spaces between them. A variable that turns something on or off is `1` or `0`.
"""
_TOLD = re.compile(r"\s*\[default( \w+)?: (?P<value>.+)\]$", re.S)  # a default that is part of an option's help text
_ANY = 2**32 - 1  # the protocol's largest number, which as a bound is not worth showing


def page() -> str:
    """Return the page: for each command, what it does, and a table of its arguments and options."""
    root: Any = typer.main.get_command(main)
    return _HEAD + "".join(_section(name, command) for name, command in commands(root))


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all commands with their full names, such as ``outcomes purge``."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _section(name: str, command: Any) -> str:
    what, *_ = cleandoc(command.help).split("\n\n")
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows(command))
    return (
        f"\n## router {name}\n\n{' '.join(what.split())}\n\n"
        f"| setting | variable | default | what it is |\n|---|---|---|---|\n{rows}"
    )


def _rows(command: Any) -> Iterator[tuple[str, str, str, str]]:
    context = command.make_context(command.name, [], resilient_parsing=True)  # parses, but runs nothing
    for param in command.params:
        if param.name == "help":
            continue
        told = _TOLD.search(param.help or "")
        text = _TOLD.sub("", param.help or "")
        shown = told["value"] if told else _default(param)
        variable = f"`{param.envvar}`" if getattr(param, "envvar", None) else ""
        yield f"`{_spelling(param, context)}`{' *' if param.required else ''}", variable, _cell(shown), _cell(text)


def _spelling(param: Any, context: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.name).upper() + ("..." if param.nargs == -1 else "")
    option = max(param.opts, key=len)
    return str(option) if param.is_flag else f"{option} {param.metavar or _kind(param, context)}"


def _kind(param: Any, context: Any) -> str:
    """Return what values look like: PATH, TEXT, the choices, or a number with its bounds."""
    kind = str(param.display_type(context)).strip("<>").removeprefix("list[").removesuffix("]")
    if param.max is not None and param.max < _ANY:
        return f"{param.min}…{param.max}"
    plain = {"path": "PATH", "str": "TEXT", "int": "INTEGER", "float": "NUMBER"}
    name = plain.get(kind.removesuffix(" range").lower(), kind.replace("|", "\\|"))
    return name if param.min is None else f"{name}≥{param.min:g}"


def _default(param: Any) -> str:
    if isinstance(getattr(param, "show_default", None), str):
        return str(param.show_default)
    if param.default is None or param.default == () or callable(param.default):
        return ""
    if getattr(param, "is_flag", False):
        return "on" if param.default else "off"
    return f"`{_text(param.default)}`"


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
