"""The page of settings is what the commands say."""

import re
from pathlib import Path

from router.cli.settings import page
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
