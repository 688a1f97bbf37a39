"""Makes values fit their columns before they are queued, since a row that the database refuses delays others."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

NAME = 256  # characters of a caller's name
_REPLACEMENT = "\ufffd"  # Unicode's replacement character, for what can't be represented
_DIGITS = 16  # digits of the digest at the end of a text that was cut short


def fitted(row: Mapping[str, Any], table: sql.Table) -> dict[str, Any]:
    """Return the row in a form that both databases accept."""
    return {name: fit(value, table.c[name].type) for name, value in row.items()}


def fit(value: Any, kind: sql.types.TypeEngine[Any]) -> Any:
    """Return the value in a form that a column of this type accepts."""
    if isinstance(kind, sql.JSON):
        return _json(value)
    if isinstance(kind, sql.BigInteger | sql.Integer) and isinstance(value, int):
        bits = 63 if isinstance(kind, sql.BigInteger) else 31
        return max(-(2**bits), min(2**bits - 1, value))
    return text(value, getattr(kind, "length", None)) if isinstance(value, str) else value


def text(value: str, length: int | None = None) -> str:
    """Return a text without NUL and lone surrogates, which PostgreSQL refuses, and at most ``length`` characters long.

    A text that is cut short ends with a digest of the whole, so that different names stay different.
    """
    if value.isascii() and "\0" not in value:
        clean = value
    else:
        clean = value.replace("\0", _REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if length is None or len(clean) <= length:
        return clean
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{clean[: length - _DIGITS - 1]}…{digest}"


def _json(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {text(str(name)): _json(each) for name, each in value.items()}
    return [_json(each) for each in value] if isinstance(value, list | tuple) else value
