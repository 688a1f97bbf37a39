"""Tests that `make test` leaves out are all run by a target of their own."""

import re
import tomllib
from pathlib import Path

import pytest

MARKS = [
    mark.partition(":")[0]
    for mark in tomllib.loads(Path("pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
]


@pytest.mark.parametrize("mark", MARKS)
def test_a_marks_target_looks_at_every_file_with_the_mark(mark):
    (options,) = re.findall(rf'pytest.* -m "?{mark}\b(.*)|\$\(PYTEST\) -m "?{mark}\b(.*)', Path("Makefile").read_text())
    places = [word for word in "".join(options).split() if word.startswith("tests/")] or ["tests"]
    marked = [file for file in Path("tests").rglob("*.py") if re.search(rf"\bmark\.{mark}\b", file.read_text())]
    assert marked
    assert [file for file in marked if not any(map(file.is_relative_to, places))] == []


@pytest.mark.parametrize("mark", MARKS)
def test_ci_runs_every_mark(mark):
    if mark in ("faults", "weights"):  # for minutes, before a release
        return
    rules = re.split(r"\n(?=\S+:)", Path("Makefile").read_text())
    (target,) = (rule.partition(":")[0] for rule in rules if re.search(rf'\t.* -m "?{mark}\b', rule))
    assert target in Path(".ci/run").read_text().split()
