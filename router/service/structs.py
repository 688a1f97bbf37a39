"""Converts google.protobuf.Struct, a message of any shape, to plain values."""

from google.protobuf.struct_pb2 import Struct, Value

PlainValue = object  # a value of JSON: number, text, boolean, None, or a list or dict of such values


def plain(message: Struct) -> dict[str, PlainValue]:
    """Return the message as JSON's values. Whole numbers become integers."""
    return {name: _plain(value) for name, value in message.fields.items()}


def _plain(value: Value) -> PlainValue:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
    return None
