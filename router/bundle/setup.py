"""``models.json``: describes the models of a bundle, finished or in the making, in its folder."""

import json
from dataclasses import asdict
from pathlib import Path

from router.backends.specs import Setup
from router.errors import InvalidFile
from router.schema import loads, read
from router.whole_files import written_whole

MODELS = "models.json"


def read_setup(folder: Path) -> Setup:
    """Read ``models.json`` of a bundle folder. Raises InvalidFile, naming what is wrong."""
    path = folder / MODELS
    try:
        setup: Setup = read(Setup, loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        old = " `router convert` makes one of the engine.json there." if (folder / "engine.json").is_file() else ""
        raise InvalidFile(
            f"{folder} has no {MODELS}, which describes the models; write one for yours by `router init {folder}`.{old}"
        ) from error
    except (ValueError, OSError) as error:
        raise InvalidFile(f"{path}: {error}") from error
    return setup


def write_setup(setup: Setup, folder: Path) -> None:
    """Write ``models.json`` atomically: the file is the old one or the complete new one."""
    with written_whole(folder / MODELS) as partial:
        partial.write_text(json.dumps(setup_json(setup), indent=2) + "\n")


def setup_json(setup: Setup) -> dict[str, object]:
    """Return the setup as :func:`router.schema.read` reads it back."""
    return asdict(setup)
