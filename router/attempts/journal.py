"""The journal of an unfinished collection: one finished unit per line, beside the attempts file."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa

from router.attempts.schema import SCHEMA, to_frame
from router.errors import InvalidFile

_NAMED = 4  # settings that an error names
Key = tuple[str, str, int]  # identifies a unit: prompt_id, arm and first sample, as in the attempts file


class Journal:
    """Finished units, one per line, each synced to disk. A kill can leave an incomplete line; that unit doesn't count.

    Several processes may append at the same time: the workers of one run, and on a cluster one that was given up too
    early. So a unit that is there twice counts once, and a unit whose line was joined to an incomplete one is run
    again.
    """

    def __init__(self, stream: BinaryIO, path: Path, settings: dict[str, Any]):
        self.stream = stream
        head = next(self._lines(), b"")
        if head and (others := different(json.loads(head)["settings"], settings)):
            raise InvalidFile(
                f"{path} belongs to an unfinished run with other settings ({named(others)}); "
                "run that one to its end, write to another --out, or delete the journal"
            )
        self.keys: set[Key] = {_key(unit) for unit in self._units()}
        stream.truncate(sum(map(len, self._lines())))
        if not head:
            append(stream, {"settings": settings})

    def frame(self, *, without: set[Key]) -> pd.DataFrame:
        """Return the rows of all units except ``without``, with the columns of an attempts file."""
        rows, tables = self._rows(set(without)), [SCHEMA.empty_table()]
        while part := list(islice(rows, 10_000)):
            tables.append(pa.Table.from_pylist(part, schema=SCHEMA))
        return to_frame(pa.concat_tables(tables))

    def _rows(self, seen: set[Key]) -> Iterator[dict[str, Any]]:
        for unit in self._units():
            if _key(unit) not in seen:
                seen.add(_key(unit))
                yield from unit["rows"]

    def _units(self) -> Iterator[dict[str, Any]]:
        for line in islice(self._lines(), 1, None):
            try:
                unit = json.loads(line)
            except ValueError:  # an incomplete line, or one joined to it
                continue
            yield unit

    def _lines(self) -> Iterator[bytes]:
        """Yield the complete lines; the first holds the settings."""
        self.stream.seek(0)
        return (line for line in self.stream if line.endswith(b"\n"))


def append(journal: BinaryIO, line: dict[str, Any]) -> None:
    journal.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    journal.flush()
    os.fsync(journal.fileno())


def different(before: Any, now: Any, name: str = "") -> list[str]:
    """Return the dotted names of the JSON values that differ, in order, like ``models.small.temperature``."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [name]
    keys = dict.fromkeys([*before, *now])
    return [each for key in keys for each in different(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))]


def named(settings: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(settings) - _NAMED} more" if len(settings) > _NAMED else ""
    return ", ".join(settings[:_NAMED]) + more


@contextmanager
def open_journal(path: Path, settings: dict[str, Any]) -> Iterator[Journal]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        yield Journal(stream, path, settings)


def _key(unit: dict[str, Any]) -> Key:
    return unit["prompt_id"], unit["arm"], unit["rows"][0]["sample"]
