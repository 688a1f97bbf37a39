"""The page of settings is what the commands say."""

import faulthandler
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from router.cli.options import LONGEST_SECONDS
from router.cli.settings import page
from router.service.ending import MARGIN_SECONDS
from tests.support.commands import COMMANDS

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run `make generate`"


def test_every_command_option_and_variable_is_there():
    sections = dict(re.findall(r"## router ([^\n]+)\n(.*?)(?=\n## |\Z)", page(), re.S))
    assert sections.keys() == COMMANDS.keys()
    for name, command in COMMANDS.items():
        for option in command.params:
            assert option.name == "help" or max(option.opts, key=len).upper() in sections[name].upper()
            assert not option.envvar or f"`{option.envvar}`" in sections[name]


def test_a_row_says_what_an_option_takes_and_its_default():
    assert "| `--port 0…65535` | `ROUTER_PORT` | `50551` | Port to listen on; 0 is any free one. |" in page()
    assert re.search(r"\| `--bundle PATH` \* \|  \|  \| Folder to write to", page())
    assert re.search(r"\| `--backend TEXT` \| `ROUTER_BACKEND` \| as the bundle says \|", page())


def _numbers() -> Iterator[Any]:
    for name, command in COMMANDS.items():
        context = command.make_context(command.name, [], resilient_parsing=True)  # parses, but runs nothing
        for option in command.params:
            if option.display_type(context).strip("<>").startswith("float"):
                yield pytest.param(context, option, id=f"{name} {max(option.opts, key=len)}")


NUMBERS = list(_numbers())


@pytest.mark.parametrize("given", ["inf", "-inf", "nan"])
@pytest.mark.parametrize(("context", "option"), NUMBERS)
def test_a_number_is_finite(context, option, given):
    """Timers, memory and dates can't be infinite, and not every bound holds off nan."""
    with pytest.raises(typer.BadParameter):
        option.process_value(context, given)


def test_durations_are_among_the_numbers():
    seconds = {"serve --grace", "serve --longest-search", "solve --timeout", "solve --max-seconds"}
    assert seconds <= {str(each.id) for each in NUMBERS}


def test_a_timer_can_hold_the_longest_duration():
    faulthandler.dump_traceback_later(LONGEST_SECONDS + MARGIN_SECONDS, exit=False)
    faulthandler.cancel_dump_traceback_later()
