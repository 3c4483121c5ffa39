"""The Kafka sink on a real server: where records land, what the marker tells, what happens when it is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import DeleteGroupsRequest

from streamflow.batch import Chunk, Fragment, MicroBatch, Progress, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow.errors import (
    ConnectorError,
    EncodeError,
    Fenced,
    NotFound,
    ProgressUnknown,
    RecordRejected,
    SinkAhead,
    Unavailable,
)
from streamflow_kafka import Kafka, KafkaTopic
from streamflow_kafka import marker as marker_module
from streamflow_kafka.marker import linked
from streamflow_kafka.partitioner import STICKY_RECORDS, partition_of_key, partition_of_seq
from streamflow_kafka.settings import Compression, Options
from streamflow_kafka.sink import Cursor, KafkaSink
from tests.connectors.kafka.broker import QUICK, Broker


class Stage:
    """A topic, and sinks that are closed when the test ends."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.broker, self.topic = broker, topic
        self.fence = f"sf.f.{topic}.0.out"
        self._sinks: list[KafkaSink] = []

    def spec(self, options: Options = QUICK, **more: Any) -> KafkaTopic[str]:
        spec: KafkaTopic[str] = Kafka(self.broker.server.url, options=options).topic(self.topic, value=str, **more)
        return spec

    async def open(self, generation: int = 1, *, options: Options = QUICK, nulls: bool = False, **to: Any) -> KafkaSink:
        sink = self.spec(options, nulls=nulls).sink(SinkOptions(**to))
        assert isinstance(sink, KafkaSink)
        self._sinks.append(sink)
        await sink.open(SinkContext("f", "out", 0, self.topic, generation))
        return sink

    async def begun(self, generation: int = 1, **to: Any) -> tuple[KafkaSink, Progress]:
        """A sink, and its baseline."""
        sink = await self.open(generation, **to)
        return sink, await sink.recover(None, [])

    async def close(self) -> None:
        for sink in self._sinks:
            await sink.close()

    # what an outsider sees

    async def records(self, isolation: str = "read_committed") -> list[Any]:
        """All records of the topic, partition by partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.broker.server.url, isolation_level=isolation, enable_auto_commit=False
        )
        await consumer.start()
        try:
            await consumer._client.add_topic(self.topic)
            places = [TopicPartition(self.topic, each) for each in sorted(consumer.partitions_for_topic(self.topic))]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            found: dict[Any, list[Any]] = {place: [] for place in places}
            while any([consumer.highwater(place) != await consumer.position(place) for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=20)).items():
                    found[place] += records
            return [record for place in places for record in found[place]]
        finally:
            await consumer.stop()

    async def marker(self) -> tuple[int, dict[str, Any]]:
        """The offset of the sink's group, as the admin client tells it."""
        found = await self.broker.admin.list_consumer_group_offsets(self.fence)
        assert set(found) <= {TopicPartition(self.topic, 0)}
        at = found.get(TopicPartition(self.topic, 0))
        return (-1, {}) if at is None or at.offset < 0 else (at.offset, json.loads(at.metadata))

    async def marker_at(self, offset: int) -> dict[str, Any]:
        """Waits until the marker stands there, a moment after the commit is answered; returns its metadata."""
        async with asyncio.timeout(5):
            while True:
                found, metadata = await self.marker()
                if found == offset:
                    return metadata
                await asyncio.sleep(0.01)

    async def forget_marker(self) -> None:
        """What a broker does by itself when nobody has moved the marker for offsets.retention.minutes."""
        assert (await self.marker())[0] >= 0
        client = self.broker.admin._client
        coordinator = await client.coordinator_lookup(0, self.fence)
        answer = await client.send(coordinator, DeleteGroupsRequest([self.fence]))
        assert [code for _, code in answer.results] == [0], answer
        assert (await self.marker())[0] < 0


@pytest.fixture
async def stage(broker: Broker) -> Any:
    each = Stage(broker, await broker.topic())
    yield each
    await each.close()


def fragment(values: Sequence[Any], keys: Sequence[Any] | None = None) -> Fragment:
    return Fragment(MicroBatch(1, 0), list(values), True, None if keys is None else list(keys))


def chunk(sink: Any, epoch: int, first_seq: int, values: Sequence[Any], keys: Sequence[Any] | None = None) -> Chunk:
    frames = list(sink.encode(fragment(values, keys)))
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


def values_of(records: Sequence[Any]) -> list[str | None]:
    return [None if record.value is None else record.value.decode() for record in records]


# -- what is published ------------------------------------------------------------------------------------------------


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


# -- what is refused --------------------------------------------------------------------------------------------------


async def test_too_large_for_the_topic_is_known_at_encode(broker: Broker):
    each = Stage(broker, await broker.topic(**{"max.message.bytes": "2000"}))
    sink, at = await each.begun()
    with pytest.raises(EncodeError, match="topic and settings take") as caught:
        sink.encode(fragment(["x" * 2000]))
    assert "max.message.bytes" in caught.value.hint
    at = await sink.publish([chunk(sink, 1, 1, ["x" * 1500] * 10)], at)
    assert len(await each.records()) == 10
    await each.close()


async def test_what_the_broker_refuses_for_good_is_named_by_its_number(broker: Broker):
    """The limit was lowered while the sink ran: it finds the record, and nothing of the run is visible."""
    each = Stage(broker, await broker.topic())
    sink, at = await each.begun()
    at = await sink.publish([chunk(sink, 1, 1, ["before"])], at)
    run = chunk(sink, 2, 2, ["small", "x" * 5000, "small"])
    await set_limit(each, 2000)
    with pytest.raises(RecordRejected) as caught:
        await sink.publish([run], at)
    assert caught.value.seq == 3
    assert "max.message.bytes" in caught.value.hint
    await sink.close()  # which lets readers go on: nothing of the run is there
    assert values_of(await each.records()) == ["before"]
    again = await each.open(2)
    at = await again.recover(at, [run])
    assert at.next_seq == 2
    frames = [*again.encode(fragment(["small"])), b"", *again.encode(fragment(["small"]))]
    await again.publish([replace(run, payload=pack_frames(frames))], at)
    assert values_of(await each.records()) == ["before", "small", "small"]
    await each.close()


async def test_a_batch_too_large_is_sent_in_smaller_ones(broker: Broker):
    each = Stage(broker, await broker.topic())
    sink, at = await each.begun()
    run = chunk(sink, 1, 1, ["x" * 500] * 20)
    await set_limit(each, 2000)
    at = await sink.publish([run], at)
    await sink.publish([chunk(sink, 2, 21, ["after"])], at)
    assert values_of(await each.records()) == ["x" * 500] * 20 + ["after"]
    await each.close()


async def test_a_compacted_topic_refuses_what_has_no_key(broker: Broker):
    each = Stage(broker, await broker.topic(**{"cleanup.policy": "compact"}))
    sink, at = await each.begun()
    with pytest.raises(RecordRejected, match="record 2") as caught:
        await sink.publish([chunk(sink, 1, 1, ["a", "b"], ["k", None])], at)
    assert "pass key=" in caught.value.hint
    await each.close()


async def test_a_frame_for_a_partition_that_has_gone_is_rejected(stage: Stage):
    wide = stage.spec().sink(SinkOptions(partition=lambda value: 5))
    frames = list(wide.encode(fragment(["x"])))  # before it is open, nobody knows how many there are
    sink, at = await stage.begun()
    with pytest.raises(RecordRejected, match="wants partition 5") as caught:
        await sink.publish([Chunk("out", 1, 0, 1, 1, pack_frames(frames))], at)
    assert caught.value.seq == 1


async def test_a_topic_that_is_not_there(stage: Stage):
    spec = stage.broker.kafka.topic("nowhere", value=str)
    with pytest.raises(NotFound, match="no topic nowhere"):
        await spec.sink(SinkOptions()).open(SinkContext("f", "out", 0, "i", 1))


async def test_transactions_longer_than_the_broker_allows(stage: Stage):
    with pytest.raises(ConnectorError, match="refuses transactions") as caught:
        await stage.open(options=replace(QUICK, transaction_timeout_seconds=100_000.0))
    assert "transaction.max.timeout.ms" in caught.value.hint


async def test_a_closed_sink_is_unavailable(stage: Stage):
    sink, at = await stage.begun()
    await sink.close()
    with pytest.raises(Unavailable, match="not open"):
        await sink.publish([chunk(sink, 1, 1, ["x"])], at)


# -- the marker -------------------------------------------------------------------------------------------------------


async def test_the_marker_says_who_and_what(stage: Stage):
    sink, at = await stage.begun(7)
    at = await sink.publish([chunk(sink, 1, 1, ["a", "b"])], at)
    metadata = await stage.marker_at(3)
    assert (metadata["gen"], metadata["process"]) == (7, marker_module.this_process())
    frames = list(sink.encode(fragment(["a", "b"])))
    assert metadata["link"] == linked("", frames) == linked("", [b"".join(frames)])
    cursor = msgspec.json.decode(at.cursor, type=Cursor)
    assert (cursor.ends, cursor.link) == ([2], metadata["link"])


async def test_a_lost_marker_is_replaced_by_what_the_topic_tells(stage: Stage):
    """Expired, and the store does not know of the last two transactions: they are found, and not sent again."""
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, 2 * epoch - 1, [f"{epoch}a", f"{epoch}b"]) for epoch in (1, 2, 3, 4)]
    stored = await sink.publish(runs[:1], baseline)
    at = await sink.publish(runs[1:2], stored)
    await stage.broker.feed(stage.topic, b"somebody else's")
    await sink.publish(runs[2:3], at)
    await sink.close()
    await stage.forget_marker()
    again = await stage.open(2)
    found = await again.recover(stored, runs[1:])
    assert (found.next_seq, found.epoch) == (7, 3)
    await again.publish(runs[3:], found)
    assert values_of(await stage.records()) == ["1a", "1b", "2a", "2b", "somebody else's", "3a", "3b", "4a", "4b"]
    await stage.marker_at(9)


async def test_a_lost_marker_where_nothing_was_published_since(stage: Stage):
    sink, baseline = await stage.begun()
    run = chunk(sink, 1, 1, ["a"])
    stored = await sink.publish([run], baseline)
    await stage.broker.feed(stage.topic, b"x", headers=[("sf-fence", b"sf.other"), ("sf-seq", b"99")])
    await stage.forget_marker()
    assert (await (await stage.open(2)).recover(stored, [])).next_seq == 2


async def test_an_aborted_transaction_does_not_count_in_the_tail(stage: Stage, monkeypatch):
    sink, baseline = await stage.begun()
    first, second = chunk(sink, 1, 1, ["a"]), chunk(sink, 2, 2, ["b"])
    stored = await sink.publish([first], baseline)

    async def never() -> None:
        raise Unavailable("lost")

    monkeypatch.setattr(sink._transactions, "commit", never)
    with pytest.raises(Unavailable, match="lost"):
        await sink.publish([second], stored)
    assert values_of(await stage.records("read_uncommitted")) == ["a", "b"]
    await stage.open(2)  # ends it
    await stage.forget_marker()
    again = await stage.open(3)
    assert (await again.recover(stored, [second])).next_seq == 2


async def test_a_lost_marker_and_deleted_records_are_refused(stage: Stage):
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, epoch, [str(epoch)]) for epoch in (1, 2, 3)]
    stored = await sink.publish(runs[:1], baseline)
    at = await sink.publish(runs[1:2], stored)
    await sink.publish(runs[2:], at)
    await stage.forget_marker()
    await stage.broker.delete_records(stage.topic, 3)
    with pytest.raises(ProgressUnknown, match="the records of") as caught:
        await (await stage.open(2)).recover(stored, runs[1:])
    assert "--accept-head" in caught.value.hint


async def test_a_lost_marker_of_a_compacted_topic_is_refused(broker: Broker):
    each = Stage(broker, await broker.topic(**{"cleanup.policy": "compact"}))
    sink, baseline = await each.begun()
    runs = [chunk(sink, epoch, epoch, [str(epoch)], ["k"]) for epoch in (1, 2)]
    stored = await sink.publish(runs[:1], baseline)
    await sink.publish(runs[1:], stored)
    await each.forget_marker()
    with pytest.raises(ProgressUnknown, match="is compacted"):
        await (await each.open(2)).recover(stored, runs[1:])
    await each.close()


async def test_the_head_can_be_accepted_when_nobody_can_know(stage: Stage):
    """What `reset --sink --accept-head` does: a baseline of now, behind all that is committed."""
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, epoch, [str(epoch)]) for epoch in (1, 2)]
    stored = await sink.publish(runs[:1], baseline)
    await sink.publish(runs[1:], stored)
    await stage.forget_marker()
    head = replace(await (await stage.open(2)).recover(None, []), epoch=2, next_seq=3)
    again = await stage.open(3)
    assert (await again.recover(head, [])).next_seq == 3
    await again.publish([chunk(again, 3, 3, ["3"])], head)
    assert values_of(await stage.records()) == ["1", "2", "3"]


async def test_a_topic_with_less_than_was_published_is_refused(stage: Stage):
    sink, baseline = await stage.begun()
    stored = await sink.publish([chunk(sink, 1, 1, ["a"])], baseline)
    cursor = msgspec.json.decode(stored.cursor, type=Cursor)
    ahead = replace(stored, cursor=msgspec.json.encode(Cursor(cursor.topic, [500], cursor.link)))
    with pytest.raises(ProgressUnknown, match="went back: partition 0 ends at 2, and did at 500"):
        await (await stage.open(2)).recover(ahead, [])


async def test_an_offset_that_is_no_marker_is_refused(stage: Stage):
    sink, baseline = await stage.begun()
    stored = await sink.publish([chunk(sink, 1, 1, ["a"])], baseline)
    await sink.close()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=stage.broker.server.url, group_id=stage.fence, enable_auto_commit=False
    )
    await consumer.start()
    place = TopicPartition(stage.topic, 0)
    consumer.assign([place])
    await consumer.commit({place: 1})
    await consumer.stop()
    with pytest.raises(ConnectorError, match="is no marker of streamflow"):
        await (await stage.open(2)).recover(stored, [])


# -- other instances --------------------------------------------------------------------------------------------------


async def test_other_content_under_the_same_numbers_is_fenced(stage: Stage):
    """Two copies of one store have committed different records: the second does not take the first's for its own."""
    sink, baseline = await stage.begun()
    await sink.publish([chunk(sink, 1, 1, ["a", "b"])], baseline)
    copy = await stage.open(2)
    with pytest.raises(Fenced, match="holds other content up to number 2"):
        await copy.recover(baseline, [chunk(copy, 1, 1, ["a", "c"])])
    assert (await copy.recover(baseline, [chunk(copy, 1, 1, ["a", "b"])])).next_seq == 3


async def test_a_copy_in_another_process_gives_way_undisturbing(stage: Stage, monkeypatch):
    """Of two processes with one generation the second does not even begin its producer."""
    first, at = await stage.begun(3)
    at = await first.publish([chunk(first, 1, 1, ["a"])], at)
    monkeypatch.setattr("streamflow_kafka.sink.this_process", lambda: "another")
    second = await stage.open(3)
    with pytest.raises(Fenced, match="of generation 3; this is 3"):
        await second.recover(at, [])
    older = await stage.open(2)
    with pytest.raises(Fenced, match="of generation 3; this is 2"):
        await older.recover(at, [])
    with pytest.raises(SinkAhead):
        await (await stage.open(2)).recover(None, [])
    monkeypatch.undo()
    await first.publish([chunk(first, 2, 2, ["b"])], at)
    assert values_of(await stage.records()) == ["a", "b"]


async def test_a_transaction_that_the_broker_gave_up_is_no_takeover(stage: Stage, monkeypatch):
    """A process that slept longer than its transaction may last goes on by itself."""
    options = replace(QUICK, transaction_timeout_seconds=1.0)
    sink, at = await stage.begun(options=options)
    run = chunk(sink, 1, 1, ["a"])
    commit = sink._transactions.commit

    async def late() -> None:
        await asyncio.sleep(2.0)  # the server of these tests looks every 0.2 s
        await commit()

    monkeypatch.setattr(sink._transactions, "commit", late)
    with pytest.raises(Unavailable, match="the broker has given it up"):
        await sink.publish([run], at)
    again = await stage.open(1)
    await again.publish([run], await again.recover(at, [run]))
    assert values_of(await stage.records()) == ["a"]


async def set_limit(stage: Stage, size_bytes: int) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, stage.topic, configs={"max.message.bytes": str(size_bytes)})
    await stage.broker.admin.alter_configs([resource])
    await asyncio.sleep(0.2)  # it is not in force at once
