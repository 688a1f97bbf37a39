"""Where the bundle lies that commands use when none is named."""

from pathlib import Path

NAME = "smollm2-135m"
_PACKAGE = Path(__file__).parent.parent


def shipped_bundle() -> Path:
    """``models/smollm2-135m`` in the current folder, else the checkout's, else the copy that the wheel brought."""
    relative = Path("models") / NAME
    checkout = _PACKAGE.parent / relative
    return next((folder for folder in (relative, checkout) if folder.is_dir()), _PACKAGE / "_bundles" / NAME)
