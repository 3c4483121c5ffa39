"""What infers of codecs: a topic of each kind of value, and what is made of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, assert_type

import msgspec
import pydantic

import streamflow as sf
from streamflow.codecs import Codec, SchemaRegistry

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp


@dataclass
class Order:
    user: str


class Wire(msgspec.Struct):
    user: str


class Row(TypedDict):
    user: str


class Model(pydantic.BaseModel):
    user: str


def values(flow: sf.Flow, registry: SchemaRegistry) -> None:
    assert_type(flow.source(sf.MemoryTopic("a", value=Wire)), sf.Stream[Wire])
    assert_type(flow.source(sf.MemoryTopic("b", value=Row)), sf.Stream[Row])
    assert_type(flow.source(sf.MemoryTopic("c", value=Model)), sf.Stream[Model])
    assert_type(flow.source(sf.MemoryTopic("d", value=list[Model])), sf.Stream[list[Model]])
    assert_type(flow.source(sf.MemoryTopic("e", value=dict[str, int])), sf.Stream[dict[str, int]])
    assert_type(flow.source(sf.MemoryTopic("f", value=bytes)), sf.Stream[bytes])
    assert_type(flow.source(sf.MemoryTopic("g", value=sf.msgpack(Order))), sf.Stream[Order])
    assert_type(flow.source(sf.MemoryTopic("h", value=sf.avro(Order))), sf.Stream[Order])
    assert_type(flow.source(sf.MemoryTopic("i", value=sf.avro(Model, schema="..."))), sf.Stream[Model])
    assert_type(sf.avro({"type": "record"}), Codec[Any])
    assert_type(sf.avro("string", registry=registry), Codec[Any])
    assert_type(sf.avro(Order, registry=registry, subject="s", register=False, namespace="n"), Codec[Order])


def messages(flow: sf.Flow, registry: SchemaRegistry, kind: type[Timestamp]) -> None:
    assert_type(sf.protobuf(kind), "Codec[Timestamp]")
    stamps = flow.source(sf.MemoryTopic("m", value=sf.protobuf(kind, registry=registry)), message=True)
    assert_type(stamps, "sf.Stream[sf.Message[Timestamp]]")
    assert_type(stamps.map(lambda message: message.value.seconds), sf.Stream[int])
    models = flow.source(sf.MemoryTopic("n", value=Model), message=True)
    assert_type(models, sf.Stream[sf.Message[Model]])
    assert_type(models.map(lambda message: message.value), sf.Stream[Model])
    assert_type(models.map(lambda message: message.headers), sf.Stream[Mapping[str, str]])
    assert_type(models.map(lambda message: message.key), sf.Stream[bytes | None])
    assert_type(models.map(lambda message: message.timestamp_ms), sf.Stream[int | None])


def out(flow: sf.Flow) -> None:
    models = flow.source(sf.MemoryTopic("n", value=Model))
    models.to(
        sf.MemoryTopic("out", value=sf.avro(Model, schema="...")),
        key=lambda model: model.user,
        headers=lambda model: {"user": model.user},
        partition=lambda model: len(model.user),
    )
    keyed = models.key_by(lambda model: model.user).count(name="n")
    keyed.to(sf.MemoryTopic("counts", value=sf.msgpack(tuple[str, int])), key=lambda pair: pair[0])


def registries(registry: SchemaRegistry) -> list[SchemaRegistry]:
    return [registry, sf.MemorySchemaRegistry(), sf.HttpSchemaRegistry("https://registry", tls=sf.Tls(ca="ca.pem"))]


def refused(flow: sf.Flow) -> None:
    models = flow.source(sf.MemoryTopic("n", value=Model))
    models.to(sf.MemoryTopic("o", value=sf.avro(Order)))  # type: ignore[arg-type]
    models.to(sf.MemoryTopic("p", value=sf.msgpack(Order)))  # type: ignore[arg-type]
    sf.protobuf(Order)  # type: ignore[type-var]
    models.to(sf.MemoryTopic("q", value=Model), headers=lambda model: {"user": 1})  # type: ignore[dict-item]
    sf.MemoryTopic("r", value=sf.avro(Order, registry="http://registry"))  # type: ignore[call-overload]
