"""A bundle: difficulty model, policy, adapters and the manifest that holds them together. Immutable once loaded."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from router.backends import GeneratorSpec, VerifierSpec
from router.backends.template import Template
from router.errors import InvalidBundle
from router.policy.table import Policy

if TYPE_CHECKING:
    from difficulty import DifficultyModel

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is served, and what it was made from. ``files`` maps each file's path in the bundle to its sha256.

    edges       the four bin edges between levels, in units of ``statistic``, hardest side last
    statistic   "pass_rate" or "mean_score"
    provenance  library versions, git revision, seeds, date: for people
    larger      what the arm larger_model was measured on, where there is one
    """

    format_version: int
    name: str
    generator: GeneratorSpec
    verifier: VerifierSpec
    statistic: str
    edges: tuple[float, ...]
    files: Mapping[str, str]
    libraries: Mapping[str, str]
    provenance: Mapping[str, Any]
    larger: GeneratorSpec | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """``id`` is the name and the first 12 digits of the manifest's sha256; ``digest`` is all of it."""

    folder: Path
    digest: str
    manifest: Manifest
    policy: Policy
    difficulty: "DifficultyModel"

    @property
    def id(self) -> str:
        return f"{self.manifest.name}@{self.digest[:12]}"

    @property
    def levels_by(self) -> str:
        """The difficulty model's sha256, its first 12 digits: levels of bundles that agree here mean the same."""
        return self.manifest.files["difficulty.joblib"][:12]

    @property
    def engines(self) -> tuple[object, ...]:
        """Equal for bundles that the same engines serve: same models, same adapters."""
        own = ("difficulty.joblib", "policy.json")
        adapters = frozenset((name, digest) for name, digest in self.manifest.files.items() if name not in own)
        return self.manifest.generator, self.manifest.verifier, self.manifest.larger, adapters


def load_bundle(folder: Path, digest: str | None = None) -> Bundle:
    """Check, then open. ``digest`` pins the manifest's sha256, and with it every file.

    Raises InvalidBundle. Nothing is unpickled before its digest matched: a joblib file is code.
    """
    manifest, found, policy = read_policy(folder, digest)
    for library, built_with in manifest.libraries.items():
        if _version(library) != built_with:
            warnings.warn(
                f"bundle {manifest.name} was built with {library} {built_with}, this is {_version(library)}; "
                "rebuild it with `router train` if predictions look off",
                stacklevel=2,
            )
    import joblib

    try:
        difficulty = joblib.load(BytesIO(_checked(folder, "difficulty.joblib", manifest)))
    except (
        ImportError,
        AttributeError,
        ValueError,
        TypeError,
        KeyError,
    ) as error:  # what other versions' pickles raise
        raise InvalidBundle(
            f"{folder}/difficulty.joblib does not load with these library versions ({error}); "
            "rebuild it with `router train` and `router tune`"
        ) from error
    return Bundle(folder, found, manifest, policy, difficulty)


def read_policy(folder: Path, digest: str | None = None) -> tuple[Manifest, str, Policy]:
    """What can be known of a bundle without running code from it: its manifest, digest and policy.

    Raises InvalidBundle.
    """
    manifest, found = read_manifest(folder, digest)
    return manifest, found, Policy.loads(_checked(folder, "policy.json", manifest).decode())


def read_manifest(folder: Path, digest: str | None = None) -> tuple[Manifest, str]:
    """The manifest and its sha256, after checking every file that it lists. Raises InvalidBundle."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InvalidBundle(
            f"{folder} is no bundle: it has no {MANIFEST} (written last, so an interrupted build has none). "
            "Build one with `router train` and `router tune`, or name another folder"
        )
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if digest and not found.startswith(digest.lower()):
        raise InvalidBundle(f"{path} has digest {found}, but {digest} is pinned; unpin it or restore the pinned bundle")
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise InvalidBundle(f"{path} is not JSON: {error}") from error
    given = document.get("format_version") if isinstance(document, dict) else None
    if given != FORMAT_VERSION:
        raise InvalidBundle(
            f"{path} has format version {given!r}, this router reads {FORMAT_VERSION}; rebuild it with this version"
        )
    try:
        manifest = _manifest(document)
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidBundle(f"{path}: {error}") from error
    larger = manifest.larger.adapter if manifest.larger else None
    adapters = (manifest.generator.adapter, manifest.generator.reviser, manifest.verifier.adapter, larger)
    weights = (f"{adapter}/adapter_model.safetensors" for adapter in adapters if adapter)
    for name in ("difficulty.joblib", "policy.json", *weights):
        if name not in manifest.files:
            raise InvalidBundle(f"{path} lists no {name}: the bundle is partial; run `router train` and `router tune`")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise InvalidBundle(f"{folder} lacks {name}, which its manifest lists; restore it or rebuild the bundle")
        if sha256(file) != expected:
            raise _altered(file)
    return manifest, found


def _checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    """A file's content, digested as it was read: what is opened can't be swapped between the check and the opening."""
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise _altered(folder / name)
    return content


def _altered(file: Path) -> InvalidBundle:
    return InvalidBundle(f"{file} does not match its digest in the manifest; restore it or rebuild the bundle")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Written last and at once: its existence means that the rest is complete."""
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    partial.replace(folder / MANIFEST)


def digests(folder: Path, *adapters: str | None) -> dict[str, str]:
    """sha256 of every file that a bundle serves: the difficulty model, the policy and the adapters' folders."""
    names = ["difficulty.joblib", "policy.json", *(f"{adapter}/*" for adapter in adapters if adapter)]
    files = sorted(file for name in names for file in folder.glob(name) if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def library_versions() -> dict[str, str]:
    """Versions that a pickled difficulty model depends on."""
    return {library: _version(library) for library in ("scikit-learn", "numpy", "joblib")}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _manifest(document: dict[str, Any]) -> Manifest:
    values = _exactly(document, Manifest)
    if not isinstance(values["files"], dict) or not isinstance(values["libraries"], dict):
        raise ValueError("files and libraries must be objects")
    generator, verifier, larger = specs(values["generator"], values["verifier"], values["larger"])
    models = {"generator": generator, "verifier": verifier, "larger": larger}
    return Manifest(**{**values, **models, "edges": tuple(values["edges"])})


def specs(
    generator: Any, verifier: Any, larger: Any = None
) -> tuple[GeneratorSpec, VerifierSpec, GeneratorSpec | None]:
    """Generator, verifier and larger model from JSON values; raises ValueError naming what is wrong."""
    return (
        _generator(generator),
        VerifierSpec(**_typed(verifier, VerifierSpec)),
        None if larger is None else _generator(larger),
    )


def _generator(value: Any) -> GeneratorSpec:
    value = _exactly(value, GeneratorSpec)
    template = Template(**_typed(value["template"], Template))
    return GeneratorSpec(**_typed({**value, "template": template}, GeneratorSpec))


def _typed(mapping: Any, cls: type) -> dict[str, Any]:
    values = _exactly(mapping, cls)
    for name, kind in get_type_hints(cls).items():
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
            wanted = getattr(kind, "__name__", kind)
            raise ValueError(f"{cls.__name__}.{name} must be {wanted}, found {json.dumps(value, default=str)[:60]}")
    return values


def _exactly(mapping: Any, cls: type) -> dict[str, Any]:
    """Every field of ``cls`` and no other; one with a default may be left out, and then has it."""
    wanted = {field.name for field in fields(cls)}
    optional = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    if not isinstance(mapping, dict) or {*mapping, *optional} != wanted:
        raise ValueError(f"{cls.__name__} needs exactly {sorted(wanted)}")
    return {**optional, **mapping}
