"""Protobuf: messages come back, damage is a ValueError, equal messages have equal bytes."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import timestamp_pb2

import streamflow as sf
from streamflow.codecs import MemorySchemaRegistry, ProtobufCodec, Schema, codec_for, immutable
from streamflow.errors import DefinitionError, MissingExtraError
from tests.unit.codecs.messages import Extra, Line, Order, make_file, message


@dataclass
class Plain:
    a: int = 0


def order(user: str = "ann") -> Any:
    return Order(user=user, lines=[Line(sku="a", count=2)])


def test_messages_come_back_as_they_were():
    codec = sf.protobuf(Order)
    again = codec.decode(codec.encode(order()))
    assert again == order()
    assert type(again) is Order
    assert sf.protobuf(timestamp_pb2.Timestamp).decode(b"\x08\x05").seconds == 5


def test_equal_maps_have_equal_bytes():
    from google.protobuf.struct_pb2 import Struct

    codec = sf.protobuf(Struct)
    one, other = Struct(), Struct()
    one.update({str(n): n for n in range(50)})
    other.update({str(n): n for n in reversed(range(50))})
    assert codec.encode(one) == codec.encode(other)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x1a\x00\x04", b"\x0b", b"\x12\x7f\x0a"])
def test_damaged_messages_are_a_value_error(data):
    with pytest.raises(ValueError, match=r"not a protobuf shop\.Order"):
        sf.protobuf(Order).decode(data)


def test_messages_that_are_nested_too_deep_are_a_value_error():
    deep = b""
    for _ in range(150):
        size = len(deep)
        varint = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        deep = b"\x12" + varint + deep
    with pytest.raises(ValueError, match="not a protobuf"):
        sf.protobuf(Extra).decode(deep)


@pytest.mark.parametrize("value", [Line(sku="a"), Plain(), None, b""])
def test_what_is_another_message_is_refused(value):
    with pytest.raises(ValueError, match="expected Order, got"):
        sf.protobuf(Order).encode(value)


def test_what_is_no_message_class_is_refused():
    for kind in (Plain, int, Order()):
        with pytest.raises(DefinitionError, match="no protobuf message class"):
            sf.protobuf(kind)
    with pytest.raises(DefinitionError, match="which has no JSON of its own") as caught:
        codec_for(Order)
    assert "sf.protobuf(Order)" in caught.value.hint


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    with pytest.raises(MissingExtraError) as caught:
        sf.protobuf(Order)
    assert "streamflow-asyncio[protobuf]" in caught.value.hint


def test_messages_can_be_changed_and_copied():
    assert not immutable(Order)
    assert copy.deepcopy(order()) == order()


async def test_a_flow_of_messages():
    flow = sf.Flow("protobuf")
    orders = flow.source(sf.MemoryTopic("orders", value=sf.protobuf(Order)))

    @orders.key_by(lambda o: o.user).process(state=Plain)
    def lines(ctx: sf.Context[str, Plain], o: Any) -> list[Any]:
        ctx.state.a += len(o.lines)
        return [Line(sku=ctx.key, count=ctx.state.a)]

    lines.to(sf.MemoryTopic("lines", value=sf.protobuf(Line)))
    async with flow.test() as t:
        await t.send(orders, order(), order())
        await t.advance("1s")
        assert t.sink("lines") == [Line(sku="ann", count=1), Line(sku="ann", count=2)]


# -- the registry's wire format --


async def framed(kind: Any) -> Any:
    codec: Any = sf.protobuf(kind, registry=MemorySchemaRegistry())
    await codec.prepare_encoding("orders")
    return codec.encode(kind())


async def test_the_path_of_a_message_stands_behind_the_id():
    assert await framed(Line) == b"\0\0\0\0\1" + b"\0"
    assert await framed(Order) == b"\0\0\0\0\1" + b"\x02\x02"
    assert await framed(Extra) == b"\0\0\0\0\1" + b"\x04\x02\x02"


def test_another_message_of_the_file_is_refused():
    read = ProtobufCodec(Extra).reader(Schema("PROTOBUF", ""))
    assert read(b"\x04\x02\x02\x0a\x01x") == Extra(note="x")
    assert ProtobufCodec(Line).reader(Schema("PROTOBUF", ""))(b"\x02\x00") == Line()
    for data in (b"\0", b"\x02\x02", b"", b"\x04\x02", b"\xff\xff\xff\xff\xff", b"\x7f", b"\x01"):
        with pytest.raises(ValueError, match="message"):
            read(data)
    with pytest.raises(ValueError, match="AVRO"):
        ProtobufCodec(Extra).reader(Schema("AVRO", ""))


def test_files_that_import_others_are_not_registered():
    classes = make_file(
        "streamflow_tests/importing.proto",
        "shop",
        message("Basket", ".shop.Line line"),
        imports=("streamflow_tests/shop.proto",),
    )
    with pytest.raises(DefinitionError, match=r"imports streamflow_tests/shop\.proto"):
        _ = ProtobufCodec(classes["shop.Basket"]).schema
