"""Protobuf messages for tests, made without a compiler."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = {"int64": 3, "string": 9, "message": 11}


def make_file(name: str, package: str, *messages: descriptor_pb2.DescriptorProto, imports: tuple[str, ...] = ()) -> Any:
    """A file of messages in the default pool; returns its classes by full name."""
    file = descriptor_pb2.FileDescriptorProto(
        name=name, package=package, syntax="proto3", dependency=imports, message_type=messages
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([name], pool)


def message(name: str, *fields: str, inner: tuple[descriptor_pb2.DescriptorProto, ...] = ()) -> Any:
    """A message with fields such as ``int64 count`` or ``repeated .shop.Line lines``."""
    found = descriptor_pb2.DescriptorProto(name=name, nested_type=inner)
    for number, text in enumerate(fields, start=1):
        *repeated, kind, label = text.split()
        named = {"type_name": kind} if kind.startswith(".") else {}
        type = _TYPES.get(kind, _TYPES["message"])
        found.field.add(name=label, number=number, label=3 if repeated else 1, type=type, **named)
    return found


_SHOP = make_file(
    "streamflow_tests/shop.proto",
    "shop",
    message("Line", "string sku", "int64 count"),
    message("Order", "string user", "repeated .shop.Line lines", ".shop.Order.Extra extra", inner=(
        message("Unused", "string a"), message("Extra", "string note", ".shop.Order.Extra deeper"),
    )),
)  # fmt: skip
Line: Any = _SHOP["shop.Line"]
Order: Any = _SHOP["shop.Order"]
Extra: Any = Order.Extra
