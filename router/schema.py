"""Checks JSON documents against dataclasses with pydantic: types, ranges, no unknown and no missing keys."""

import json
from functools import cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

LEAST_WORTH = 1e-9  # least worth of a model's solution, in solutions of another
STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

_LARGEST_COUNT, _LARGEST_AMOUNT = 10**15, 1e30  # far above real values; sums of them stay finite
Positive = Annotated[int, Field(ge=1, le=_LARGEST_COUNT)]
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Probability = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=_LARGEST_AMOUNT, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def loads(text: str | bytes) -> Any:
    """Parse strict JSON, without Python's extensions (NaN). Raises ValueError, also if it is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def read(kind: Any, value: Any) -> Any:
    """Convert a JSON value to a ``kind``: a dataclass whose ``__pydantic_config__`` is :data:`STRICT`, or a container.

    Raises ValueError, naming the first wrong place and what is wrong there.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).endswith("]"))
        found = "" if first["type"] in ("missing", "unexpected_keyword_argument") else f", found {first['input']!r:.60}"
        raise ValueError(f"{place}: {_plain(first)}{found}") from None


def _plain(error: Any) -> str:
    match error["type"]:
        case "missing" | "missing_argument":
            return "is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "is no known key"
        case _:
            return str(error["msg"]).replace("Input should be", "should be")
