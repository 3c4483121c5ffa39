"""The client and the codecs against a registry: the double, and a real one where STREAMFLOW_REGISTRY_URL names it.

A real one was Apicurio Registry 2.6.13: ``STREAMFLOW_REGISTRY_URL=http://127.0.0.1:8080/apis/ccompat/v7``.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

import streamflow as sf
from streamflow.codecs import AvroCodec, ProtobufCodec, Schema
from streamflow.errors import DefinitionError, NotFound
from tests.connectors.registry.double import RegistryDouble
from tests.unit.codecs.messages import Extra

REAL = os.environ.get("STREAMFLOW_REGISTRY_URL", "")


@dataclass
class Order:
    user: str
    amount: int = 0


@dataclass
class Wider:
    user: str
    amount: int = 0
    tags: list[str] = field(default_factory=list)


@dataclass
class Stricter:
    user: str
    must: str


def avro_schema(kind: Any) -> Schema:
    """All of them are versions of one record."""
    text: Any = json.loads(sf.avro(kind).schema.text)  # type: ignore[attr-defined]
    return Schema("AVRO", json.dumps({**text, "name": "Order"}))


@pytest.fixture(params=["double", *(["real"] if REAL else [])])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "real":
        yield REAL
        return
    async with RegistryDouble() as double:
        yield double.url


@pytest.fixture
def subject() -> str:
    return f"orders {uuid.uuid4().hex}/é-value"


async def test_a_schema_is_registered_once_and_found_by_its_id(url: str, subject: str) -> None:
    registry = sf.HttpSchemaRegistry(url)
    schema = avro_schema(Order)
    with pytest.raises(NotFound, match="has no such AVRO schema"):
        await registry.id_of(subject, schema, register=False)
    id = await registry.id_of(subject, schema, register=True)
    assert await registry.id_of(subject, schema, register=True) == id
    assert await registry.id_of(subject, schema, register=False) == id
    found = await registry.schema(id)
    assert found.kind == "AVRO"
    assert json.loads(found.text) == json.loads(schema.text)
    other = await registry.id_of(subject, avro_schema(Wider), register=True)
    assert other != id


async def test_what_does_not_exist_is_not_found(url: str) -> None:
    registry = sf.HttpSchemaRegistry(url)
    with pytest.raises(NotFound):
        await registry.schema(2_000_000_000)
    with pytest.raises(NotFound):
        await registry._found("GET", f"/subjects/{uuid.uuid4().hex}/versions/1")


async def test_an_incompatible_schema_is_told_in_three_lines(url: str, subject: str) -> None:
    registry = sf.HttpSchemaRegistry(url)
    await registry.id_of(subject, avro_schema(Order), register=True)
    if url == REAL:
        async with httpx.AsyncClient() as client:
            path = f"{url}/config/{httpx.URL(path=subject).raw_path.decode().lstrip('/').replace('/', '%2F')}"
            (await client.put(path, json={"compatibility": "BACKWARD"})).raise_for_status()
    with pytest.raises(DefinitionError, match="does not fit the earlier ones of subject orders") as caught:
        await registry.id_of(subject, avro_schema(Stricter), register=True)
    assert "\n" not in caught.value.message
    assert "default" in caught.value.hint


async def test_an_invalid_schema_is_a_definition_error(url: str, subject: str) -> None:
    with pytest.raises(DefinitionError, match="invalid"):
        await sf.HttpSchemaRegistry(url).id_of(subject, Schema("AVRO", "{nonsense"), register=True)


async def test_references_are_read_with_what_refers_to_them(url: str, subject: str) -> None:
    """Schemas of two other subjects, one within the other; registered by another client."""
    unique = uuid.uuid4().hex
    texts = {
        "a": {"type": "record", "name": f"A{unique}", "fields": [{"name": "x", "type": "int"}]},
        "b": {"type": "record", "name": f"B{unique}", "fields": [{"name": "a", "type": f"A{unique}"}]},
        "c": {"type": "record", "name": f"C{unique}", "fields": [{"name": "b", "type": f"B{unique}"}]},
    }
    id = 0
    async with httpx.AsyncClient() as client:
        before = ""
        for name, text in texts.items():
            reference = {"name": f"{before.upper()}{unique}", "subject": f"{before}-{unique}", "version": 1}
            body = {"schema": json.dumps(text), "schemaType": "AVRO", "references": [reference] if before else []}
            answer = await client.post(f"{url}/subjects/{name}-{unique}/versions", json=body)
            answer.raise_for_status()
            id, before = answer.json()["id"], name
    schema = await sf.HttpSchemaRegistry(url).schema(id)
    assert list(schema.references) == [f"A{unique}", f"B{unique}"]
    inner = json.loads(json.dumps(texts["c"]))
    inner["fields"][0]["type"] = {**texts["b"], "fields": [{"name": "a", "type": texts["a"]}]}
    assert AvroCodec[Any](Any, inner).reader(schema)(b"\x08") == {"b": {"a": {"x": 4}}}


async def test_protobuf_is_registered_as_the_file_that_defines_it(url: str, subject: str) -> None:
    registry = sf.HttpSchemaRegistry(url)
    codec: Any = sf.protobuf(Extra, registry=registry, subject=subject)
    await codec.prepare_encoding("ignored")
    data = codec.encode(Extra(note="n"))
    reading: Any = sf.protobuf(Extra, registry=registry)
    await reading.prepare_decoding([data])
    assert reading.decode(data) == Extra(note="n")
    id = await registry.id_of(subject, ProtobufCodec(Extra).schema, register=False)
    assert (await registry.schema(id)).kind == "PROTOBUF"
    assert data[:8] == b"\0" + id.to_bytes(4, "big") + b"\x04\x02\x02"


async def test_records_of_two_versions_are_read_as_the_readers_own(url: str) -> None:
    """Whole flows: one writes the old version, one the new; a third reads both, and a record of neither."""
    registry, name = sf.HttpSchemaRegistry(url), f"t{uuid.uuid4().hex}"
    topic: sf.MemoryTopic[bytes] = sf.MemoryTopic(name, value=bytes)
    for kind, value in ((Order, Order("ann", 1)), (Wider, Wider("bob", 2, ["t"]))):
        source, sink = (
            sf.MemoryTopic("in", value=kind),
            sf.MemoryTopic(name, value=sf.avro(kind, schema=avro_schema(kind).text, registry=registry)),
        )
        source.send(value)
        source.close_input()
        flow = sf.Flow(f"write-{kind.__name__}", state=f"{os.environ['STREAMFLOW_TEST_DIR']}/{kind.__name__}.db")
        flow.source(source).to(sink)
        await flow.run()
        assert [record.value for record in sink.records] == [value]
        topic.send_all_bytes(sink._log.partitions[""].payloads)
    topic.send_bytes(b"\0\x7f\xff\xff\xff\x02a")
    topic.send_bytes(b"no magic")
    topic.close_input()
    reading = sf.MemoryTopic(name, value=sf.avro(Wider, schema=avro_schema(Wider).text, registry=registry))
    reading.send_all_bytes(topic.values)
    reading.close_input()
    out = sf.MemoryTopic("out", value=Wider)
    flow = sf.Flow("read", state=f"{os.environ['STREAMFLOW_TEST_DIR']}/read.db")
    flow.source(reading, on_error=sf.skip).to(out)
    await flow.run()
    assert out.values == [Wider("ann", 1, []), Wider("bob", 2, ["t"])]


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFLOW_TEST_DIR", str(tmp_path))


async def test_many_ask_at_the_same_time(url: str, subject: str) -> None:
    registry = sf.HttpSchemaRegistry(url)
    ids = await asyncio.gather(*(registry.id_of(subject, avro_schema(Order), register=True) for _ in range(20)))
    assert len(set(ids)) == 1
