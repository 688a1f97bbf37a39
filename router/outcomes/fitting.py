"""Values made to fit their columns before they wait to be written: a row that a database refuses holds up others."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

NAME = 256  # characters of a caller's name
_REPLACEMENT = "\ufffd"  # Unicode's, for what can't be represented
_DIGITS = 16  # of the digest that ends a text cut short


def fitted(row: Mapping[str, Any], table: sql.Table) -> dict[str, Any]:
    """The row as both databases take it."""
    return {name: fit(value, table.c[name].type) for name, value in row.items()}


def fit(value: Any, kind: sql.types.TypeEngine[Any]) -> Any:
    """A value for a column of this type."""
    if isinstance(kind, sql.JSON):
        return _json(value)
    if isinstance(kind, sql.BigInteger | sql.Integer) and isinstance(value, int):
        bits = 63 if isinstance(kind, sql.BigInteger) else 31
        return max(-(2**bits), min(2**bits - 1, value))
    return text(value, getattr(kind, "length", None)) if isinstance(value, str) else value


def text(value: str, length: int | None = None) -> str:
    """Without what PostgreSQL refuses, NUL and lone surrogates, and no longer than ``length`` characters.

    One that is cut short ends with a digest of the whole, so that names which differ stay different.
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
