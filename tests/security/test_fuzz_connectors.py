"""Fuzzing what the connectors for Kafka and RabbitMQ read from brokers, and from the outbox."""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from streamflow.errors import ConnectorError, DecodeError, Unavailable
from streamflow_kafka import frames as kafka_frames
from streamflow_kafka.batches import Batches, split
from streamflow_kafka.inflate import CODECS, GZIP, LZ4, SNAPPY, ZSTD, inflate
from streamflow_kafka.marker import Marker, _marker
from streamflow_rabbitmq import RabbitMQ
from streamflow_rabbitmq import frames as rabbit_frames
from streamflow_rabbitmq.marker import Mark
from streamflow_rabbitmq.marker import Marker as MarkerQueue
from streamflow_rabbitmq.streams.chunks import read_chunk, take_apart
from streamflow_rabbitmq.streams.link import StreamLink
from streamflow_rabbitmq.streams.message import data_section, read_message, write_message
from streamflow_rabbitmq.streams.wire import (
    NO_LEADER,
    RESPONSE,
    Command,
    Fields,
    frame,
    mapping,
    parse_metadata,
    string,
    strings,
)
from streamflow_rabbitmq.wire import EMPTY_TABLE, table
from tests.connectors.rabbitmq.test_stream_messages import batch, delivered, entry
from tests.security.test_fuzz import Case, fuzz

LIMIT_BYTES = 1 << 20
HEAD_BYTES = 61
"""Of a batch of Kafka records before the first record."""
CRC_AT, BEHIND_CRC = 17, 21

# -- RabbitMQ --

MESSAGES = [
    write_message(b"payload", None, None),
    write_message(b"p" * 300, b"ann", {"a": "1", "size": "x" * 300}),
    b"\x00Sw\xa1\x03abc",
    b"\x00St\xd1\x00\x00\x00\x14\x00\x00\x00\x04\xa1\x01a\xa3\x01b\xa1\x01cp\x00\x00\x00\x07\x00Su\xa0\x02hi",
    b"\x00Sp\xc0\x02\x01A\x00Sr\xc1\x01\x00\x00St\xc1\x09\x04\xa1\x01aU\x07\xa1\x01bE" + data_section(b"hi"),
    b"\x00St\xc1\x01\x00\x00Ss\xc0\x0b\x01\xc1\x08\x02\x40\xc0\x04\x01\xc1\x01\x00\x00Su\xa0\x00",
]


def test_messages_of_streams_are_taken_whatever_they_are(long_run: bool) -> None:
    """`read_message` refuses nothing: what it cannot read comes as it is."""
    as_it_is = 0

    def decode(data: bytes) -> None:
        nonlocal as_it_is
        payload, headers, key = read_message(data)
        assert len(payload) <= len(data)
        as_it_is += payload == data and headers is None and key is None
        assert all(type(text) is str for pair in (headers or {}).items() for text in pair)
        assert key is None or type(key) is bytes

    fuzz(Case("stream messages", decode, MESSAGES, ()), long_run, refuses=False)
    assert as_it_is > 50


def chunks() -> list[bytes]:
    """What a chunk may hold: messages, and batches of them, by every compression."""
    plain = b"".join(map(entry, MESSAGES))
    packers: list[Any] = [bytes, gzip.compress, cramjam.snappy.compress, cramjam.lz4.compress, cramjam.zstd.compress]
    packed = [batch(number, MESSAGES, bytes(pack(plain))) for number, pack in enumerate(packers)]
    several = packed[0] + plain + packed[1]
    count = len(MESSAGES)
    return [
        delivered(plain, count, count, 17),
        delivered(b"", 0, 0),
        *(delivered(each, 1, count, 17) for each in packed),
        delivered(several, 2 + count, 3 * count, 2**40),
    ]


@pytest.mark.parametrize("mended", [False, True], ids=["as it came", "with the right checksum"])
def test_chunks_of_streams(mended: bool, long_run: bool) -> None:
    """A checksum is right where the producer's own batch is wrong; then what lies behind it is reached."""

    def decode(data: bytes) -> None:
        if mended and len(data) > HEAD_OF_CHUNK.size:
            entries = data[HEAD_OF_CHUNK.size :]
            fields = list(HEAD_OF_CHUNK.unpack_from(data))
            fields[10:12] = zlib.crc32(entries), len(entries)
            data = HEAD_OF_CHUNK.pack(*fields) + entries
        chunk = read_chunk(data)
        records = take_apart(chunk, chunk.offset)
        assert len(records.payloads) == chunk.records
        assert records.keys is None or len(records.keys) == chunk.records
        assert records.headers is None or len(records.headers) == chunk.records

    fuzz(Case(f"stream chunks {mended}", decode, chunks(), (ConnectorError,)), long_run)


HEAD_OF_CHUNK = struct.Struct(">HHBBBHIqQQIIII")

TEXTS = strings(["orders", "", "größe"]) + mapping({"version": "3.13.0", "product": "RabbitMQ"}) + string("end")
METADATA = (
    (2).to_bytes(4)
    + b"".join(number.to_bytes(2) + string(f"node{number}") + (5552).to_bytes(4) for number in (0, 1))
    + (2).to_bytes(4)
    + string("orders") + (1).to_bytes(2) + (0).to_bytes(2) + (2).to_bytes(4) + b"\0\1\0\0"
    + string("gone") + (2).to_bytes(2) + NO_LEADER.to_bytes(2) + (0).to_bytes(4)
)  # fmt: skip


def test_fields_of_the_stream_protocol(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        fields = Fields(data)
        found = [*fields.strings(), *fields.mapping().items(), fields.string()]
        assert len(found) <= len(data)

    fuzz(Case("stream fields", decode, [TEXTS], (Unavailable,)), long_run)


def test_metadata_of_the_stream_protocol(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        for found in parse_metadata(Fields(data)).values():
            assert len(found.replicas) <= len(data)

    fuzz(Case("stream metadata", decode, [METADATA], (Unavailable,)), long_run)


class Answers(asyncio.Transport):
    """Where answers to the broker go: nowhere."""

    def write(self, data: Any) -> None:
        assert len(data) >= 8

    def abort(self) -> None: ...


async def test_frames_of_the_stream_protocol(long_run: bool) -> None:
    """Whatever a broker sends, the connection goes on or is lost with an error that says so."""
    rabbit = RabbitMQ("amqp://127.0.0.1")
    address = rabbit.stream_address(rabbit.addresses[0])
    corpus = [
        frame(Command.DELIVER, chunks()[0][4:]),
        frame(Command.PUBLISH_CONFIRM, b"\1" + (2).to_bytes(4) + (7).to_bytes(8) + (8).to_bytes(8)),
        frame(Command.PUBLISH_ERROR, b"\1" + (1).to_bytes(4) + (7).to_bytes(8) + (18).to_bytes(2)),
        frame(Command.METADATA | RESPONSE, (1).to_bytes(4) + METADATA),
        frame(Command.PEER_PROPERTIES | RESPONSE, (1).to_bytes(4) + (1).to_bytes(2) + mapping({"version": "3"})),
        frame(Command.CREDIT | RESPONSE, (1).to_bytes(2) + b"\1"),
        frame(Command.CREDIT | RESPONSE, (1).to_bytes(2)),
        frame(Command.DELIVER, b""),
        frame(Command.TUNE, (1 << 20).to_bytes(4) + (60).to_bytes(4)),
        frame(Command.METADATA_UPDATE, (6).to_bytes(2) + string("orders")),
        frame(Command.HEARTBEAT, b"") + frame(Command.CLOSE, (1).to_bytes(4) + (1).to_bytes(2) + string("bye")),
    ]
    kinds: set[str] = set()

    def deliver(data: bytes) -> None:
        read_chunk(data)

    def decode(data: bytes) -> None:
        link = StreamLink(rabbit, address, 60)
        link.connection_made(Answers())
        link.deliver[1] = deliver
        link.confirmed[1] = lambda ids: None
        link.refused[1] = lambda number, code: None
        link.data_received(data)
        if link.lost.done():
            error = link.lost.result()
            assert isinstance(error, ConnectorError)
            assert error.hint
            kinds.add(type(error).__name__)
            raise error

    fuzz(Case("stream frames", decode, corpus, (ConnectorError,)), long_run)
    assert {"ConnectorError", "Unavailable"} <= kinds


def test_rabbitmq_frames(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        assert 1 + sum(map(len, rabbit_frames.unpack(data))) == len(data)

    corpus = [b"\0" + EMPTY_TABLE + b"payload", b"\3a.b" + table({"sf-key": "ann", "x": "y"}) + b"payload"]
    fuzz(Case("rabbitmq frames", decode, corpus, (ValueError,)), long_run)


def test_rabbitmq_markers(long_run: bool) -> None:
    somewhere: Any = SimpleNamespace(rabbit="rabbit")
    marker = MarkerQueue(somewhere, "sf.f.i.0.out", 1)

    def decode(data: bytes) -> None:
        found = marker._decode(data)
        assert isinstance(found, Mark)
        assert all(type(number) is int for number in (found.at, found.generation, *found.missing))

    corpus = [
        b'{"made":"abc"}',
        b'{"made":"abc","at":7,"generation":2,"missing":[3,4],"run":"r","sure_at":5,"sure_missing":[1]}',
        b'{"made":"abc","at":7,"more":{"deep":[[[[]]]]}}',
    ]
    fuzz(Case("rabbitmq markers", decode, corpus, (ConnectorError,)), long_run)


# -- Kafka --


def kafka_batch(codec: int = 0, *, transactional: bool = False, start: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, transactional, 7 if transactional else -1, 0, 0, LIMIT_BYTES)
    for at in range(5):
        headers = [("a", b"1"), ("b", None)] if at else []
        assert builder.append(
            start + at, timestamp=1000, key=b"k" if at % 2 else None, value=b"value" * at, headers=headers
        )
    return bytes(builder.build())


BATCHES = [kafka_batch(), kafka_batch() + kafka_batch(GZIP), *map(kafka_batch, CODECS), kafka_batch(transactional=True)]


def test_batches_of_kafka_are_found(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        found = split(data, "t:0")
        assert sum(len(each.data) for each in found) <= len(data)
        assert all(len(each.data) >= HEAD_BYTES for each in found)

    fuzz(Case("kafka split", decode, BATCHES, (ConnectorError,)), long_run)


def test_records_of_kafka(long_run: bool) -> None:
    """Checksums are set right, so that what a producer wrote wrong is reached."""

    def decode(data: bytes) -> None:
        mended = bytearray(data)
        for each in split(data, "t:0"):
            start = data.index(each.data)
            checksum = calc_crc32c(bytes(each.data[BEHIND_CRC:]))
            mended[start + CRC_AT : start + BEHIND_CRC] = checksum.to_bytes(4)
        found = Batches("t:0", split(bytes(mended), "t:0"), [(7, 0)], size_bytes_max=LIMIT_BYTES)
        records = 0
        while not found.empty:
            some, _ = found.take(-(2**63), 100)
            records += len(some)
        assert records <= len(data) + LIMIT_BYTES

    fuzz(Case("kafka records", decode, BATCHES, (DecodeError, ConnectorError)), long_run)


@pytest.mark.parametrize("codec", CODECS, ids=CODECS.values())
def test_what_kafka_compresses(codec: int, long_run: bool) -> None:
    def decode(data: bytes) -> None:
        assert HEAD_BYTES <= len(inflate(codec, memoryview(data), HEAD_BYTES, LIMIT_BYTES)) <= HEAD_BYTES + LIMIT_BYTES

    pack: dict[int, Any] = {
        GZIP: gzip.compress, SNAPPY: cramjam.snappy.compress_raw, LZ4: cramjam.lz4.compress, ZSTD: cramjam.zstd.compress
    }  # fmt: skip
    corpus = [bytes(pack[codec](data)) for data in (b"", b"ab" * 500, bytes(range(256)), bytes(2 * LIMIT_BYTES))]
    if codec == SNAPPY:
        block = corpus[1]
        corpus.append(b"\x82SNAPPY\0" + bytes(8) + len(block).to_bytes(4) + block)
    fuzz(Case(f"kafka {CODECS[codec]}", decode, corpus, (ValueError,)), long_run)


def test_kafka_frames(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        found = kafka_frames.unpack(data)
        assert sum(map(len, filter(None, (found.key, found.value)))) <= len(data)

    some = [
        kafka_frames.Frame(None, b"payload"),
        kafka_frames.Frame(b"key", b"payload", 7),
        kafka_frames.Frame(b"key", None, None, [("a", b"1"), ("größe", b"")]),
    ]
    fuzz(Case("kafka frames", decode, [*map(kafka_frames.pack, some)], (ValueError,)), long_run)


def test_kafka_markers(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        found = _marker(7, data.decode("utf-8", "replace"), "sf.f.i.0.out")
        assert type(found.generation) is int

    corpus = [
        Marker(7, 2, "p.1", "0011223344556677").metadata().encode(),
        b'{"gen":3}',
        b'{"gen":3,"more":{"deep":[[[[]]]]}}',
    ]
    fuzz(Case("kafka markers", decode, corpus, (ConnectorError,)), long_run)


def test_a_batch_of_kafka_that_is_shorter_than_its_header_is_asked_for_again() -> None:
    """Its length is what the next batch is found by: one that leads back would be read for ever."""
    whole = kafka_batch()
    for length in (-12, -(2**31), 0, HEAD_BYTES - 13):
        with pytest.raises(Unavailable, match="arrived damaged"):
            split(whole + whole[:8] + struct.pack(">i", length) + whole[12:], "t:0")
