"""Decompression has a bound: bombs are refused before they go off, with topic, partition and offset."""

from __future__ import annotations

import gzip
import random
import tracemalloc

import cramjam
import pytest
from aiokafka import codec as aiokafka_codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamflow.errors import ConnectorError, DecodeError, Unavailable
from streamflow_kafka import Options
from streamflow_kafka.batches import Batches, split
from streamflow_kafka.inflate import CODECS, GZIP, LZ4, SNAPPY, ZSTD, TooLarge, inflate
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.kit import batches, opened, payloads

ENCODERS = {
    GZIP: aiokafka_codec.gzip_encode,
    SNAPPY: aiokafka_codec.snappy_encode,
    LZ4: aiokafka_codec.lz4_encode,
    ZSTD: aiokafka_codec.zstd_encode,
}
MEBIBYTE = 1024 * 1024


def batch_of(*values: bytes | None, codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 256 * MEBIBYTE)
    for at, value in enumerate(values):
        assert builder.append(at, timestamp=1000, key=None, value=value, headers=[]) is not None
    return bytes(builder.build())


def all_of(data: bytes, size_bytes_max: int = MEBIBYTE) -> list[bytes]:
    found = Batches("t:0", split(data, "t:0"), [], size_bytes_max=size_bytes_max)
    records = []
    while not found.empty:
        some, _ = found.take(0, 100)
        records += some
    return [record.value for record in records]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, MEBIBYTE])
def test_what_aiokafka_compresses_comes_back(codec: int, size: int):
    rng = random.Random(size)
    for data in (bytes(size), rng.randbytes(size), b"ab" * (size // 2)):
        found = inflate(codec, memoryview(ENCODERS[codec](data)), 61, MEBIBYTE)
        assert found[61:] == data


def test_other_ways_of_writing_the_formats():
    data = b"a text that repeats, " * 50_000
    view = memoryview(bytes(cramjam.snappy.compress_raw(data)))
    assert inflate(SNAPPY, view, 0, len(data)) == data
    assert inflate(GZIP, memoryview(gzip.compress(data) + gzip.compress(b"more")), 0, len(data) + 4) == data + b"more"


@pytest.mark.parametrize("codec", CODECS)
def test_the_bound_is_exact(codec: int):
    data = random.Random(1).randbytes(50_000) + bytes(50_000)
    packed = memoryview(ENCODERS[codec](data))
    assert inflate(codec, packed, 0, len(data)) == data
    with pytest.raises(TooLarge):
        inflate(codec, packed, 0, len(data) - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_takes_no_memory(codec: int):
    bomb = memoryview(ENCODERS[codec](bytes(100 * MEBIBYTE)))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(codec, bomb, 61, MEBIBYTE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the compressed data, once more for some, and what the bound allows
    assert peak < 2 * len(bomb) + 4 * MEBIBYTE


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_data_is_refused(codec: int):
    packed = bytearray(ENCODERS[codec](random.Random(2).randbytes(5000)))
    for damaged in (packed[: len(packed) // 2], packed[:9], b"\xff" * 40):
        with pytest.raises(ValueError, match=r"damaged|cut off"):
            inflate(codec, memoryview(bytes(damaged)), 0, MEBIBYTE)
    with pytest.raises(ValueError, match="codec 7 is unknown"):
        inflate(7, memoryview(b"x"), 0, 10)


@pytest.mark.parametrize("codec", [0, *CODECS])
def test_records_of_every_codec(codec: int):
    values = [b"%d" % number * 10 for number in range(1000)]
    assert all_of(2 * batch_of(*values, codec=codec)) == 2 * values
    assert all_of(batch_of(b"x", None, codec=codec)) == [b"x", None]


def test_what_lies_before_an_offset_is_left_out():
    values = [b"%d" % number for number in range(300)]
    for at in (0, 1, 99, 100, 101, 250, 299):
        found = Batches("t:0", split(batch_of(*values, codec=ZSTD), "t:0"), [], size_bytes_max=MEBIBYTE)
        records, position = [], at
        while not found.empty:
            some, position = found.take(position, 100)
            records += some
        assert [record.value for record in records] == values[at:]
        assert position == 300


def test_a_flipped_bit_is_found_by_the_checksum():
    data = bytearray(batch_of(b"hello", b"world"))
    data[-3] ^= 1
    with pytest.raises(Unavailable, match="t:0: the records at offset 0 arrived damaged"):
        all_of(bytes(data))


def test_a_batch_that_is_cut_off_is_left_for_the_next_answer():
    data = batch_of(b"hello") + batch_of(b"world")
    assert [len(split(data[:-cut] if cut else data, "t:0")) for cut in (0, 1, 20, 70)] == [2, 1, 1, 1]


def test_formats_from_before_kafka_0_11_are_refused():
    data = bytearray(batch_of(b"hello"))
    data[16] = 1
    with pytest.raises(ConnectorError, match="offset 0 have message format 1") as refused:
        split(bytes(data), "t:0")
    assert refused.value.hint


@pytest.mark.parametrize("compression", list(CODECS.values()))
async def test_a_bomb_on_a_topic_is_refused_with_its_place(broker: Broker, compression: str):
    topic = await broker.topic(2)
    await broker.feed(topic, b"before", partition=1)
    await broker.feed_batch(topic, [bytes(MEBIBYTE)] * 20, 1, compression)
    spec = broker.kafka.topic(topic, options=Options(batch_bytes_max=MEBIBYTE))
    source = await opened(spec)
    assert await payloads(source, 1) == [b"before"]
    with pytest.raises(
        DecodeError, match=rf"{topic}:1: .*offset 1 .*batch_bytes_max = {MEBIBYTE} .*{compression}"
    ) as no:
        await source.read()
    assert "batch_bytes_max" in no.value.hint
    again = await opened(broker.kafka.topic(topic, options=QUICK))
    assert sum(len(each) for batch in await batches(again, 21) for each in batch.payloads) == 20 * MEBIBYTE + 6
