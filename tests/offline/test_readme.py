"""What the README and the clients' page show is what the code does."""

import asyncio
import contextlib
import io
import json
import re
from pathlib import Path

from router import client
from router.v1 import router_pb2 as pb
from tests.support.commands import COMMANDS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
CLIENTS = (ROOT / "docs" / "clients.md").read_text()
PAGES = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))


def run(example: str, port: int) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example.replace("127.0.0.1:50551", f"127.0.0.1:{port}"), {"__name__": "__main__"})
    return printed.getvalue()


async def test_the_python_example_runs(server):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    answer, level, share = (await asyncio.to_thread(run, example, server.port)).split()
    assert (answer, int(level) in range(1, 6), share.endswith("%")) == ("83", True, True)


async def test_the_clients_examples_run(server):
    examples = re.findall(r"```python\n(.*?)```", CLIENTS, re.S)
    printed = [await asyncio.to_thread(run, example, server.port) for example in examples]
    solved, gathered, streamed, failed = printed
    assert solved.startswith("83 ")
    assert gathered.split() == ["17", "83"]
    assert streamed.startswith("round 1")
    assert streamed.endswith("\n83\n")
    assert failed.startswith("prompt PROMPT_EMPTY")
    assert failed.endswith(f"{pb.STOP_REASON_COMPLETE} 83\n")


def test_the_retries_that_other_languages_are_told_of_are_our_own():
    (told,) = re.findall(r"```json\n(.*?)```", CLIENTS, re.S)
    assert json.loads(told) == json.loads(client._RETRIES)


def test_every_command_is_named():
    for name in COMMANDS:
        assert f"router {name}" in PAGES or f"`{name}`" in PAGES, name
