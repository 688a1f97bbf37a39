"""Values as JSON: what may pass between the process of a solution and the process of its test.

Only plain data passes: it is built anew from builtin types on the other side, so no method of a solution's own classes
(``__eq__``!) ever runs beside the test. Anything else passes as a number that stands for the object.

    null, true, "text", 3, 0.5      themselves          ["i", "0x..."]         a large int
    ["l", ...] ["t", ...]           list, tuple         ["s", ...] ["f", ...]  set, frozenset
    ["d", key, value, ...]          dict; "C" Counter, "O" OrderedDict         ["q", most, ...]  deque
    ["b", hex] ["B", hex]           bytes, bytearray    ["c", real, imaginary] complex
    ["D", text] ["F", over, under]  Decimal, Fraction   ["T", kind, text]      date, time, datetime, timedelta
    ["r", start, stop, step]        range               ["a", list]            numpy array
    ["n", module, name]             a known class       ["h", number]          an object that stays where it is
    ["k", number]                   a function of the test
"""

import builtins
import collections
import json
import re
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

DEEPEST = 80
MOST = 300_000  # values within one
_LARGE = 1 << 63
_CLASSES = {
    "builtins": {name for name, value in vars(builtins).items() if isinstance(value, type)},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "datetime": {"date", "time", "datetime", "timedelta"},
}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Unsendable(ValueError):
    """A value that is too deep or too large to pass."""


class Encoder:
    """Encodes values. ``keep`` returns a place holder for what is not plain data."""

    def __init__(self, keep: Callable[[Any], Any]):
        self._keep = keep
        self._count = 0

    def encode(self, value: Any) -> Any:
        self._count = 0
        return self._encode(value, 0)

    def _encode(self, value: Any, depth: int) -> Any:
        self._count += 1
        if depth > DEEPEST or self._count > MOST:
            raise Unsendable("the value is too deep or too large")
        if value is None or value is True or value is False:
            return value
        for kind in type(value).__mro__:
            if plain := _PLAIN.get(kind):
                return plain(value, lambda items: [self._encode(item, depth + 1) for item in items])
            if named := _named(kind):
                return named(value)
        if type(value).__module__ == "numpy":
            return self._numpy(value, depth)
        if isinstance(value, type) and value.__qualname__ in _CLASSES.get(value.__module__, ()):
            return ["n", value.__module__, value.__qualname__]
        return self._keep(value)

    def _numpy(self, value: Any, depth: int) -> Any:
        if getattr(value, "ndim", None) == 0:
            return self._encode(value.item(), depth + 1)
        return ["a", self._encode(value.tolist(), depth + 1)] if hasattr(value, "tolist") else self._keep(value)


def _integer(value: Any, _: Any) -> Any:
    value = int.__index__(value)
    return value if -_LARGE < value < _LARGE else ["i", hex(value)]


def _pairs(tag: str) -> Callable[[Any, Callable[[Iterable[Any]], list[Any]]], Any]:
    return lambda value, each: [tag, *each(part for pair in dict.items(value) for part in pair)]


def _items(tag: str) -> Callable[[Any, Callable[[Iterable[Any]], list[Any]]], Any]:
    return lambda value, each: [tag, *each(value)]


_PLAIN: dict[type, Callable[[Any, Callable[[Iterable[Any]], list[Any]]], Any]] = {
    int: _integer,
    float: lambda value, _: float.__float__(value),
    str: lambda value, _: str.__str__(value),
    bytes: lambda value, _: ["b", bytes(value).hex()],
    bytearray: lambda value, _: ["B", bytes(value).hex()],
    complex: lambda value, _: ["c", value.real, value.imag],
    range: lambda value, each: ["r", *each((value.start, value.stop, value.step))],
    list: _items("l"),
    tuple: _items("t"),
    set: _items("s"),
    frozenset: _items("f"),
    collections.Counter: _pairs("C"),
    collections.OrderedDict: _pairs("O"),
    dict: _pairs("d"),
    collections.deque: lambda value, each: ["q", value.maxlen, *each(value)],
}


def _named(kind: type) -> Callable[[Any], Any] | None:
    """Return the encoder of a class of a module that may not be imported; None for other classes."""
    if kind.__module__ not in ("decimal", "fractions", "datetime") or kind is not getattr(
        sys.modules.get(kind.__module__), kind.__name__, None
    ):
        return None
    encoders: dict[str, Callable[[Any], Any]] = {
        "Decimal": lambda value: ["D", str(value)],
        "Fraction": lambda value: ["F", hex(value.numerator), hex(value.denominator)],
        "date": lambda value: ["T", "date", value.isoformat()],
        "time": lambda value: ["T", "time", value.isoformat()],
        "datetime": lambda value: ["T", "datetime", value.isoformat()],
        "timedelta": lambda value: ["T", "timedelta", f"{value.days} {value.seconds} {value.microseconds}"],
    }
    return encoders.get(kind.__name__)


def decode(data: Any, place: Callable[[str, Any], Any]) -> Any:
    """Decode a value. ``place(tag, number)`` returns what a place holder stands for. Raises ValueError and the like."""
    if not isinstance(data, list):
        return data
    tag, *rest = data
    if found := _DECODE.get(tag):
        return found([decode(item, place) for item in rest])
    if tag in ("h", "k"):
        return place(tag, rest[0])
    raise ValueError(f"no value: {tag!r}")


def _mapping(kind: Callable[[Iterable[Any]], Any]) -> Callable[[list[Any]], Any]:
    return lambda parts: kind(list(zip(parts[::2], parts[1::2], strict=True)))


def _counter(pairs: Iterable[Any]) -> Any:
    return collections.Counter(dict(pairs))


def _datetime(parts: list[Any]) -> Any:
    import datetime

    kind, text = parts
    if kind == "timedelta":
        days, seconds, microseconds = map(int, text.split())
        return datetime.timedelta(days, seconds, microseconds)
    if kind not in ("date", "time", "datetime"):
        raise ValueError(f"no value: {kind!r}")
    return getattr(datetime, kind).fromisoformat(text)


def _class(parts: list[Any]) -> Any:
    module, name = parts
    if name not in _CLASSES.get(module, ()):
        raise ValueError(f"no known class: {name!r}")
    return getattr(import_module(module), name)


def _array(parts: list[Any]) -> Any:
    try:
        import numpy  # where the sandbox has it
    except ImportError:
        return parts[0]
    return numpy.array(parts[0])


def _decimal(parts: list[Any]) -> Any:
    import decimal

    return decimal.Decimal(parts[0])


def _fraction(parts: list[Any]) -> Any:
    import fractions

    return fractions.Fraction(int(parts[0], 16), int(parts[1], 16))


_DECODE: dict[str, Callable[[list[Any]], Any]] = {
    "i": lambda parts: int(parts[0], 16),
    "l": list,
    "t": tuple,
    "s": set,
    "f": frozenset,
    "d": _mapping(dict),
    "C": _mapping(_counter),
    "O": _mapping(collections.OrderedDict),
    "q": lambda parts: collections.deque(parts[1:], parts[0]),
    "b": lambda parts: bytes.fromhex(parts[0]),
    "B": lambda parts: bytearray.fromhex(parts[0]),
    "c": lambda parts: complex(*parts),
    "r": lambda parts: range(*parts),
    "D": _decimal,
    "F": _fraction,
    "T": _datetime,
    "n": _class,
    "a": _array,
}


def canonical(data: Any) -> Any:
    """Return one spelling for all encoded values that are equal by ``==``: 2, 2.0 and True, dicts in any order."""
    if not isinstance(data, list):
        return _canonical_scalar(data)
    tag, *rest = data
    if tag in ("h", "k"):
        return ["h"]
    if tag in ("i", "b", "B", "D", "n", "T"):
        return ["b" if tag == "B" else tag, *rest]
    parts = [canonical(item) for item in rest]
    if tag in ("s", "f"):
        parts = sorted(parts, key=json.dumps)
    if tag in ("d", "C", "O"):
        parts = sorted(zip(parts[::2], parts[1::2], strict=True), key=json.dumps)
    return [{"f": "s", "C": "d", "O": "d"}.get(tag, tag), *parts]


def _canonical_scalar(data: Any) -> Any:
    if isinstance(data, bool):
        return int(data)
    if isinstance(data, float):
        return _integer(int(data), None) if data.is_integer() else repr(data)
    if isinstance(data, str):
        return "'" + _ADDRESS.sub(" at", data)
    return data
