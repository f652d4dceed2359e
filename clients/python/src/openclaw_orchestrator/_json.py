"""JSON-like values to payloads and back. Nothing is rounded: what cannot travel is refused by its path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

from google.protobuf import struct_pb2

Json: TypeAlias = Union[None, bool, int, float, str, Sequence["Json"], Mapping[str, "Json"]]
"""What a payload can be."""

INTEGER_MAX = 2**53
"""Payload numbers are doubles: larger integers would be rounded."""


class PayloadError(ValueError):
    """A value that no payload can carry. The message names the place."""


def to_value(data: Json, path: str = "payload") -> struct_pb2.Value:
    """A value as a payload.

    Raises:
        PayloadError: for integers beyond 2**53, for numbers that are not finite, and for what is no JSON.
    """
    match data:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=data)
        case int():
            if abs(data) > INTEGER_MAX:
                raise PayloadError(f"{path}: {data} is beyond 2^53 and would be rounded: send it as a text")
            return struct_pb2.Value(number_value=data)
        case float():
            if not math.isfinite(data):
                raise PayloadError(f"{path}: {data} is not a JSON number")
            return struct_pb2.Value(number_value=data)
        case str():
            return struct_pb2.Value(string_value=data)
        case Mapping():
            value = struct_pb2.Value(struct_value=struct_pb2.Struct())
            for name, item in data.items():
                if not isinstance(name, str):
                    raise PayloadError(f"{path}: {name!r} is not a text, and names must be")
                value.struct_value.fields[name].CopyFrom(to_value(item, f"{path}.{name}"))
            return value
        case bytes() | bytearray():
            raise PayloadError(f"{path}: bytes are no JSON: send them as base64")
        case Sequence():
            items = (to_value(item, f"{path}[{at}]") for at, item in enumerate(data))
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
    raise PayloadError(f"{path}: {type(data).__name__} is no JSON")


def from_value(value: struct_pb2.Value) -> Json:
    """A payload as a value. Whole numbers become `int`."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= INTEGER_MAX else number
        case "string_value":
            return value.string_value
        case "struct_value":
            return {name: from_value(item) for name, item in value.struct_value.fields.items()}
        case "list_value":
            return [from_value(item) for item in value.list_value.values]
    return None
