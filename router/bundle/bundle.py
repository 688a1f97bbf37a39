"""A bundle: a difficulty model, a policy, adapters, and the manifest that lists them. Immutable once loaded."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.backends.specs import Setup
from router.bundle.manifest import CONFIDENCE, FAMILIARITY, Manifest, checked, read_manifest, version_of
from router.errors import InvalidBundle
from router.policy.confidence import Confidence
from router.policy.table import Policy
from router.schema import loads, read

if TYPE_CHECKING:
    from difficulty import DifficultyModel, Familiarity


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. ``digest`` is the sha256 of its manifest; ``id`` is the name and the first 12 digits of it.

    familiarity  recognizes prompts that the difficulty model knows nothing about; None: the bundle has no such model
    confidence  gives the probability that an answer is right; None: the bundle has no such model
    """

    folder: Path
    digest: str
    manifest: Manifest
    policy: Policy
    difficulty: "DifficultyModel"
    familiarity: "Familiarity | None" = None
    confidence: Confidence | None = None

    @property
    def setup(self) -> Setup:
        return self.manifest.setup

    @property
    def id(self) -> str:
        return f"{self.manifest.name}@{self.digest[:12]}"

    @property
    def levels_by(self) -> str:
        """The first 12 digits of the difficulty model's sha256; where they agree, levels mean the same."""
        return self.manifest.files["difficulty.joblib"][:12]

    @property
    def served_by(self) -> tuple[object, ...]:
        """A value that is equal for bundles that the same engines can serve: same models, same adapters."""
        own = ("difficulty.joblib", FAMILIARITY, "policy.json", CONFIDENCE)
        adapters = frozenset((name, digest) for name, digest in self.manifest.files.items() if name not in own)
        setup = self.manifest.setup
        return setup.reference, tuple(sorted(setup.models.items())), setup.verifier, adapters


def load_bundle(folder: Path, digest: str | None = None) -> Bundle:
    """Check a bundle, then open it. ``digest`` pins the manifest's sha256, and so every file.

    Raises InvalidBundle. Nothing is unpickled before its digest was checked, since a joblib file can run code.
    """
    manifest, found, policy = read_policy(folder, digest)
    for library, built_with in manifest.libraries.items():
        if version_of(library) != built_with:
            warnings.warn(
                f"bundle {manifest.name} was built with {library} {built_with}, this is {version_of(library)}; "
                "rebuild it with `router train` if predictions look off",
                stacklevel=2,
            )
    import joblib

    from difficulty import DifficultyModel

    try:
        difficulty = joblib.load(BytesIO(checked(folder, "difficulty.joblib", manifest)))
    except Exception as error:  # a foreign pickle can raise any exception
        raise InvalidBundle(
            f"{folder}/difficulty.joblib does not load with these library versions ({error}); "
            "rebuild it with `router train` and `router tune`"
        ) from error
    if not isinstance(difficulty, DifficultyModel):
        raise InvalidBundle(
            f"{folder}/difficulty.joblib holds no difficulty model; run `router train`, then `router tune`"
        )
    confidence = _confidence(folder, manifest)
    return Bundle(folder, found, manifest, policy, difficulty, _familiarity(folder, manifest), confidence)


def _familiarity(folder: Path, manifest: Manifest) -> "Familiarity | None":
    from difficulty import Familiarity

    if FAMILIARITY not in manifest.files:
        return None
    try:
        familiarity: Familiarity = read(Familiarity, loads(checked(folder, FAMILIARITY, manifest)))
    except ValueError as error:
        raise InvalidBundle(f"{folder}/{FAMILIARITY}: {error}; write it again with `router train`") from error
    return familiarity


def _loaded(folder: Path, name: str, manifest: Manifest, loads: Callable[[bytes], Any]) -> Any:
    """Return what ``loads`` makes of a file. Its error says what is wrong, here it gets the file's path as well."""
    content = checked(folder, name, manifest)
    try:
        return loads(content)
    except InvalidBundle as error:
        raise InvalidBundle(f"{folder}/{name}: {error}") from error


def _confidence(folder: Path, manifest: Manifest) -> Confidence | None:
    if CONFIDENCE not in manifest.files:
        return None
    found: Confidence = _loaded(folder, CONFIDENCE, manifest, Confidence.loads)
    if unknown := sorted(set(found.tasks) - set(manifest.setup.tasks)):
        raise InvalidBundle(f"{folder}: {CONFIDENCE} has weights of the task {unknown[0]!r}, which the bundle lacks")
    return found


def read_policy(folder: Path, digest: str | None = None) -> tuple[Manifest, str, Policy]:
    """Return a bundle's manifest, digest and policy without running code from it. Raises InvalidBundle."""
    manifest, found = read_manifest(folder, digest)
    policy: Policy = _loaded(folder, "policy.json", manifest, Policy.loads)
    asked = {model for arm in policy.arms for model in arm.models if model}
    if unknown := sorted(asked - set(manifest.setup.models)):
        raise InvalidBundle(f"{folder}: the policy asks the model {unknown[0]!r}, which the manifest does not describe")
    if unknown := sorted(set(policy.tasks) - set(manifest.setup.tasks)):
        known = ", ".join(manifest.setup.tasks)
        raise InvalidBundle(f"{folder}/policy.json: tasks.{unknown[0]}: the bundle has no such task; it has {known}")
    return manifest, found, policy
