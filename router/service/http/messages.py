"""Reads JSON as a protocol buffer. Errors name the field as the caller wrote it, what is wrong and what is allowed.

protobuf's own reader is only given what it can read: its errors speak of protobuf and Python, and it takes some things
that callers surely did not mean, such as ``true`` for 1.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.struct_pb2 import Struct

from router.errors import InvalidRequest
from router.policy.objectives import parse_objective
from router.service.objectives import objective_message
from router.v1 import router_pb2 as pb

_Kind = Any  # a descriptor of messages or enums; protobuf's implementations each have classes of their own
_UINT32 = 2**32 - 1
_LONGEST = 100  # characters of what a caller wrote that an error quotes
_PLAIN: Mapping[int, tuple[type, str]] = {
    FieldDescriptor.TYPE_STRING: (str, "text"),
    FieldDescriptor.TYPE_BOOL: (bool, "true or false"),
}
_UNREADABLE = (ParseError, ArithmeticError, AttributeError, TypeError, ValueError, RecursionError)


def parse(kind: type[ProtoMessage], content: Any, where: str = "", options: Mapping[str, Any] | None = None) -> Any:
    """Return a message of ``kind`` read from JSON. Raises InvalidRequest.

    where    what the caller calls the content; empty: it is the whole body
    options  fields of SolveOptions, which the caller wrote beside the others
    """
    plain = _message(kind.DESCRIPTOR, content, where)
    if options is not None:
        plain["options"] = _message(pb.SolveOptions.DESCRIPTOR, options, where)
    try:
        return ParseDict(plain, kind())
    except _UNREADABLE as error:
        raise malformed(where, f"{where or 'the body'} can't be read; see router.proto for its fields") from error


def malformed(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(field, message, reason="MESSAGE_MALFORMED")


def quoted(value: Any) -> str:
    """Return what a caller wrote, short enough for an error."""
    if value and isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _message(kind: _Kind, content: Any, where: str) -> dict[str, Any]:
    """Return the content by the names of the message's fields, each value as protobuf reads it."""
    if not isinstance(content, dict):
        raise malformed(where, f"{where} must be an object" if where else "the body must be a JSON object")
    fields = {name: field for field in kind.fields for name in (field.name, field.json_name)}
    found: dict[str, Any] = {}
    chosen: dict[str, str] = {}  # the field that was given of each oneof
    for name, value in content.items():
        own = f"{where}.{name[:_LONGEST]}" if where else name[:_LONGEST]
        if name not in fields:
            known = ", ".join(field.name for field in kind.fields)
            raise malformed(own, f"{where or 'the body'} has no field {quoted(name)}; it has {known}")
        field = fields[name]
        if value is None:  # as good as absent
            continue
        of = field.containing_oneof.name if field.containing_oneof else field.name
        if of in chosen:
            raise malformed(own, f"{where or 'the body'} has both {chosen[of]} and {name}; give one of them")
        chosen[of] = name
        found[field.name] = _value(field, value, own)
    return found


def _value(field: FieldDescriptor, value: Any, name: str) -> Any:
    if not field.is_repeated:
        return _one(field, value, name)
    if not isinstance(value, list):
        raise malformed(name, f"{name} must be a list, found {quoted(value)}")
    return [_one(field, each, f"{name}[{index}]") for index, each in enumerate(value)]


def _one(field: FieldDescriptor, value: Any, name: str) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _object(field.message_type, value, name)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum(field.enum_type, value, name)
    if field.type not in _PLAIN:
        return _numeric(field, value, name)
    kind, what = _PLAIN[field.type]
    if not isinstance(value, kind):
        raise malformed(name, f"{name} must be {what}, found {quoted(value)}")
    if isinstance(value, str):
        _encoded(value, name)
    return value


def _object(kind: _Kind, value: Any, name: str) -> Any:
    if kind == pb.Objective.DESCRIPTOR and isinstance(value, str):
        return _objective(value, name)
    if not isinstance(value, dict):
        raise malformed(name, f"{name} must be an object, found {quoted(value)}")
    return _struct(value, name) if kind == Struct.DESCRIPTOR else _message(kind, value, name)


def _numeric(field: FieldDescriptor, value: Any, name: str) -> Any:
    number = _number(value)
    if field.type == FieldDescriptor.TYPE_UINT32:
        if number is None or not number.is_integer() or not 0 <= number <= _UINT32:
            raise malformed(name, f"{name} must be a whole number from 0 to {_UINT32}, found {quoted(value)}")
        return int(number)
    if number is None:
        raise malformed(name, f"{name} must be a number, found {quoted(value)}")
    return number if math.isfinite(number) else str(number).replace("inf", "Infinity")


def _number(value: Any) -> float | None:
    """Return the number; None where it is none. JSON's form of protocol buffers has numbers as texts, too."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _enum(kind: _Kind, value: Any, name: str) -> int:
    """Read a value's name, or its last word in small letters: "refuse" for ON_INSUFFICIENT_REFUSE."""
    prefix = kind.values[0].name.removesuffix("UNSPECIFIED")
    words: dict[str, int] = {each.name.removeprefix(prefix).lower(): each.number for each in kind.values}
    known: dict[str, int] = words | {each.name: each.number for each in kind.values}
    if isinstance(value, str) and value in known:
        return known[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in words.values():
        return value
    allowed = " or ".join(word for word in words if word != "unspecified")
    raise malformed(name, f"{name} must be {allowed}, found {quoted(value)}")


def _objective(text: str, name: str) -> Any:
    """Read an objective as the command line writes it, such as ``budget=8``."""
    try:
        objective = parse_objective(text)
        if objective.kind in pb.Objective.DESCRIPTOR.fields_by_name:
            return MessageToDict(objective_message(objective), preserving_proto_field_name=True)
    except InvalidRequest:
        pass
    kinds = ", ".join(f"{field.name}=…" for field in pb.Objective.DESCRIPTOR.oneofs_by_name["kind"].fields)
    raise malformed(name, f"{name} must be an object or one of {kinds}, found {quoted(text)}")


def _struct(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object of any shape. Raises InvalidRequest where protobuf can't hold it."""
    try:
        _encoded(json.dumps(value, ensure_ascii=False), name)
        ParseDict(value, Struct())
    except _UNREADABLE as error:
        raise malformed(name, f"{name} is nested too deeply, or has a number above 1.8e308") from error
    return value


def _encoded(text: str, name: str) -> None:
    """Raise InvalidRequest where a text can't be sent on: JSON can write half of a pair of surrogates, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise malformed(name, f"{name}: half of a surrogate pair is not valid text") from error
