"""Commands that write ask for the folder by name, and change no finished bundle without being told to."""

import shutil

import pytest
from typer.testing import CliRunner

from router.bundle.manifest import MANIFEST
from router.cli.main import main
from tests.support.commands import COMMANDS

# Command → what else it needs to get as far as its check.
WRITERS = {
    "train": ["x.parquet"],
    "tune": ["x.parquet"],
    "calibrate": ["x.parquet"],
    "train-generator": ["x.jsonl"],
    "train-reviser": ["x.parquet"],
    "train-verifier": ["x.parquet"],
}
READERS = {"serve", "demo", "check", "plan", "collect", "score", "judge-reviser", "merge"}


def folder_option(command: str):
    """The option that names a bundle's folder; None where a command has none."""
    found = [option for option in COMMANDS[command].params if "--bundle" in option.opts]
    return found[0] if found else None


@pytest.mark.parametrize("command", [*WRITERS, "evaluate"])
def test_what_writes_has_no_default_folder(command):
    option = folder_option(command)
    assert option.required
    assert option.envvar is None


def test_only_what_reads_has_a_default_folder():
    named = {command for command in COMMANDS if (option := folder_option(command)) and not option.required}
    assert named == READERS


@pytest.mark.parametrize("command", WRITERS)
def test_a_finished_bundle_is_not_changed_unasked(command, bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    result = CliRunner().invoke(main, [command, *WRITERS[command], "--bundle", str(folder)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "holds a finished bundle" in result.stderr
    assert "--overwrite" in result.stderr
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_an_unfinished_one_is_written_to(tmp_path):
    result = CliRunner().invoke(main, ["train", str(tmp_path / "x.parquet"), "--bundle", str(tmp_path)])
    assert "finished bundle" not in result.stderr
    assert not (tmp_path / MANIFEST).exists()
