"""Fuzzing of the codecs that are more than JSON: only ValueError escapes, soon, and memory stays bounded."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from google.protobuf.struct_pb2 import Struct

import streamflow as sf
from streamflow.codecs import AvroCodec, MsgpackCodec, Schema, codec_for
from streamflow.connect.schema_registry import _parse
from streamflow.errors import DefinitionError
from streamflow.trace import carried, is_parent, is_state
from tests.security.test_fuzz import JSON, Case, fuzz
from tests.unit.codecs.messages import Extra, Line, Order


class Model(pydantic.BaseModel):
    user: str = pydantic.Field(alias="userName")
    lines: list[int] = []
    next: Model | None = None
    at: datetime.datetime | None = None


@dataclass
class Holder:
    model: Model | None
    text: str = ""


@dataclass
class Flat:
    user: str
    lines: list[int] = field(default_factory=list)
    note: str | None = None
    tags: dict[str, float] = field(default_factory=dict)
    at: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    raw: bytes = b""


@dataclass
class Changed:
    """What another version of `Flat` reads."""

    user: str | None
    tags: dict[str, float]
    added: int = 3


class Node(msgspec.Struct):
    value: int
    next: Node | None = None
    more: list[Node] = []


Union: Any = int | str | None


def reading(codec: Any) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        value = codec.decode(data)
        # what was read can be written, or is refused with a reason
        try:
            again = codec.decode(codec.encode(value))
        except ValueError:
            return value
        assert type(again) is type(value)
        return value

    return decode


MODELS = (
    b'{"userName":"ann","lines":[1,2],"next":{"userName":"b"},"at":"2026-01-02T03:04:05Z"}',
    b'{"model":{"userName":"ann"},"text":"x"}',
    b'{"model":null}',
    b'[{"userName":"a"},{"userName":"b","next":null}]',
    b'{"userName":"x","next":' * 50,
    *JSON,
)


@pytest.mark.parametrize("kind", [Model, list[Model], Holder, Model | None], ids=str)
def test_models(kind: Any, long_run: bool) -> None:
    fuzz(Case(f"pydantic {kind}", reading(codec_for(kind)), MODELS, (ValueError, RecursionError)), long_run)


@pytest.mark.parametrize("kind", [Any, Flat, Holder, dict[str, Any]], ids=str)
def test_messagepack(kind: Any, long_run: bool) -> None:
    pack = msgspec.msgpack.encode
    flat = Flat("ann", [1, 2], "n", {"a": 1.5}, raw=b"\0")
    corpus = [
        *map(pack, (flat, {"model": {"userName": "ann"}}, [1, [2.5, None], {"a": b"x"}], "text", 2**63, {"": True})),
        b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 5000, b"\x81\xa0" * 5000,
    ]  # fmt: skip
    codec = MsgpackCodec[Any](kind)
    fuzz(Case(f"messagepack {kind}", reading(codec), corpus, (ValueError, RecursionError)), long_run)


def avro_cases() -> dict[str, tuple[Any, list[Any]]]:
    flat = Flat("ann", [1, -2], "note", {"a": 1.5}, raw=b"\0\xff")
    node = Node(1, Node(2, None, [Node(3)]))
    return {
        "flat": (sf.avro(Flat), [flat, Flat("")]),
        "node": (sf.avro(Node), [node, Node(-1)]),
        "union": (sf.avro(Union), [1, "a", None]),
        "map": (sf.avro(dict[str, list[bool]]), [{"a": [True]}, {}]),
        "float": (sf.avro(float), [1.5]),
    }


@pytest.mark.parametrize("name", avro_cases())
def test_avro(name: str, long_run: bool) -> None:
    codec, values = avro_cases()[name]
    corpus = [*map(codec.encode, values), b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x02" * 5000, b"\x01\x02\x00"]
    fuzz(Case(f"avro {name}", reading(codec), corpus, (ValueError,)), long_run)


def test_avro_of_another_version(long_run: bool) -> None:
    old: Any = sf.avro(Flat)
    new: Any = sf.avro(Changed, schema={**json.loads(sf.avro(Changed).schema.text), "name": "Flat"})  # type: ignore[attr-defined]
    corpus = [old.encode(Flat("ann", [1], tags={"x": 2.0})), old.encode(Flat(""))]
    fuzz(Case("avro resolved", new.reader(old.schema), corpus, (ValueError,)), long_run)


def test_avro_schemas(long_run: bool) -> None:
    """Schemas come from a registry: whatever they say, using one is refused or bounded, and so is reading by it."""
    codec = AvroCodec[Any](Any, {"type": "record", "name": "R", "fields": []})

    def decode(data: bytes) -> None:
        read = codec.reader(Schema("AVRO", data.decode("utf-8", "replace")))
        for record in (b"", b"\0" * 40, b"\x02" * 400, b"\xfe\xff\xff\xff\x0f" * 8):
            try:
                read(record)
            except ValueError:
                continue

    corpus = [
        *(json.dumps(json.loads(codec.schema.text)).encode() for codec, _ in avro_cases().values()),
        b'{"type":"record","name":"a.R","fields":[{"name":"x","type":["null",{"type":"fixed","name":"F","size":9}]}]}',
        b'{"type":"record","name":"R","fields":[{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}}]}',
        b'{"type":"record","name":"R","fields":[{"name":"l","type":{"type":"array","items":["null","R"]}}]}',
        b'{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}',
        b'{"type":"int","logicalType":"date"}',
        b'["null",{"type":"map","values":{"type":"array","items":"long"}}]',
        b'"string"',
    ]
    fuzz(Case("avro schemas", decode, corpus, (ValueError,)), long_run)


def test_what_types_of_avro_are_refused_is_told_when_the_flow_is_written(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        sf.avro(data.decode("utf-8", "replace"))

    corpus = [b'{"type":"array","items":"int"}', b'"long"', b'{"type":"record","name":"R","fields":[]}']
    fuzz(Case("avro texts", decode, corpus, (DefinitionError,)), long_run)


@pytest.mark.parametrize("kind", [Order, Extra, Struct], ids=lambda kind: kind.DESCRIPTOR.name)
def test_protobuf(kind: Any, long_run: bool) -> None:
    deep = Extra()
    for _ in range(60):
        deep = Extra(note="n", deeper=deep)
    plain = Struct()
    plain.update({"a": [1, {"b": None}], "c": "text"})
    messages: list[Any] = [
        Order(user="ann", lines=[Line(sku="a", count=3)] * 3, extra=deep),
        deep,
        plain,
        Line(count=-1),
    ]
    corpus = [*(message.SerializeToString() for message in messages), b"\x12\xff\xff\xff\xff\x0f", b"\x0b" * 300]
    fuzz(Case(f"protobuf {kind}", reading(sf.protobuf(kind)), corpus, (ValueError,)), long_run)


@pytest.mark.parametrize("form", ["avro", "protobuf"])
def test_the_wire_format_of_a_registry(form: str, long_run: bool) -> None:
    registry = sf.MemorySchemaRegistry()
    codec: Any = sf.avro(Flat, registry=registry) if form == "avro" else sf.protobuf(Extra, registry=registry)
    with asyncio.Runner() as runner:
        runner.run(codec.prepare_encoding("orders"))
        runner.run(registry.id_of("other", Schema("AVRO", '"int"'), register=True))

        def decode(data: bytes) -> None:
            runner.run(codec.prepare_decoding([data]))
            codec.decode(data)

        value: Any = Flat("ann") if form == "avro" else Extra(note="n", deeper=Extra())
        corpus = [codec.encode(value), b"\0\0\0\0\x02\x02", b"\0\0\0\0\x01" + b"\xff" * 9, b"\0", b""]
        fuzz(Case(f"registry {form}", decode, corpus, (ValueError,)), long_run)


def test_answers_of_a_registry(long_run: bool) -> None:
    from http.client import HTTPException

    def decode(data: bytes) -> None:
        status, answer = _parse("GET", data)
        assert isinstance(status, int)
        assert isinstance(answer, dict)

    corpus = [
        b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"id":7}',
        b'HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"id":7}\r\n0\r\n\r\n',
        b"HTTP/1.0 500 Oops\r\n\r\n<html>",
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{"schema":"\\"int\\""}',
    ]
    fuzz(Case("registry answers", decode, corpus, (HTTPException, ValueError, OSError)), long_run)


def test_trace_context(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        parent, _, state = text.partition("|")
        found = carried({"traceparent": parent, "tracestate": state})
        if found is None:
            assert not is_parent(parent)
            raise ValueError
        assert found["traceparent"] == parent
        assert is_state(state) == ("tracestate" in found)
        assert "\n" not in "".join(found.values())

    corpus = [
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01|rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more|a@b=1",
    ]
    fuzz(Case("trace context", decode, corpus, (ValueError,)), long_run)
