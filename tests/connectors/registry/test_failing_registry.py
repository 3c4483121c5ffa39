"""A registry that fails, hangs, lies or asks for a login, and what a flow makes of it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.codecs import MemorySchemaRegistry, Schema
from streamflow.connect import schema_registry
from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, DecodeError, DefinitionError, NotFound, SettingsError, Unavailable
from tests.connectors.registry.double import RegistryDouble

SCHEMA = Schema("AVRO", '{"type": "record", "name": "R", "fields": []}')


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "WAITS_SECONDS", (0.01, 0.01))


@pytest.mark.parametrize(
    "failure",
    [
        None,
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\n\r\n{}",
        b"HTTP/1.1 429 Slow down\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (schema_registry.ANSWER_BYTES_MAX + 1),
        0.5,
    ],
)
async def test_a_passing_failure_is_asked_again_and_a_lasting_one_is_unavailable(failure: Any) -> None:
    async with RegistryDouble() as double:
        registry = sf.HttpSchemaRegistry(double.url, timeout="200ms")
        double.failures = [failure] * 2
        id = await registry.id_of("s", SCHEMA, register=True)
        assert (await registry.schema(id)).text == SCHEMA.text
        double.failures = [failure] * 3
        asked = len(double.requests)
        with pytest.raises(Unavailable, match="does not answer"):
            await registry.schema(id)
        assert len(double.requests) == asked + 3
        assert not double.failures


async def test_nobody_listens() -> None:
    async with RegistryDouble() as double:
        url = double.url
    with pytest.raises(Unavailable, match="does not answer") as caught:
        await sf.HttpSchemaRegistry(url).schema(1)
    assert caught.value.hint


async def test_answers_in_chunks() -> None:
    async with RegistryDouble() as double:
        double.chunked = True
        registry = sf.HttpSchemaRegistry(double.url)
        assert (await registry.schema(await registry.id_of("s", SCHEMA, register=True))).text == SCHEMA.text


async def test_the_login_is_sent_and_never_shown() -> None:
    async with RegistryDouble(login=("ann", "s3cret")) as double:
        registry = sf.HttpSchemaRegistry(double.url, user="ann", password="s3cret")
        assert await registry.id_of("s", SCHEMA, register=True) == 1
        assert "s3cret" not in repr(registry) + repr(vars(registry))
        for wrong in (sf.HttpSchemaRegistry(double.url), sf.HttpSchemaRegistry(double.url, user="ann", password="no")):
            with pytest.raises(ConnectorError, match="refuses the login") as caught:
                await wrong.schema(1)
            assert not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://registry", "http://", "http://ann:s3cret@registry", "http://registry?token=s3cret"]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        sf.HttpSchemaRegistry(url)
    assert "s3cret" not in str(caught.value) + caught.value.hint


def test_certificates_without_tls_are_refused() -> None:
    with pytest.raises(SettingsError, match="tls="):
        sf.HttpSchemaRegistry("http://registry", tls=Tls(ca="ca.pem"))


@pytest.mark.allow_blocking("makes a certificate")
async def test_tls_with_the_certificate_checked(tmp_path: Path) -> None:
    import ssl

    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with RegistryDouble(tls=context) as double:
        registry = sf.HttpSchemaRegistry(double.url, tls=Tls(ca=tmp_path / "cert.pem"))
        assert await registry.id_of("s", SCHEMA, register=True) == 1
        with pytest.raises(Unavailable, match="certificate"):
            await sf.HttpSchemaRegistry(double.url).schema(1)


@pytest.mark.parametrize("answer", [b"{}", b'{"id":"7"}', b'{"id":-1}', b'{"id":4294967296}', b'{"id":null}'])
async def test_an_id_that_is_none_is_not_believed(answer: bytes) -> None:
    async with RegistryDouble() as double:
        double.failures = [b"HTTP/1.1 200 OK\r\n\r\n" + answer]
        with pytest.raises(Unavailable, match="gave no id for subject s"):
            await sf.HttpSchemaRegistry(double.url).id_of("s", SCHEMA, register=True)


@pytest.mark.parametrize(
    "answer",
    [b"{}", b'{"schema":7}', b'{"schema":"\\"int\\"","references":[7]}', b'{"schema":"\\"int\\"","references":7}'],
)
async def test_a_schema_that_is_none_is_not_found(answer: bytes) -> None:
    async with RegistryDouble() as double:
        double.failures = [b"HTTP/1.1 200 OK\r\n\r\n" + answer]
        with pytest.raises(NotFound):
            await sf.HttpSchemaRegistry(double.url).schema(1)


async def test_references_without_end_are_refused() -> None:
    async with RegistryDouble() as double:
        for number in range(80):
            reference = {"name": f"R{number + 1}", "subject": f"s{number + 1}", "version": 1}
            double._schemas.append({"schema": '"int"', "schemaType": "AVRO", "references": [reference]})
            double._subjects[f"s{number}"] = [number + 1]
        with pytest.raises(NotFound, match="more than 64"):
            await sf.HttpSchemaRegistry(double.url).schema(1)
        double._schemas[5]["references"][0] |= {"name": "R1", "subject": "s1"}
        assert list((await sf.HttpSchemaRegistry(double.url).schema(1)).references) == ["R5", "R4", "R3", "R2", "R1"]


# -- in a flow --


def flow_of(tmp_path: Path, source: sf.MemoryTopic[Any], out: sf.MemoryTopic[Any]) -> sf.Flow:
    flow = sf.Flow("f", state=tmp_path / "f.db")
    flow.source(source).to(out)
    return flow


async def framed(registry: Any, value: int = 1) -> bytes:
    codec: Any = sf.avro(int, registry=registry)
    await codec.prepare_encoding("x")
    data: bytes = codec.encode(value)
    return data


async def test_a_source_waits_for_a_registry_that_is_away(tmp_path: Path) -> None:
    """What was read and could not be prepared is read again; nothing is lost and nothing refused."""
    async with RegistryDouble() as double:
        registry = sf.HttpSchemaRegistry(double.url)
        source = sf.MemoryTopic("in", value=sf.avro(int, registry=registry))
        source.send_bytes(await framed(registry))
        source.close_input()
        double.failures = [None] * 7
        out = sf.MemoryTopic("out", value=int)
        await flow_of(tmp_path, source, out).run()
        assert out.values == [1]
        assert not double.failures
        assert double.requests.count("GET /registry/schemas/ids/1") == 8


async def test_a_flow_waits_for_a_registry_before_it_takes_records(tmp_path: Path) -> None:
    async with RegistryDouble() as double:
        source = sf.MemoryTopic("in", value=int)
        source.send_all([1, 2])
        source.close_input()
        double.failures = [None] * 4
        out = sf.MemoryTopic("out", value=sf.avro(int, registry=sf.HttpSchemaRegistry(double.url)))
        await flow_of(tmp_path, source, out).run()
        assert out.values == [1, 2]
        assert not double.failures


async def test_a_schema_that_nobody_knows_stops_the_flow_at_its_record(tmp_path: Path) -> None:
    async with RegistryDouble() as double:
        source = sf.MemoryTopic("in", value=sf.avro(int, registry=sf.HttpSchemaRegistry(double.url)))
        source.send_bytes(b"\0\0\0\0\x09\x02")
        with pytest.raises(DecodeError, match=r"before position 1: its schema 9 cannot be had: .*Schema 9 not found"):
            await flow_of(tmp_path, source, sf.MemoryTopic("out", value=int)).run()


async def test_a_schema_that_cannot_be_used_stops_the_flow_at_its_record(tmp_path: Path) -> None:
    registry = MemorySchemaRegistry()
    for schema in (Schema("JSON", "{}"), Schema("AVRO", '{"type":"array","items":"null"}'), Schema("AVRO", "[" * 9999)):
        id = await registry.id_of("s", schema, register=True)
        source = sf.MemoryTopic("in", value=sf.avro(int, registry=registry))
        source.send_bytes(b"\0" + id.to_bytes(4, "big") + b"\x02")
        with pytest.raises(DecodeError, match=f"its schema {id} cannot be had"):
            await flow_of(tmp_path, source, sf.MemoryTopic("out", value=int)).run()


async def test_an_unknown_id_is_asked_for_again_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamflow.codecs import registry as module

    async with RegistryDouble() as double:
        registry = sf.HttpSchemaRegistry(double.url)
        codec: Any = sf.avro(int, registry=registry)
        data = b"\0\0\0\0\x01\x02"
        for _ in range(3):
            await codec.prepare_decoding([data, None, b"", b"\0"] * 500)
        assert double.requests == ["GET /registry/schemas/ids/1"]
        with pytest.raises(ValueError, match="its schema 1 cannot be had"):
            codec.decode(data)
        await framed(registry)
        monkeypatch.setattr(module, "UNKNOWN_SECONDS", 0.0)
        await codec.prepare_decoding([data])
        assert codec.decode(data) == 1
        asked = len(double.requests)
        await codec.prepare_decoding([data] * 500)
        assert len(double.requests) == asked


async def test_the_number_of_schemas_that_are_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamflow.codecs import registry as module

    monkeypatch.setattr(module, "SCHEMAS_MAX", 10)
    codec: Any = sf.avro(int, registry=MemorySchemaRegistry())
    await codec.prepare_decoding([b"\0" + number.to_bytes(4, "big") + b"\x02" for number in range(100)])
    assert len(codec._unknown) == 10


async def test_one_codec_for_topics_whose_ids_differ_is_refused() -> None:
    class Local(MemorySchemaRegistry):
        async def id_of(self, subject: str, schema: Schema, *, register: bool) -> int:
            return len(subject)

    codec: Any = sf.avro(int, registry=Local())
    await codec.prepare_encoding("a")
    await codec.prepare_encoding("b")
    with pytest.raises(DefinitionError, match="different ids"):
        await codec.prepare_encoding("longer")


async def test_pushes_and_tests_without_a_network(tmp_path: Path) -> None:
    async with RegistryDouble() as double:
        codec = sf.avro(int, registry=sf.HttpSchemaRegistry(double.url))
        out = sf.MemoryTopic("out", value=int)
        flow = sf.Flow("f", state=tmp_path / "f.db")
        numbers = flow.source(sf.MemoryTopic("in", value=codec))
        numbers.to(out)
        async with flow.test() as t:
            await t.send(numbers, 5)
            await t.advance("1s")
            assert t.sink("out") == [5]
        assert double.requests == []
        async with flow.running() as run:
            await run.push(numbers, 6)
        assert out.values == [6]
        assert double.requests == ["POST /registry/subjects/in-value", "POST /registry/subjects/in-value/versions"]


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async with RegistryDouble() as double:
        double.failures = [30.0]
        task = asyncio.create_task(sf.HttpSchemaRegistry(double.url).schema(1))
        while not double.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
