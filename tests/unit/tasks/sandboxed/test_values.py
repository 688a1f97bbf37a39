"""What passes between a solution's process and its test's."""

import collections
import datetime
import decimal
import enum
import fractions
import json
import math
from typing import Any

import numpy as np
import pytest

from router.tasks.inside.values import Encoder, Unsendable, canonical, decode


def kept(value: Any) -> Any:
    return ["h", 0]


def passed(value: Any) -> Any:
    return decode(json.loads(json.dumps(Encoder(kept).encode(value))), lambda tag, number: (tag, number))


class Always:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Text(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Number(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(1 << 63),
        1 << 5000,
        0.1,
        math.inf,
        -0.0,
        "text \ud800 \x00 ü",
        b"\x00\xff",
        bytearray(b"a"),
        2 + 3j,
        range(1, 10, 3),
        [1, [2, (3, {"a": {4, 5}})]],
        (),
        {},
        set(),
        frozenset({1, (2, 3)}),
        {1: 2, (1, 2): [3], None: None},
        collections.Counter("hello"),
        collections.OrderedDict(b=1, a=2),
        collections.deque([1, 2], maxlen=3),
        decimal.Decimal("1.10"),
        fractions.Fraction(1 << 70, 3),
        datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC),
        datetime.time(1, 2),
        datetime.timedelta(-1, 2, 3),
        int,
        collections.Counter,
        ["l", "h", 3],
        ["h", 3],
    ],
)
def test_plain_data_passes_as_it_is(value: Any) -> None:
    got = passed(value)
    assert type(got) is type(value)
    assert got == value


def test_numbers_that_are_none_and_arrays() -> None:
    assert math.isnan(passed(math.nan))
    assert passed(np.int64(3)) == 3
    assert type(passed(np.float64(0.5))) is float
    assert passed(np.arange(4).reshape(2, 2)).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        (Number(3), 3),
        (Colour.RED, 1),
        (Point(1, 2), (1, 2)),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ],
)
def test_of_a_class_of_its_own_only_the_plain_value_passes(value: Any, plain: Any) -> None:
    assert type(passed(value)) is type(plain)
    assert passed(value) == plain
    assert passed(value) != "something else"


@pytest.mark.parametrize("value", [Always(), object(), len, lambda: 1, iter([]), Always, json])
def test_other_objects_stay(value: Any) -> None:
    assert passed([value]) == [("h", 0)]


def test_too_deep_and_too_large() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in (endless, list(range(400_000))):
        with pytest.raises(Unsendable):
            passed(value)


@pytest.mark.parametrize(
    "data",
    [
        ["n", "unittest.mock", "ANY"],  # equals everything
        ["n", "os", "system"],
        ["n", "builtins", "eval"],
        ["x"],
        [],
        ["d", 1],
        ["T", "__class__", "a"],
        ["i", "zz"],
        [{}],
    ],
)
def test_what_is_no_value(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(data, lambda tag, number: None)


def spelled(value: Any) -> str:
    return json.dumps(canonical(json.loads(json.dumps(Encoder(kept).encode(value)))))


@pytest.mark.parametrize(
    "equal",
    [
        [2, 2.0],
        [True, 1, 1.0],
        [1 << 70, float(1 << 70)],
        [{"a": 1, "b": 2}, {"b": 2.0, "a": True}, collections.OrderedDict(b=2, a=1)],
        [{1, 2, "a"}, {"a", 2, 1}, frozenset({1, 2, "a"})],
        [b"a", bytearray(b"a")],
        [math.nan, math.nan],
    ],
)
def test_equal_values_are_spelled_alike(equal: list[Any]) -> None:
    assert len({spelled(each) for each in equal}) == 1


def test_different_values_are_spelled_differently() -> None:
    values: list[object] = [
        None,
        0,
        1,
        "1",
        "0x1",
        "",
        [],
        (),
        {},
        set(),
        [1],
        (1,),
        {1},
        {1: 1},
        [[1]],
        b"",
        b"1",
        0.1,
        "0.1",
        1e300,
        1 << 64,
    ]
    values += [
        math.inf,
        "inf",
        "None",
        [None],
        decimal.Decimal("0.1"),
        fractions.Fraction(1, 10),
        int,
        object(),
        "h",
        ["h"],
    ]
    values += [collections.deque(), range(0), 1j, datetime.date(2026, 1, 1), "2026-01-01"]
    assert len({spelled(each) for each in values}) == len(values)


def test_addresses_make_no_difference() -> None:
    assert spelled("<object at 0x7f00>") == spelled("<object at 0x7f01>")
