"""The manifest: what a bundle is, and the digest of every file that it serves. It is written last."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from router.backends.specs import Setup
from router.errors import InvalidBundle
from router.schema import STRICT, Finite, loads, read
from router.whole_files import written_whole

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
FAMILIARITY = "familiarity.json"  # optional: older bundles have none
CONFIDENCE = "confidence.json"  # optional
SHORTEST_PIN = 12  # hexadecimal digits that a pinned digest must have
Edges = Annotated[tuple[Finite, ...], Field(strict=False, min_length=4, max_length=4)]  # JSON has no tuples


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle serves, and what it was made from. ``files`` maps each file's path in the bundle to its sha256.

    setup       the models and the task
    statistic   the statistic whose quintiles are the levels
    edges       the four edges between levels, easiest first, in units of ``statistic``
    features    what the difficulty model reads: a name in ``solving.features.FEATURES``
    provenance  git revision, seeds, date: for people to read
    """

    __pydantic_config__ = STRICT

    format_version: int
    setup: Setup
    statistic: Annotated[str, Field(pattern="^(pass_rate|mean_score)$")]
    edges: Edges
    files: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    libraries: Mapping[str, str]
    features: str = "text"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(easier > harder for easier, harder in pairwise(self.edges)):
            raise ValueError(f"edges {', '.join(map(str, self.edges))} must fall strictly, easiest level first")

    @property
    def name(self) -> str:
        return self.setup.name


def read_manifest(folder: Path, digest: str | None = None) -> tuple[Manifest, str]:
    """Return the manifest and its sha256, after checking every file that it lists. Raises InvalidBundle."""
    path = folder / MANIFEST
    if not _is_file(path):
        raise InvalidBundle(
            f"{folder} is no bundle: it has no {MANIFEST} (written last, so an interrupted build has none). "
            "Build one with `router train` and `router tune`, or name another folder"
        )
    raw = _bytes(path)
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and len(digest) < SHORTEST_PIN:
        raise InvalidBundle(f"the pinned digest {digest!r} is too short; give at least its first {SHORTEST_PIN} digits")
    if digest and not found.startswith(digest.lower()):
        raise InvalidBundle(f"{path} has digest {found}, but {digest} is pinned; unpin it or restore the pinned bundle")
    try:
        document = loads(raw)
    except ValueError as error:
        raise InvalidBundle(f"{path} is not JSON: {error}") from error
    given = document.get("format_version") if isinstance(document, dict) else None
    if given != FORMAT_VERSION:
        raise InvalidBundle(
            f"{path} has format version {given!r}, this router reads {FORMAT_VERSION}; convert it with `router convert`"
        )
    try:
        manifest: Manifest = read(Manifest, document)
    except ValueError as error:
        raise InvalidBundle(f"{path}: {error}") from error
    weights = (f"{adapter}/adapter_model.safetensors" for adapter in manifest.setup.adapters)
    for name in ("difficulty.joblib", "policy.json", *weights):
        if name not in manifest.files:
            raise InvalidBundle(f"{path} lists no {name}: the bundle is partial; run `router train` and `router tune`")
    for name, expected in manifest.files.items():
        file = folder / name
        if not _is_file(file) or not _is_inside(file, folder):
            raise InvalidBundle(
                f"{folder} lacks {_shown(name)}, which its manifest lists; restore it or rebuild the bundle"
            )
        if sha256(file) != expected:
            raise _altered(file)
    return manifest, found


def checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Return a file's content, after checking its digest on the bytes read, so that no file is swapped in between."""
    content = _bytes(folder / name)
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise _altered(folder / name)
    return content


def _shown(name: str) -> str:
    return (name if name.isprintable() else ascii(name))[:200]


def _is_file(path: Path) -> bool:
    """Whether the path is a file; False also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_inside(file: Path, folder: Path) -> bool:
    """Whether the file lies in the folder after all links are followed."""
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself is a RuntimeError
        return False


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidBundle(f"can't read {file}: {error.strerror}") from error


def _altered(file: Path) -> InvalidBundle:
    return InvalidBundle(f"{file} does not match its digest in the manifest; restore it or rebuild the bundle")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically, as the last file: its existence means that the others are complete."""
    with written_whole(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(asdict(manifest), indent=2) + "\n")


def digests(folder: Path, adapters: Sequence[str] = ()) -> dict[str, str]:
    """Return the sha256 of every file that a bundle serves: difficulty, familiarity, policy, confidence, adapters."""
    names = ["difficulty.joblib", FAMILIARITY, "policy.json", CONFIDENCE, *(f"{adapter}/*" for adapter in adapters)]
    files = sorted(file for name in names for file in folder.glob(name) if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InvalidBundle(f"can't read {file}: {error.strerror}") from error


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a pickled difficulty model depends on."""
    return {library: version_of(library) for library in ("scikit-learn", "numpy", "joblib")}


def version_of(library: str) -> str:
    try:
        return version(library)
    except (PackageNotFoundError, ValueError):  # ValueError: not a valid name
        return "not installed"
