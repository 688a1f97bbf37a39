"""Converts google.protobuf.Struct, a message of any shape, to plain values."""

import math

from google.protobuf.struct_pb2 import Struct, Value

from router.errors import InvalidRequest

_LONGEST = 100  # characters of a field's name in an error
PlainValue = object  # a value of JSON: number, text, boolean, None, or a list or dict of such values


def plain(message: Struct, where: str) -> dict[str, PlainValue]:
    """Return the message as JSON's values. Whole numbers become integers. How deep it is, protobuf limits.

    where  what the caller calls the message

    Raises InvalidRequest where a number is not finite: JSON, in which it is recorded and passed on, can't hold it.
    """
    return {name: _plain(value, f"{where}.{name}"[:_LONGEST]) for name, value in message.fields.items()}


def _plain(value: Value, where: str) -> PlainValue:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InvalidRequest(where, f"{where} must be a finite number, found {number}", reason="INPUTS_INVALID")
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain(value.struct_value, where)
        case "list_value":
            return [_plain(each, f"{where}[{index}]") for index, each in enumerate(value.list_value.values)]
    return None
