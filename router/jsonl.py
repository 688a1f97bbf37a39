"""JSON Lines: the format of all input files that people write by hand or by script."""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.errors import InvalidFile


def read_jsonl(path: Path, advice: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (line number from 1, "file, line n" for messages, object) for each line that is not blank.

    advice  what to do, appended to every error message

    Raises InvalidFile, naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise InvalidFile(f"{path} does not exist; {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path} can't be read as text ({error}); {advice}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidFile(f"{where}: not JSON ({error}); {advice}") from error
            if not isinstance(row, dict):
                raise InvalidFile(f"{where}: expected an object; {advice}")
            yield number, where, row


def as_text(value: Any) -> Any:
    """Return a finite number as its decimal text, since people write 72 for "72"; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return f"{Decimal(repr(value)):f}"
