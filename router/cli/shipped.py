"""Finds the bundle that commands use when none is named."""

from pathlib import Path

NAME = "smollm2-135m"
_PACKAGE = Path(__file__).parent.parent


def shipped_bundle() -> Path:
    """Return ``models/smollm2-135m`` in the current folder, else in the checkout, else in the installed wheel."""
    relative = Path("models") / NAME
    checkout = _PACKAGE.parent / relative
    return next((folder for folder in (relative, checkout) if folder.is_dir()), _PACKAGE / "_bundles" / NAME)
