"""What the conformance kit does not say about memory topics: their face, queue mode, and faults."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

import pytest

from streamflow.batch import Chunk, Fragment, MicroBatch, Position, Progress, Taken, pack_frames
from streamflow.connect.contracts import Sink, SinkContext, SinkOptions, SinkSpec, Source, SourceContext, SourceSpec
from streamflow.connect.memory import MemoryTopic
from streamflow.connect.memory_frames import Heads
from streamflow.connect.memory_log import READ_RECORDS_MAX
from streamflow.errors import DefinitionError, EncodeError, Fenced, NotFound, PositionAhead, RetentionGap, SinkAhead


@dataclass
class Order:
    user: str
    amount: int


class Level(enum.IntEnum):
    LOW = 1


async def opened(topic: MemoryTopic, resume=None, seen=frozenset()) -> Source:
    source = topic.source()
    await source.open(SourceContext("flow", "in", 0, "abc", 1, seen), resume or {})
    return source


async def opened_sink(topic: MemoryTopic, generation=1, options=SinkOptions()) -> Sink:  # noqa: B008 - frozen
    sink = topic.sink(options)
    await sink.open(SinkContext("flow", "out", 0, "abc", generation))
    return sink


def chunk(sink: Sink, *values, first_seq=1, epoch=1, keys=None) -> Chunk:
    frames = sink.encode(Fragment(MicroBatch(1, 0), list(values), True, keys))
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


def test_is_source_and_sink_spec():
    topic = MemoryTopic("orders", value=Order)
    assert isinstance(topic, SourceSpec)
    assert isinstance(topic, SinkSpec)
    assert repr(topic) == "MemoryTopic('orders')"


@pytest.mark.parametrize("partitions", [(), "ab", ("a", "a")])
def test_partitions_must_be_different_names(partitions):
    with pytest.raises(DefinitionError):
        MemoryTopic("orders", partitions=partitions)


def test_start_must_be_known():
    with pytest.raises(DefinitionError):
        MemoryTopic("orders", start="newest")  # type: ignore[call-overload]


async def test_typed_values_are_stored_as_bytes():
    topic = MemoryTopic("orders", value=Order)
    topic.send(Order("ann", 3), key=b"ann", headers={"h": "1"}, timestamp_ms=7)
    topic.send_all([Order("bob", 4)])
    assert topic.values == [Order("ann", 3), Order("bob", 4)]
    assert topic.records[0].key == b"ann"
    assert topic.records[0].timestamp_ms == 7
    batch = await (await opened(topic)).read()
    assert batch is not None
    assert batch.payloads == [b'{"user":"ann","amount":3}', b'{"user":"bob","amount":4}']
    assert batch.keys == [b"ann", None]
    assert batch.headers == [{"h": "1"}, None]
    assert batch.timestamps_ms == [7, 0]
    assert list(batch.positions or ()) == [1, 2]


async def test_untyped_values_are_kept_as_they_are():
    topic = MemoryTopic("orders")
    order = Order("ann", 3)
    topic.send(order)
    batch = await (await opened(topic)).read()
    assert batch is not None
    assert batch.payloads[0] is order
    sink = await opened_sink(topic)
    await sink.publish([chunk(sink, order, [1, None])], Progress(0, 1))
    assert topic.values == [order, {"user": "ann", "amount": 3}, [1, None]]


async def test_sending_needs_a_partition_and_an_open_input():
    topic = MemoryTopic("orders", partitions=("a", "b"))
    with pytest.raises(NotFound, match="no partition 'c'"):
        topic.send(1, "c")
    topic.close_input()
    with pytest.raises(ValueError, match="closed"):
        topic.send(1, "a")


async def test_partitions_take_turns():
    topic = MemoryTopic("orders", partitions=("a", "b"))
    topic.send_all(range(2 * READ_RECORDS_MAX + 352), "a")
    topic.send_all(range(READ_RECORDS_MAX + 176), "b")
    source = await opened(topic)
    batches = [await source.read() for _ in range(5)]
    assert [(batch.partition, len(batch)) for batch in batches if batch] == [
        ("a", READ_RECORDS_MAX),
        ("b", READ_RECORDS_MAX),
        ("a", READ_RECORDS_MAX),
        ("b", 176),
        ("a", 352),
    ]


async def test_latest_starts_behind_what_is_there():
    topic = MemoryTopic("orders", start="latest")
    topic.send_all([1, 2])
    source = topic.source()
    assert await source.open(SourceContext("flow", "in", 0, "abc", 1), {}) == {"": Position(2, "1")}
    topic.send(3)
    batch = await source.read()
    assert batch is not None
    assert batch.payloads == [3]


async def test_what_happens_to_an_open_source_is_noticed():
    topic = MemoryTopic("orders")
    topic.send_all(range(10))
    source = await opened(topic)
    topic.truncate_before(5)
    with pytest.raises(RetentionGap):
        await source.read()
    source = await opened(topic, {"": Position(10, "1")})
    topic.truncate_from(7)
    with pytest.raises(PositionAhead):
        await source.read()


async def test_a_crashed_reader_on_a_closed_loop_is_forgotten():
    topic = MemoryTopic("orders")

    async def crash() -> None:
        source = await opened(topic)
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        abandoned.append(reading)

    abandoned: list[asyncio.Future] = []
    loop = asyncio.new_event_loop()
    await asyncio.to_thread(loop.run_until_complete, crash())
    loop.close()
    topic.send(1)
    assert topic.values == [1]
    abandoned[0]._log_destroy_pending = False  # type: ignore[attr-defined] # it is meant to be left pending


async def test_a_queue_forgets_what_is_acknowledged():
    topic = MemoryTopic("jobs", ids=True)
    topic.send_all(range(5))
    source = await opened(topic)
    batch = await source.read()
    assert batch is not None
    assert batch.ids is not None
    await source.committed(1, Taken(ids=batch.ids[:2]))
    assert topic.values == [2, 3, 4]
    topic.lose_acks = True
    await source.committed(2, Taken(ids=batch.ids[2:]))
    assert topic.values == [2, 3, 4]
    assert await source.ends() == {"": None}


async def test_a_queue_with_a_long_acknowledged_stretch_goes_on():
    topic = MemoryTopic("jobs", ids=True)
    total = 2 * READ_RECORDS_MAX
    topic.send_all(range(total))
    first = await opened(topic)
    ids = [name for _ in range(2) for name in (await first.read()).ids]  # type: ignore[union-attr]
    again = await opened(topic, seen=set(ids[1 : total - 300]))
    rest = [await again.read() for _ in range(2)]
    assert [value for batch in rest if batch for value in batch.payloads] == [0, *range(total - 300, total)]


async def test_ids_of_a_replaced_queue_acknowledge_nothing():
    topic = MemoryTopic("jobs", ids=True)
    topic.send(1)
    source = await opened(topic)
    batch = await source.read()
    assert batch is not None
    topic.replace()
    topic.send(2)
    await source.committed(1, Taken(ids=batch.ids or ()))
    assert topic.values == [2]


async def test_keys_headers_and_partitions_of_a_sink():
    topic = MemoryTopic("out", value=Order, partitions=("a", "b"))
    options = SinkOptions(
        key=lambda order: order.user,
        headers=lambda order: {"n": str(order.amount)},
        partition=lambda order: order.amount,
    )
    sink = await opened_sink(topic, options=options)
    await sink.publish([chunk(sink, Order("ann", 1), Order("bob", 0))], Progress(0, 1))
    assert [(record.partition, record.key, record.headers) for record in topic.records] == [
        ("a", b"bob", {"n": "0"}),
        ("b", b"ann", {"n": "1"}),
    ]
    with pytest.raises(EncodeError, match="partition 2 of 2"):
        chunk(sink, Order("ann", 2))


async def test_a_key_is_kept_when_it_is_asked_for():
    keys = {1: "ann", 2: 7, 3: ("a", 1), 4: None}
    for options, kept in ((SinkOptions(), [None] * 4), (SinkOptions(keys.get), [b"ann", b"7", b'["a",1]', None])):
        topic = MemoryTopic("out", value=int)
        sink = await opened_sink(topic, options=options)
        await sink.publish([chunk(sink, *keys, keys=["stream's own"] * 4)], Progress(0, 1))
        assert [record.key for record in topic.records] == kept


async def test_equal_keys_of_other_types_stay_apart():
    topic = MemoryTopic("out", value=int)
    sink = await opened_sink(topic, options=SinkOptions({1: 1, 2: None, 3: Level.LOW, 4: 1}.get))
    chunks = [chunk(sink, 1, 2), chunk(sink, 3, 4, first_seq=3, epoch=2)]
    await sink.publish(chunks, Progress(0, 1))
    assert [record.key for record in topic.records] == [b"1", None, b'{"enum":1}', b"1"]


async def test_what_is_published_and_sent_keeps_its_order():
    topic = MemoryTopic("out", value=int)
    sink = await opened_sink(topic, options=SinkOptions({1: "a", 2: "b", 4: "d", 5: "e"}.get))
    await sink.publish([chunk(sink, 1, 2)], Progress(0, 1))
    topic.send(3, key=b"c")
    await sink.publish([chunk(sink, 4, 5, first_seq=3, epoch=2)], Progress(1, 3))
    topic.truncate_before(1)
    topic.truncate_from(4)
    await sink.publish([chunk(sink, 6, first_seq=5, epoch=3)], Progress(2, 5))
    assert [(record.offset, record.value, record.key) for record in topic.records] == [
        (1, 2, b"b"),
        (2, 3, b"c"),
        (3, 4, b"d"),
        (4, 6, None),
    ]


async def test_a_partition_that_is_gone_stores_nothing():
    before, after = MemoryTopic("out", partitions=("a", "b")), MemoryTopic("out", partitions=("a",))
    maker = await opened_sink(before, options=SinkOptions(partition=lambda value: value))
    sink = await opened_sink(after)
    with pytest.raises(NotFound, match="no partition 'b'"):
        await sink.publish([chunk(maker, 0, 1)], Progress(0, 1))
    assert after.records == []


def test_only_so_many_keys_are_remembered(monkeypatch):
    monkeypatch.setattr("streamflow.connect.memory_frames.HEADS_MAX", 2)
    heads = Heads()
    assert list(heads.of(["a", "b", "c", "a"])) == [b"\1\0\0\0\1" + key for key in (b"a", b"b", b"c", b"a")]
    assert len(heads) == 2


@pytest.mark.parametrize("after", [0, 1, 3, None])
async def test_a_publish_fails_where_it_is_told_to(after):
    topic = MemoryTopic("out")
    sink = await opened_sink(topic)
    baseline = await sink.recover(None, [])
    pending = [chunk(sink, 1, 2, 3)]
    topic.fail_next_publish(OSError("cut"), after=after)
    with pytest.raises(OSError, match="cut"):
        await sink.publish(pending, baseline)
    assert topic.values == [1, 2, 3][:after]
    found = await sink.recover(baseline, pending)
    assert found.next_seq == len(topic.values) + 1
    assert await sink.publish(pending, found) == Progress(1, 4)
    assert topic.values == [1, 2, 3]


async def test_a_blind_topic_doubles_what_was_not_acknowledged():
    topic = MemoryTopic("out", blind=True)
    sink = await opened_sink(topic)
    baseline = await sink.recover(None, [])
    pending = [chunk(sink, 1, 2)]
    topic.fail_next_publish(OSError("cut"), after=1)
    with pytest.raises(OSError, match="cut"):
        await sink.publish(pending, baseline)
    await sink.publish(pending, await sink.recover(baseline, pending))
    assert topic.values == [1, 1, 2]


async def test_an_older_generation_takes_no_fence_and_hears_the_truth():
    topic = MemoryTopic("out")
    newer = await opened_sink(topic, 5)
    await newer.publish([chunk(newer, 1, 2)], Progress(0, 1))
    older = await opened_sink(topic, 4)
    with pytest.raises(SinkAhead):
        await older.recover(Progress(0, 1), [])
    with pytest.raises(Fenced):
        await older.recover(Progress(1, 3), [])
    await newer.publish([chunk(newer, 3, first_seq=3, epoch=2)], Progress(1, 3))
    assert topic.values == [1, 2, 3]


async def test_sinks_of_other_names_do_not_disturb_each_other():
    topic = MemoryTopic("out")
    one, two = topic.sink(SinkOptions()), topic.sink(SinkOptions())
    await one.open(SinkContext("flow", "one", 0, "abc", 1))
    await two.open(SinkContext("flow", "two", 0, "abc", 1))
    await one.publish([chunk(one, 1)], await one.recover(None, []))
    await two.publish([chunk(two, 2)], await two.recover(None, []))
    await one.publish([chunk(one, 3, first_seq=2, epoch=2)], Progress(1, 2))
    assert topic.values == [1, 2, 3]
