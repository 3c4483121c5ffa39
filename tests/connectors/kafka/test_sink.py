"""The Kafka sink on a real server: where records land, and what others see of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from streamflow.batch import pack_frames
from streamflow.errors import (
    EncodeError,
)
from streamflow_kafka.partitioner import STICKY_RECORDS, partition_of_key, partition_of_seq
from streamflow_kafka.settings import Compression
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.stage import Stage, chunk, fragment, values_of


async def test_a_plain_consumer_sees_key_headers_and_tombstones(stage: Stage):
    sink, at = await stage.begun(
        nulls=True, key=lambda value: value and value[0], headers=lambda value: {"kind": "ä"} if value else {}
    )
    await sink.publish([chunk(sink, 1, 1, ["apple", None, "bee"], ["x", "y", "z"])], at)
    first, second, third = await stage.records()
    assert (first.key, first.value, list(first.headers)) == (b"a", b"apple", [("kind", "ä".encode())])
    assert (second.key, second.value) == (None, None)
    # the last record of a transaction says whose it is, and its number
    assert dict(third.headers) == {"kind": "ä".encode(), "sf-fence": stage.fence.encode(), "sf-seq": b"3"}
    assert first.timestamp == third.timestamp > 1_700_000_000_000
    await stage.marker_at(4)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_compressed(stage: Stage, compression: Compression):
    sink, at = await stage.begun(options=replace(QUICK, compression=compression, batch_bytes=8 * 1024))
    values = [f"{number} {'x' * 100}" for number in range(1000)]
    await sink.publish([chunk(sink, 1, 1, values)], at)
    assert values_of(await stage.records()) == values


async def test_records_land_where_the_java_client_would_put_them(broker: Broker):
    each = Stage(broker, await broker.topic(partitions=5))
    sink, at = await each.begun()
    keys = [f"key-{number}" for number in range(200)]
    await sink.publish([chunk(sink, 1, 1, keys, keys)], at)
    records = await each.records()
    assert sorted(values_of(records), key=str) == sorted(keys)
    assert {record.partition for record in records} == set(range(5))
    assert all(record.partition == partition_of_key(record.key, 5) for record in records)
    await each.close()


async def test_without_a_key_the_number_decides_and_partition_overrides(broker: Broker):
    each = Stage(broker, await broker.topic(partitions=3))
    sink, at = await each.begun()
    count = 3 * STICKY_RECORDS
    at = await sink.publish([chunk(sink, 1, 1, [str(seq) for seq in range(1, count + 1)])], at)
    records = await each.records()
    assert all(record.partition == partition_of_seq(int(record.value), 3) for record in records)
    picky = await each.open(2, partition=lambda value: int(value) % 2, key=lambda value: "k")
    await picky.publish([chunk(picky, 2, count + 1, ["7", "8"])], await picky.recover(at, []))
    assert {record.value: record.partition for record in await each.records() if record.key} == {b"7": 1, b"8": 0}
    await each.close()


async def test_new_partitions_are_found_while_it_runs(broker: Broker):
    each = Stage(broker, await broker.topic(partitions=1))
    sink, at = await each.begun(partition=int)
    with pytest.raises(EncodeError, match="there is no partition 1: the topic has 1"):
        sink.encode(fragment(["1"]))
    at = await sink.publish([chunk(sink, 1, 1, ["0"])], at)
    await broker.grow(each.topic, 3)
    await asyncio.sleep(QUICK.refresh_seconds)
    at = await sink.publish([chunk(sink, 2, 2, ["0"])], at)
    await sink.publish([chunk(sink, 3, 3, ["1", "2"])], at)
    assert [(record.partition, record.value) for record in await each.records()] == [
        (0, b"0"), (0, b"0"), (1, b"1"), (2, b"2"),
    ]  # fmt: skip
    # and a cursor of one partition is good for three
    again = await each.open(2)
    assert (await again.recover(at, [chunk(sink, 3, 3, ["1", "2"])])).next_seq == 5
    await each.close()


async def test_many_partitions_in_many_small_batches(broker: Broker):
    each = Stage(broker, await broker.topic(partitions=12))
    sink, at = await each.begun(options=replace(QUICK, batch_bytes=600))
    values = [f"{number:05}" for number in range(3000)]
    await sink.publish([chunk(sink, 1, 1, values[:1500], values[:1500]), chunk(sink, 2, 1501, values[1500:])], at)
    records = await each.records()
    assert sorted(values_of(records), key=str) == values
    for number in range(12):
        found = [record.value for record in records if record.partition == number]
        assert found == sorted(found)
    await each.close()


async def test_records_that_were_given_up_are_left_out(stage: Stage):
    sink, at = await stage.begun()
    whole = chunk(sink, 1, 1, ["a", "b", "c"])
    left = replace(whole, payload=pack_frames([sink.encode(fragment(["a"]))[0], b"", b""]))
    at = await sink.publish([left], at)
    assert (at.next_seq, at.epoch) == (4, 1)
    nothing = replace(whole, epoch=2, first_seq=4, payload=pack_frames([b"", b"", b""]))
    at = await sink.publish([nothing], at)
    await stage.marker_at(7)
    assert values_of(await stage.records()) == ["a"]
    again = await stage.open(2)
    assert (await again.recover(at, [])).next_seq == 7


async def test_an_open_transaction_is_seen_by_readers_of_uncommitted_records_only(stage: Stage, monkeypatch):
    """What the guarantee says: exactly-once is for consumers that read committed records."""
    sink, at = await stage.begun()
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def held() -> None:
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr(sink._transactions, "commit", held)
    publishing = asyncio.create_task(sink.publish([chunk(sink, 1, 1, ["half"])], at))
    await waiting.wait()
    assert values_of(await stage.records("read_uncommitted")) == ["half"]
    await stage.broker.feed(stage.topic, b"behind it")
    again = await stage.open(2)
    assert (await again.recover(at, [chunk(sink, 1, 1, ["half"])])).next_seq == 1
    await again.publish([chunk(again, 1, 1, ["half"])], at)
    publishing.cancel()
    assert values_of(await stage.records()) == ["behind it", "half"]
    assert values_of(await stage.records("read_uncommitted")) == ["half", "behind it", "half"]
