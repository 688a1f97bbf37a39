"""Links lead somewhere, commands parse, examples hold: of the README, the contributors' page and everything in docs."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

import strategies
from router.attempts.prompts import read_prompts
from router.backends.specs import Setup
from router.schema import read
from router.tasks import Tasks, load_task
from strategies import Candidate
from tests.support.commands import COMMANDS, command_of

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(page: Path) -> list[list[str]]:
    """The page's `router` commands, as words; a command may go on over lines, and others may stand before it."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ ").split("  #")[0]) for line in lines if line.startswith("$ ")]
    found = [each[each.index("router") + 1 :] for each in words if "router" in each]
    return [each[: each.index(">")] if ">" in each else each for each in found if not each[0].startswith("-")]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_parses(page):
    for line in commands(page):
        name, words = command_of(list(line))
        try:
            COMMANDS[name].make_context(name, words)  # parses, and runs nothing
        except typer.Exit:
            pass  # --help
        except Exception as error:
            raise AssertionError(f"router {name} {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_example_is_python(page):
    for example in blocks(page, "python"):
        ast.parse(example)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_decisions_are_short_and_listed():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for record in folder.glob("0*.md"):
        assert len(record.read_text().splitlines()) <= 25, record
        assert f"({record.name})" in index, record


def test_the_guides_models_are_read():
    whole, part, _ = blocks(ROOT / "docs" / "guide.md", "json")
    document = json.loads(whole)
    document["models"] |= json.loads("{" + part + "}")
    setup = read(Setup, document)
    assert (set(setup.models), setup.task, setup.reference) == ({"small", "large"}, "math", "small")


async def test_the_guides_prompts_of_two_tasks_fit_its_models(tmp_path):
    *_, models = blocks(ROOT / "docs" / "guide.md", "json")
    (lines,) = blocks(ROOT / "docs" / "guide.md", "jsonl")
    setup = read(Setup, json.loads(models))
    assert set(setup.models) == {"small", "large"}
    (tmp_path / "mine.jsonl").write_text(lines)
    code, choice = read_prompts(tmp_path / "mine.jsonl")
    assert (code.task, choice.task) == setup.tasks
    tasks = Tasks(setup.tasks)
    assert code.bound(tasks).extract("```python\ndef is_even(n):\n    return n % 2 == 0\n```")
    for line in (*code.inputs["tests"], *choice.inputs["choices"]):  # the model has to see them
        assert line in code.prompt.question + choice.prompt.question
    assert choice.reference
    assert await choice.bound(tasks).right("carbon dioxide", choice.reference)


async def test_the_guides_task_is_a_task(tmp_path, monkeypatch):
    example = next(block for block in blocks(ROOT / "docs" / "guide.md", "python") if "class YesNo" in block)
    (tmp_path / "yes_no.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task("yes_no:YesNo")
    assert task.extract("It is even, so no. Or rather: Yes!") == "yes"
    assert task.extract("Nobody knows") is None
    assert await task.key(" Yes ") == "yes"
    assert await task.right("Yes", "yes")
    assert not await task.right("no", "yes")


def test_the_contributors_strategy_chooses():
    (example,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    registered: list[type[strategies.Sampling]] = []
    exec(_IMPORTS + example, {"register": registered.append, "__name__": "example"})
    (shortest,) = (kind(n=2) for kind in registered)
    long = Candidate(steps=("1 + 1 = 2\n", "Answer: 2"), tokens=tuple(range(18)), end="stop", answer="2")
    short = Candidate(steps=("Answer: 3",), tokens=tuple(range(9)), end="stop", answer="3")
    assert str(shortest) == "shortest_of_n(n=2)"
    assert shortest.choose([long, short]).answer == "3"
    assert shortest.choose([Candidate()]).answer is None


_IMPORTS = """
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from strategies import Candidate, Result, Sampling
from strategies.selection import answered
"""
