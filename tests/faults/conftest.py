"""A router on fake vLLM servers, one on scripted engines, and the tally of each fault.

Each fault is made a few times in `make test-processes`, and often by `make test-faults`, which writes the table in
docs/reliability.md.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from router.backends.specs import ModelSpec, Setup, VerifierSpec
from router.backends.template import CHATML
from router.bundle.manifest import read_manifest, write_manifest
from tests.support.breakable import ROOT, FakeVllmServer, PostgreSQL, Router, on_vllm
from tests.support.fake_vllm import CONTEXT, SPECIAL, TEMPLATE
from tests.support.faults import Tally, report, told_nothing

Often = Callable[[int, int], int]
IN_PROCESS_CONTEXT = 3072
SHARE = float(os.environ.get("FAULTS", "1"))  # of the times that `make test-faults` makes each fault
TABLE = ROOT / "build" / "faults.md"
_tallies: list[Tally] = []


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.faults)])
def often(request) -> Often:
    """How often something is done: the first number in `make test-processes`, the second in `make test-faults`, or a
    share of it (``FAULTS``)."""

    def number(few: int, many: int) -> int:
        if request.param == "few":
            return few
        return max(few, round(many * SHARE)) if 0 < few < many else many

    return number


@pytest.fixture
def tallied(request):
    """Counts what a fault costs; in the end nothing may be lost."""

    @contextmanager
    def counting(fault: str) -> Iterator[Tally]:
        tally = Tally(fault)
        yield tally
        if request.node.get_closest_marker("faults"):
            _tallies.append(tally)
            TABLE.parent.mkdir(exist_ok=True)
            TABLE.write_text(report(_tallies))
        assert not tally.lost, f"{len(tally.lost)} lost, e.g. {tally.lost[:3]}"
        assert tally.calls
        assert tally.times

    return counting


@pytest.fixture(scope="package")
def bundles(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``one`` and ``two`` are for the fake vLLM servers."""
    root = tmp_path_factory.mktemp("bundles")
    tokenizer = str(characters(root / "tokenizer"))
    models = {"small": ModelSpec(tokenizer, 1_000, TEMPLATE, temperature=0.8, max_tokens=256)}
    verifier = VerifierSpec("qwen2.5-math-prm", None, 500, tokenizer)
    for name in ("one", "two"):
        shutil.copytree(bundle_folder, root / name)
        manifest, _ = read_manifest(root / name)
        write_manifest(root / name, replace(manifest, setup=Setup(name, "small", models, verifier)))
    return root


@pytest.fixture(scope="package")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FakeVllmServer]]:
    folder = tmp_path_factory.mktemp("engines")
    engines = {name: FakeVllmServer(folder / f"{name}.log") for name in ("a", "b", "verifier")}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(autouse=True)
def healthy(request) -> None:
    """Every fault begins with engines that answer well."""
    engines = request.getfixturevalue("engines") if "engines" in request.fixturenames else {}
    for engine in engines.values():
        engine.behave()


@pytest.fixture(scope="package")
def router(bundles: Path, engines: dict[str, FakeVllmServer], tmp_path_factory) -> Iterator[Router]:
    """On two engines that generate and one that scores."""
    router = Router(bundles / "one", tmp_path_factory.mktemp("router"), *on_vllm(engines))
    yield router
    assert router.stop() == 0
    told_nothing(router)


@pytest.fixture(scope="package")
def scripted(bundle_folder: Path, tmp_path_factory) -> Iterator[Router]:
    """On engines in its own process, which answer at once."""
    router = Router(bundle_folder, tmp_path_factory.mktemp("scripted"), "--backend=fake")
    yield router
    assert router.stop() == 0
    told_nothing(router)


@pytest.fixture(scope="package")
def in_process(bundle_folder: Path, tmp_path_factory) -> Path:
    """A bundle of a model in the server's own process, of two small layers."""
    from tests.support import tiny_models

    folder = tmp_path_factory.mktemp("in_process")
    prm = tiny_models.qwen_math_prm(folder / "prm", 2 * IN_PROCESS_CONTEXT)  # its template takes more
    return _tiny(bundle_folder, folder, prm)


@pytest.fixture(scope="package")
def small_verifier(bundle_folder: Path, tmp_path_factory) -> Path:
    """The same with a verifier whose context is a third of the model's."""
    from tests.support import tiny_models

    folder = tmp_path_factory.mktemp("small_verifier")
    return _tiny(bundle_folder, folder, tiny_models.qwen_math_prm(folder / "prm", IN_PROCESS_CONTEXT // 3))


def _tiny(bundle_folder: Path, folder: Path, prm: Path) -> Path:
    from tests.support import tiny_models

    model = tiny_models.writer(folder / "writer", IN_PROCESS_CONTEXT)
    models = {"small": ModelSpec(str(model), 100_000, CHATML, temperature=1.0, max_tokens=32)}
    verifier = VerifierSpec("qwen2.5-math-prm", None, 100_000, str(prm))
    shutil.copytree(bundle_folder, folder / "bundle")
    manifest, _ = read_manifest(folder / "bundle")
    write_manifest(folder / "bundle", replace(manifest, setup=Setup("tiny", "small", models, verifier)))
    return folder / "bundle"


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    pytest.importorskip("psycopg")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # not on the PATH there
    found = shutil.which("initdb")
    if not debian and not found:
        pytest.skip("no PostgreSQL server here")
    binaries = debian[-1] if debian else Path(found or "").resolve().parent
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # which others than root can enter
        database = PostgreSQL(Path(folder), binaries)
        yield database
        database.kill()


def characters(folder: Path) -> Path:
    """The fake vLLM server's tokenizer, for transformers to load: a character is a token, its code point the id."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {chr(point): point for point in range(0xD800)} | SPECIAL | {"\ufffd": 0xE004}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="\ufffd"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": CONTEXT}))
    return folder
