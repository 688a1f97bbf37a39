"""Whatever the files of a bundle hold: loaded, or refused as InvalidBundle; never anything else."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from typer.testing import CliRunner

from router.bundle.bundle import load_bundle, read_policy
from router.bundle.manifest import digests, read_manifest, version_of
from router.bundle.setup import read_setup, setup_json
from router.cli.main import main
from router.errors import InvalidBundle, InvalidFile
from router.policy.confidence import Confidence, Weights
from tests.conftest import SETUP

ANY = "0" * 64
NESTED = {depth: "[" * depth + "]" * depth for depth in (900, 300_000)}


@pytest.fixture
def folder(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def refused(folder: Path) -> str:
    with pytest.raises(InvalidBundle) as caught:
        read_policy(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def change(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | values))


def write_policy(folder: Path, content: bytes) -> None:
    """With the digest that goes with it: these are the maker's mistakes, not those of the way."""
    (folder / "policy.json").write_bytes(content)
    change(folder, files=digests(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"NaN",
        b"\xff\xfe\x00",
        b'"\\ud800"',
        b'{"format_version": ' + b"9" * 5000 + b"}",
        NESTED[900].encode(),
        NESTED[300_000].encode(),
        b'{"format_version": 3, "provenance": ' + NESTED[300_000].encode() + b"}",
    ],
    ids=lambda content: f"{content[:20]!r}",
)
@pytest.mark.parametrize("file", ["manifest.json", "policy.json"])
def test_a_file_that_is_no_such_document_is_refused(folder, file, content):
    if file == "policy.json":
        write_policy(folder, content)
    else:
        (folder / file).write_bytes(content)
    assert f"{folder}/{file}" in refused(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"edges": "abcd"}, "edges"),
        ({"edges": [float("nan")] * 4}, "NaN is not a number"),
        ({"edges": [float("inf"), 0.6, 0.4, 0.2]}, "Infinity is not a number"),
        ({"edges": [0.2, 0.4, 0.6, 0.8]}, "must fall strictly"),
        ({"edges": [0.5] * 4}, "must fall strictly"),
        ({"provenance": {"seed": float("nan")}}, "NaN is not a number"),
        ({"statistic": "luck"}, "statistic"),
        ({"format_version": True}, "format version True"),
        ({"setup": []}, "setup"),
        ({"setup": setup_json(SETUP) | {"name": "a\nb"}}, "setup.name"),
        ({"setup": setup_json(SETUP) | {"task": 3}}, "setup.task"),
    ],
)
def test_values_out_of_range_in_a_manifest_are_refused(folder, values, words):
    change(folder, **values)
    assert words in refused(folder)


def test_numbers_that_overflow_are_refused(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("0.8", "1e999", 1))
    refused(folder)
    (folder / "manifest.json").write_text(text.replace('"parameters": 1000', '"parameters": 1' + "0" * 400, 1))
    assert "parameters" in refused(folder)


def model(**values: Any) -> dict[str, Any]:
    return setup_json(SETUP)["models"]["small"] | values


def test_prices_whose_ratio_is_no_number_are_refused(folder):
    models = {"small": model(output_price=1e-320), "large": model(output_price=1.0)}
    change(folder, setup=setup_json(SETUP) | {"models": models})
    assert "correct the prices" in refused(folder)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "", ".", "a\0b", "a" * 5000, "folder", "loop", "loop/x", "pipe"]
)
def test_a_listed_file_that_is_none_of_the_folder_is_refused(folder, name):
    (folder.parent / "outside").write_text("x")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    change(folder, files={**digests(folder), name: ANY})
    assert "lacks" in refused(folder)


def test_a_name_that_is_no_text_is_refused(folder):
    change(folder, files={**digests(folder), "\ud800": ANY})
    refused(folder)


@pytest.mark.parametrize("file", ["manifest.json", "policy.json", "difficulty.joblib"])
@pytest.mark.parametrize("damage", [Path.mkdir, lambda path: path.symlink_to(path.name), os.mkfifo])
def test_what_is_in_place_of_a_file_is_refused(folder, file, damage):
    (folder / file).unlink()
    damage(folder / file)
    refused(folder)


def test_a_folder_that_no_path_can_name_is_no_bundle():
    for name in ("a\0b", "a" * 5000):
        with pytest.raises(InvalidBundle, match="is no bundle"):
            read_manifest(Path(name))


Document = dict[str, Any]


def cell(**values: Any) -> Callable[[Document], object]:
    return lambda policy: policy["cells"][0].update(values)


def cost(**values: Any) -> Callable[[Document], object]:
    return lambda policy: policy["cells"][0]["cost"].update(values)


def every(**values: Any) -> Callable[[Document], object]:
    return lambda policy: [each.update(values) for each in policy["cells"]]


def respell(old: str, new: str) -> Callable[[Document], object]:
    return lambda policy: [each.update(arm=new) for each in policy["cells"] if each["arm"] == old]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cell(accuracy=7), "accuracy"),
        (cell(accuracy=float("nan")), "NaN"),
        (cell(low=-0.1), "low"),
        (cell(low=0.9, accuracy=0.5, high=0.1), "outside its interval"),
        (cell(level=9), "level"),
        (cell(arm="magic"), "magic"),
        (cell(arm="(" * 10_000), "policy"),
        (cell(arm="majority(n=" + "9" * 5000 + ")"), "policy"),
        (cell(arm=3), "arm"),
        (cell(prompts=float("inf")), "Infinity"),
        (every(prompts=0), "no prompts at any level"),
        (cost(generations=-1), "generations"),
        (cost(generator_flops=float("inf")), "Infinity"),
        (cost(generator_flops=1e308), "generator_flops"),
        (lambda policy: policy.update(worth={"small": 0}), "worth"),
        (lambda policy: policy.update(worth={"small": 1e-320}), "worth"),
        (lambda policy: policy.update(tolerance=float("nan")), "NaN"),
        (lambda policy: policy.update(default={}), "default"),
        (lambda policy: policy.update(default={"luck": 1}), "luck"),
        (lambda policy: policy.update(default={"budget": float("inf")}), "Infinity"),
        (lambda policy: policy.update(budget_points=[{"generations": -1, "price": 0}]), "generations"),
        (lambda policy: policy.update(cells="abcd"), "cells"),
        (lambda policy: policy.update(cells=[]), "cells"),
        (respell("single", "single(model=large)"), "asks the model 'large', which the manifest does not describe"),
    ],
)
def test_values_out_of_range_in_a_policy_are_refused(folder, change, words):
    document = json.loads((folder / "policy.json").read_text())
    changed = copy.deepcopy(document)
    change(changed)
    assert changed != document
    write_policy(folder, json.dumps(changed).encode())
    assert words in refused(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x05.", b"\x80\x04cos\nno_such\n.", b"x\x9c" + b"\0" * 20])
def test_a_difficulty_model_that_is_none_is_refused(folder, content):
    (folder / "difficulty.joblib").write_bytes(content)
    change(folder, files=digests(folder))
    with pytest.raises(InvalidBundle, match="rebuild it"):
        load_bundle(folder)


def test_another_object_in_place_of_the_difficulty_model_is_refused(folder):
    joblib.dump(["no", "model"], folder / "difficulty.joblib")
    change(folder, files=digests(folder))
    with pytest.raises(InvalidBundle, match="holds no difficulty model"):
        load_bundle(folder)


def test_a_confidence_that_is_none_is_refused_by_its_path(folder):
    (folder / "confidence.json").write_text("{}")
    change(folder, files=digests(folder))
    with pytest.raises(InvalidBundle) as caught:
        load_bundle(folder)
    assert str(caught.value).startswith(f"{folder}/confidence.json: ")


def test_confidence_in_a_task_that_the_bundle_lacks_is_refused(folder):
    for task, refusal in (("math", None), ("cooking", "weights of the task 'cooking'")):
        (folder / "confidence.json").write_text(Confidence({}, 0.0, tasks={task: Weights({}, 1.0)}).dumps())
        change(folder, files=digests(folder))
        if refusal is None:
            assert load_bundle(folder).confidence
        else:
            with pytest.raises(InvalidBundle, match=refusal):
                load_bundle(folder)


def test_libraries_that_can_not_exist_are_not_installed():
    assert version_of("") == version_of("a/b") == "not installed"


@pytest.mark.parametrize("digest", ["", "0", "0123456789a"])
def test_a_pin_that_pins_little_is_refused(folder, digest):
    with pytest.raises(InvalidBundle, match="too short; give at least its first 12 digits"):
        read_manifest(folder, digest)


def test_an_empty_pin_is_refused_by_the_command(bundle_folder):
    command = ["serve", "--backend", "fake", "--bundle", str(bundle_folder), "--bundle-digest", ""]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "the pinned digest '' is too short" in result.stderr


@pytest.mark.parametrize("content", [b"", b"[]", b"NaN", b"\xff", NESTED[900].encode(), NESTED[300_000].encode()])
def test_a_description_of_models_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "models.json").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"models\.json"):
        read_setup(tmp_path)
    (tmp_path / "models.json").unlink()
    (tmp_path / "models.json").mkdir()
    with pytest.raises(InvalidFile, match=r"models\.json"):
        read_setup(tmp_path)
