"""Avro: schemas made from types, evolution, what is refused, and data that would grow."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import io
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import fastavro
import msgspec
import pydantic
import pytest

import streamflow as sf
from streamflow.codecs import AvroCodec, Schema
from streamflow.errors import DefinitionError, MissingExtraError


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.Enum):
    SMALL = "a b"


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass
class Order:
    id: uuid.UUID
    at: datetime.datetime
    day: datetime.date
    user: str
    lines: list[Line]
    total: float = 0.0
    paid: bool = False
    note: str | None = None
    limit: int | None = 5
    raw: bytes = b"\xff"
    color: Color = Color.RED
    size: Size = Size.SMALL
    kind: Literal["a", "b"] = "a"
    tags: dict[str, int] = field(default_factory=dict)
    more: frozenset[str] = frozenset()
    start: datetime.time = datetime.time(1, 2, 3)


class Node(msgspec.Struct):
    value: int
    next: Node | None = None


class Renamed(msgspec.Struct, rename="camel", tag="it", frozen=True):
    first_name: str


class Row(TypedDict):
    a: int
    b: list[Line]


class Loose(TypedDict, total=False):
    a: int


class Model(pydantic.BaseModel):
    user: str = pydantic.Field(alias="userName")


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
ORDER = Order(uuid.UUID(int=5), NOW, NOW.date(), "ann", [Line("a"), Line("b", 2)], 1.5, note="x", tags={"t": 1})


def schema(codec: Any) -> Any:
    """The schema of a codec, as JSON."""
    return json.loads(codec.schema.text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, ORDER),
        (list[Order], [ORDER]),
        (Node, Node(1, Node(2))),
        (Renamed, Renamed("ann")),
        (Row, {"a": 1, "b": [Line("x")]}),
        (int, -(2**63)),
        (str, "é"),
        (bytes, b"\0"),
        (int | None, None),
        (dict[str, list[int]], {"a": [1, 2]}),
        (tuple[int, ...], (1, 2)),
    ],
)
def test_values_come_back_as_they_were(kind, value):
    codec: Any = sf.avro(kind)
    again = codec.decode(codec.encode(value))
    assert again == value
    assert type(again) is type(value)


def test_what_is_written_is_read_by_the_schema_alone():
    codec: Any = sf.avro(Order, namespace="com.shop")
    plain: Any = fastavro.schemaless_reader(io.BytesIO(codec.encode(ORDER)), fastavro.parse_schema(schema(codec)), None)
    assert plain["lines"] == [{"sku": "a", "count": 1}, {"sku": "b", "count": 2}]
    assert plain["at"] == NOW
    assert schema(codec)["name"] == "Order"
    assert schema(codec)["namespace"] == "com.shop"


def test_the_schema_of_a_type():
    fields = {part["name"]: part for part in schema(sf.avro(Order))["fields"]}
    assert fields["lines"]["type"] == {
        "type": "array",
        "items": {
            "type": "record",
            "name": "Line",
            "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "long", "default": 1}],
        },
    }
    assert fields["note"] == {"name": "note", "type": ["null", "string"], "default": None}
    assert fields["limit"] == {"name": "limit", "type": ["long", "null"], "default": 5}
    assert fields["raw"]["default"] == "\xff"
    assert fields["color"]["type"] == {"type": "enum", "name": "Color", "symbols": ["blue", "red"]} or fields["color"][
        "type"
    ] == {"type": "enum", "name": "Color", "symbols": ["red", "blue"]}
    assert fields["color"]["default"] == "red"
    assert fields["size"]["type"] == "string"
    assert fields["tags"] == {"name": "tags", "type": {"type": "map", "values": "long"}, "default": {}}
    assert "default" not in fields["user"]
    assert schema(sf.avro(Renamed))["fields"][0] == {"name": "type", "type": "string", "default": "it"}
    assert schema(sf.avro(Node))["fields"][1]["type"] == ["null", "Node"]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Any, "which Avro has no type for"),
        (tuple[int, str], "holds a tuple"),
        (dict[int, str], "keys are not str"),
        (Line | Node, "Type unions may not contain more than one dict-like type"),
        (int | datetime.datetime, "cannot tell apart"),
        (Literal["a", 1], "not all str or all int"),
        (Loose, "may be missing"),
        (Model, "which Avro has no type for"),
        (msgspec.defstruct("Odd", [("x", int)], rename={"x": "no name"}), "is no name in Avro"),
        (msgspec.defstruct("Flat", [("x", int)], array_like=True), "written as an array"),
        (tuple[Line, ...] | dict[str, msgspec.defstruct("Line", [("x", int)])], "two classes called Line"),  # type: ignore[misc]
    ],
)
def test_types_without_a_schema_are_refused(kind, why):
    with pytest.raises(DefinitionError, match=f"has no Avro schema: .*{why}") as caught:
        sf.avro(kind)
    assert "schema=" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["{", '{"type":"record"}', '{"type":"nothing"}', '{"type":"record","name":"A","fields":[{"name":"x","type":"B"}]}',
     "[" * 5000, '{"type":"array","items":' * 140 + '"int"' + "}" * 140],
)  # fmt: skip
def test_schemas_that_are_none_are_refused(text):
    with pytest.raises(DefinitionError, match="schema"):
        sf.avro(text)


def test_dicts_by_a_schema():
    codec = sf.avro({"type": "record", "name": "A", "fields": [{"name": "x", "type": "int", "default": 3}]})
    assert codec.decode(codec.encode({})) == {"x": 3}
    with pytest.raises(ValueError, match="does not fit its Avro schema"):
        codec.encode({"x": 1, "y": 2})
    assert sf.avro("string").decode(sf.avro('"string"').encode("a")) == "a"


def test_a_pydantic_model_by_a_schema():
    text = '{"type":"record","name":"Model","fields":[{"name":"userName","type":"string"}]}'
    codec = sf.avro(Model, schema=text)
    assert codec.decode(codec.encode(Model(userName="ann"))) == Model(userName="ann")


@pytest.mark.parametrize(
    "change",
    [{"total": "text"}, {"limit": 1.5}, {"limit": 2**63}, {"user": None}, {"lines": [1]}, {"color": "green"},
     {"at": datetime.datetime(2026, 1, 1)}, {"start": datetime.time(1, tzinfo=datetime.UTC)}, {"user": "\ud800"}],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused_not_changed(change):
    value = dataclasses.replace(ORDER, **change)
    with pytest.raises(ValueError, match="does not fit its Avro schema"):
        sf.avro(Order).encode(value)


INNER = {"type": "record", "name": "I", "fields": [{"name": "n", "type": "int"}, {"name": "i", "type": ["null", "I"]}]}
STAMP = {"type": "long", "logicalType": "timestamp-millis"}
NAIVE = datetime.datetime(2026, 1, 1)


@pytest.mark.parametrize(
    ("schema", "bad", "good"),
    [
        ("long", 1.5, 1),
        ("long", True, -(2**63)),
        ("int", 2**31, 2**31 - 1),
        ("boolean", "no", False),
        ({"type": "array", "items": "int"}, [1, 2.5], [1]),
        ({"type": "map", "values": "boolean"}, {"a": 1}, {"a": True}),
        (["null", "int"], 1.5, None),
        (["null", STAMP], NAIVE, None),
        (["null", {"type": "array", "items": STAMP}], [NAIVE], [NAIVE.replace(tzinfo=datetime.UTC)]),
        (STAMP, 1.5, NAIVE.replace(tzinfo=datetime.UTC)),
        ({"type": "int", "logicalType": "date"}, 1.5, datetime.date(2026, 1, 1)),
        ({"type": "long", "logicalType": "time-micros"}, datetime.time(1, tzinfo=datetime.UTC), datetime.time(1)),
        (INNER, {"n": 1, "i": {"n": 1, "i": {"n": 1.5, "i": None}}}, {"n": 1, "i": {"n": 2, "i": None}}),
        (["null", INNER], {"n": True, "i": None}, {"n": 1, "i": None}),
        ({"type": "fixed", "name": "F", "size": 2}, b"a", b"ab"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "B", "A"),
        ("string", b"a", "a"),
        ("bytes", "a", b"a"),
        ("double", "1", 1.5),
        ("null", 1, None),
        (INNER, [1], {"n": 1, "i": None}),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, 1.5, decimal.Decimal("1.50")),
    ],
)
def test_nothing_is_written_otherwise_than_it_is(schema, bad, good):
    codec = sf.avro(schema if isinstance(schema, dict) else json.dumps(schema))
    assert codec.decode(codec.encode(good)) == good
    with pytest.raises(ValueError, match="does not fit its Avro schema"):
        codec.encode(bad)


def test_evolution_adds_and_drops_fields_and_says_what_does_not_fit():
    @dataclass
    class Old:
        user: str
        gone: int

    @dataclass
    class New:
        user: str
        added: list[str] = field(default_factory=list)

    @dataclass
    class Needs:
        user: str
        must: int

    old: Any = sf.avro(Old)
    new, needs = (
        AvroCodec[Any](New, {**schema(sf.avro(New)), "name": "Old"}),
        AvroCodec[Any](Needs, {**schema(sf.avro(Needs)), "name": "Old"}),
    )
    data = old.encode(Old("ann", 4))
    assert new.reader(old.schema)(data) == New("ann", [])
    with pytest.raises(ValueError, match=r"not an Avro .*Needs: .*must"):
        needs.reader(old.schema)(data)


def test_references_between_schemas():
    line = '{"type":"record","name":"shop.Line","fields":[{"name":"sku","type":"string"}]}'
    order = '{"type":"record","name":"shop.Order","fields":[{"name":"line","type":"shop.Line"}]}'
    whole = {
        "type": "record",
        "name": "shop.Order",
        "fields": [{"name": "line", "type": json.loads(line)}, {"name": "n", "type": "int", "default": 7}],
    }
    codec = AvroCodec[Any](Any, whole)
    read = codec.reader(Schema("AVRO", order, {"shop.Line": line}))
    assert read(b"\x04ab") == {"line": {"sku": "ab"}, "n": 7}
    with pytest.raises(ValueError, match=r"refers to shop.Line, which is defined nowhere"):
        codec.reader(Schema("AVRO", order))
    with pytest.raises(ValueError, match="PROTOBUF"):
        codec.reader(Schema("PROTOBUF", ""))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\xff" * 20, b"\x04a", b"\x02a\x00more", b"\x02\xff", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01a"],
)
def test_damaged_data_is_a_value_error(data):
    with pytest.raises(ValueError, match="not an Avro str"):
        sf.avro(str).decode(data)


@pytest.mark.parametrize("items", ["null", {"type": "fixed", "name": "F", "size": 0},
    {"type": "record", "name": "E", "fields": [{"name": "a", "type": "null"}]}])  # fmt: skip
def test_elements_without_bytes_are_refused(items):
    """Five bytes would make 16.7 million elements."""
    for bomb in ({"type": "array", "items": items}, {"type": "map", "values": {"type": "array", "items": items}}):
        with pytest.raises(DefinitionError, match="elements that take no bytes"):
            sf.avro(bomb)
        with pytest.raises(ValueError, match="elements that take no bytes"):
            AvroCodec[Any](Any, "int").reader(Schema("AVRO", json.dumps(bomb)))


def test_a_schema_that_doubles_itself_is_refused():
    """Twenty records, each of which holds the next one twice, hold a million values in no byte at all."""
    inner: Any = "null"
    for level in range(20):
        name = f"R{level}"
        second = f"R{level - 1}" if level else "null"
        inner = {
            "type": "record",
            "name": name,
            "fields": [{"name": "a", "type": inner}, {"name": "b", "type": second}],
        }
    started = time.monotonic()
    with pytest.raises(DefinitionError, match="has more than 100000 values"):
        sf.avro(inner)
    assert time.monotonic() - started < 1


def test_data_of_a_recursive_schema_is_bounded_in_depth():
    """A million levels, each of them in two bytes, would end the process."""
    codec = sf.avro(Node)
    with pytest.raises(ValueError, match="nested more than 100 levels"):
        codec.decode(b"\x02\x02" * 1_000_000)
    deep = Node(0)
    for value in range(30):
        deep = Node(value, deep)
    assert codec.decode(codec.encode(deep)) == deep
    with pytest.raises(ValueError, match="branch"):
        codec.decode(b"\x02\x08")
    with pytest.raises(ValueError, match="cut off"):
        codec.decode(b"\x02")


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(MissingExtraError, match="fastavro") as caught:
        sf.avro(int)
    assert "streamflow-asyncio[avro]" in caught.value.hint


async def test_a_flow_reads_and_writes_avro():
    flow = sf.Flow("avro")
    orders = flow.source(sf.MemoryTopic("orders", value=sf.avro(Order)), on_error=sf.skip)
    orders.key_by(lambda order: order.user).count(name="n").map(lambda pair: Line(*pair)).to(
        sf.MemoryTopic("out", value=sf.avro(Line))
    )
    async with flow.test() as t:
        await t.send(orders, ORDER)
        await t.send_bytes(orders, b"\xff\xff")
        await t.send(orders, ORDER)
        await t.advance("1s")
        assert t.sink("out") == [Line("ann", 1), Line("ann", 2)]
