"""Writes the result of tuning, and the manifest that makes a folder a bundle."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.backends.specs import Setup
from router.bundle.manifest import (
    CONFIDENCE,
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    digests,
    library_versions,
    write_manifest,
)
from router.errors import InvalidBundle, InvalidFile
from router.policy.table import Policy
from router.training.difficulty import dumps, read_training
from router.tuning.tune import ORACLE_POLICY, TUNING, Tuning


def former_policy(folder: Path) -> Policy | None:
    """Return the policy of an earlier tuning; None where there is none, or none that this router reads."""
    try:
        return Policy.loads((folder / "policy.json").read_bytes())
    except (OSError, InvalidBundle):
        return None


def save_tuning(tuning: Tuning, folder: Path) -> None:
    """Write the policies and the report. The folder is not a bundle until :func:`finish_bundle` is called."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "policy.json").write_text(tuning.policy.dumps())
    (folder / ORACLE_POLICY).write_text(tuning.oracle.dumps())
    (folder / TUNING).write_text(dumps(tuning.report))
    if tuning.confidence is None:
        (folder / CONFIDENCE).unlink(missing_ok=True)
    else:
        (folder / CONFIDENCE).write_text(tuning.confidence.dumps())


def finish_bundle(folder: Path, setup: Setup, provenance: Mapping[str, Any] | None = None) -> Manifest:
    """Write the manifest of a trained and tuned folder, which makes it a bundle. Raises InvalidFile if files are
    missing.

    provenance  entries added to git revision, seed and date, for people to read
    """
    training = read_training(folder)
    for part in ("difficulty.joblib", "policy.json"):
        if not (folder / part).is_file():
            raise InvalidFile(f"{folder} has no {part}; run `router train`, then `router tune` on it")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        setup=setup,
        statistic=training.statistic,
        edges=training.edges,
        features=training.features,
        files=digests(folder, setup.adapters),
        libraries=library_versions(),
        provenance={
            "git_revision": _git_revision(folder),
            "date": datetime.now(UTC).date().isoformat(),
            "seed": training.seed,
            "prompts": len(training.prompts),
            "difficulty_model": training.chosen,
            **(provenance or {}),
        },
    )
    write_manifest(folder, manifest)
    return manifest


def _git_revision(folder: Path) -> str:
    """Return the git revision of the checkout that the folder lies in; "unknown" outside one."""
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return run.stdout.strip() if run.returncode == 0 else "unknown"
