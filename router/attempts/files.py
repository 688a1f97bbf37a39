"""Folders of shards: files of one kind that belong together, in the order of their names."""

from collections.abc import Iterable
from pathlib import Path

from router.errors import InvalidFile, InvalidRequest

JOURNAL = ".journal.jsonl"  # suffix of the journal of an unfinished collection


def expand(paths: Iterable[Path]) -> list[Path]:
    """Replace each folder by the .parquet and .jsonl files in it. Raises InvalidFile if a folder has none."""
    return [file for path in paths for file in (_shards(path) if path.is_dir() else [path])]


def check_out(path: Path) -> None:
    """Raise InvalidRequest if ``path`` is a folder or does not end in .parquet: attempts are read by that suffix."""
    if path.suffix != ".parquet":
        raise InvalidRequest(
            "out",
            f"--out {path}: attempts are written as Parquet, and read as such by their name; end it in .parquet",
            reason="UNSPECIFIED",
        )
    if path.is_dir():
        raise InvalidRequest("out", f"--out {path} is a folder; name a file in it", reason="UNSPECIFIED")


def _shards(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".parquet", ".jsonl"))
    unfinished = [file.name for file in files if file.name.endswith(JOURNAL)]
    if unfinished:
        raise InvalidFile(
            f"{folder} is being collected, or was left unfinished: {unfinished[0]}"
            + f" and {len(unfinished) - 1} more" * (len(unfinished) > 1)
            + "; run `router collect` to its end, or name the files that are to be read"
        )
    if not files:
        raise InvalidFile(f"{folder} holds no .parquet or .jsonl file")
    return files
