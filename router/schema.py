"""Checks JSON documents against dataclasses: types, ranges, no unknown and no missing keys. By pydantic."""

import json
from functools import cache
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

STRICT = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read(kind: Any, value: Any) -> Any:
    """``value``, from JSON, as a ``kind``: a dataclass whose ``__pydantic_config__`` is :data:`STRICT`, or a container.

    Raises ValueError naming the first wrong place and what is wrong there.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(value), strict=True)
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
