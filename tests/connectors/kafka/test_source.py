"""The source on a real server: transactions, tombstones, compaction, new partitions and topics, refusals, reports."""

from __future__ import annotations

import asyncio
import time

import pytest

from streamflow.batch import Position, Taken
from streamflow.errors import NotFound, RetentionGap, SourceReplaced, Unavailable
from streamflow_kafka import Options
from tests.connectors.kafka.broker import Broker
from tests.connectors.kafka.kit import batches, nothing, opened, payloads, started, take


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def until_refused(source, found) -> None:
    while True:
        found += await take(source, 1)


async def test_headers_keys_and_times_are_delivered(broker: Broker):
    topic = await broker.topic()
    before = time.time() * 1000
    await broker.feed(topic, b"1")
    await broker.feed(topic, b"2", key=b"ann", headers=[("a", "ä b".encode()), ("raw", b"\xff"), ("a", b"last")])
    await broker.feed(topic, b"3", headers=[("null", None)])
    found = await batches(await opened(broker.kafka.topic(topic)), 3)
    headers = [each for batch in found for each in (batch.headers or [None] * len(batch))]
    keys = [each for batch in found for each in (batch.keys or [None] * len(batch))]
    times = [each for batch in found for each in batch.timestamps_ms or []]
    assert headers == [None, {"a": "last", "raw": "\udcff"}, {"null": ""}]
    assert (headers[1] or {})["raw"].encode("utf-8", "surrogateescape") == b"\xff"
    assert keys == [None, b"ann", None]
    assert len(times) == 3
    assert all(before - 5000 < at < before + 60_000 for at in times)


async def test_only_committed_records_come_and_the_position_passes_the_others(broker: Broker):
    topic = await broker.topic()
    async with broker.other_producer(transactional_id=f"tx-{topic}") as producer:
        for kind in ("good", "bad", "good", "bad", "bad"):
            await producer.begin_transaction()
            for number in range(30):
                await producer.send(topic, f"{kind}{number}".encode(), partition=0)
            await producer.flush()
            await (producer.commit_transaction if kind == "good" else producer.abort_transaction)()
        source = await opened(broker.kafka.topic(topic))
        found = await batches(source, 60)
        values = [value.decode() for batch in found for value in batch.payloads]
        assert values == 2 * [f"good{number}" for number in range(30)]
        ends = (await source.ends())[f"{topic}:0"]
        at = max(batch.end for batch in found)
        async with asyncio.timeout(5):
            while at < ends.at:
                batch = await source.read()
                assert not batch.payloads
                at = batch.end
        # 5 transactions of 30 records and a marker each
        assert at == ends.at == 5 * 31
        # behind the aborted ones there is nothing to read again, and nothing is passed over
        again = await opened(broker.kafka.topic(topic), {f"{topic}:0": Position(at, ends.identity)})
        await broker.feed(topic, b"later")
        assert await take(again, 1) == [(f"{topic}:0", b"later", at + 1)]


async def test_records_of_an_open_transaction_do_not_come(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, b"before")
    async with broker.other_producer(transactional_id=f"tx-{topic}") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"inside", partition=0)
        await broker.feed(topic, b"after")
        source = await opened(broker.kafka.topic(topic))
        assert await payloads(source, 1) == [b"before"]
        assert (await source.ends())[f"{topic}:0"].at == 1
        await nothing(source)
        latest = await opened(broker.kafka.topic(topic, start="latest"))
        await producer.commit_transaction()
        assert await payloads(source, 2) == [b"inside", b"after"]
        assert await payloads(latest, 2) == [b"inside", b"after"]


async def test_the_same_after_every_record(broker: Broker):
    """Batches, transactions, aborted ones and compression: resumed anywhere, what follows is the same."""
    topic = await broker.topic()
    await broker.feed_batch(topic, numbers(0, 7), compression="gzip")
    async with broker.other_producer(transactional_id=f"tx-{topic}", compression_type="lz4") as producer:
        for number in range(4):
            await producer.begin_transaction()
            for each in numbers(10 * number, 10 * number + 3):
                await producer.send(topic, each, partition=0)
            await (producer.abort_transaction if number % 2 else producer.commit_transaction)()
    await broker.feed_batch(topic, numbers(100, 104), compression="zstd")
    await broker.feed_batch(topic, numbers(200, 204), compression="snappy")
    source = await opened(broker.kafka.topic(topic))
    found = await take(source, 7 + 6 + 8)
    identity = (await source.ends())[f"{topic}:0"].identity
    assert [payload for _, payload, _ in found[:10]] == [*numbers(0, 7), *numbers(0, 3)]
    for taken in range(len(found)):
        again = await opened(
            broker.kafka.topic(topic), {f"{topic}:0": Position(found[taken][2] if taken else 0, identity)}
        )
        rest = len(found) - taken - 1 if taken else len(found)
        assert await take(again, rest) == found[len(found) - rest :]
        await again.close()


async def test_tombstones_come_as_none(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, b"x", None, key=b"k")
    source = await opened(broker.kafka.topic(topic, nulls=True))
    assert await payloads(source, 2) == [b"x", None]


async def test_a_compacted_topic_is_read_over_its_holes(broker: Broker):
    topic = await broker.topic(
        **{
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "100",
        }
    )
    for number in range(30):
        await broker.feed(topic, b"%d" % number, key=b"k%d" % (number % 2))
    await asyncio.sleep(0.2)
    await broker.feed(topic, b"last", key=b"z")
    spec = broker.kafka.topic(topic)
    resume = {f"{topic}:0": Position(3, (await (await opened(spec)).ends())[f"{topic}:0"].identity)}
    async with asyncio.timeout(30):
        while len(found := await until_last(await opened(spec, resume))) != 3:
            await asyncio.sleep(0.2)
    assert [payload for _, payload, _ in found] == [b"28", b"29", b"last"]
    assert [at for _, _, at in found] == [29, 30, 31]
    # the position lies in a hole now, and what comes behind it is the same
    again = await opened(spec, {f"{topic}:0": Position(20, resume[f"{topic}:0"].identity)})
    assert await until_last(again) == found


async def until_last(source) -> list[tuple[str, bytes, int]]:
    """Reads up to the record that says that it is the last."""
    found = await take(source, 1)
    while found[-1][1] != b"last":
        found += await take(source, 1)
    return found


async def test_latest_starts_behind_what_is_there(broker: Broker):
    topic = await broker.topic(2)
    await broker.feed(topic, *numbers(0, 3))
    spec = broker.kafka.topic(topic, start="latest")
    source, starts = await started(spec)
    assert {name: start.at for name, start in starts.items()} == {f"{topic}:0": 3, f"{topic}:1": 0}
    await nothing(source)
    await broker.feed(topic, b"3")
    assert await take(source, 1) == [(f"{topic}:0", b"3", 4)]
    await source.close()
    again = await opened(spec, starts)
    assert await take(again, 1) == [(f"{topic}:0", b"3", 4)]


async def test_a_new_partition_is_found_stored_and_read_from_its_beginning(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, b"old")
    told: list[dict[str, Position]] = []
    read_before_pin: list[int] = []

    async def pin(starts) -> None:
        read_before_pin.append(len(found))
        await asyncio.sleep(0.3)
        told.append(dict(starts))

    found: list[tuple[str, bytes, int]] = []
    spec = broker.kafka.topic(topic, start="latest")
    source = await opened(spec, pin=pin)
    await broker.grow(topic, 3)
    await broker.feed(topic, b"one", partition=1)
    await broker.feed(topic, b"two", partition=2)
    async with asyncio.timeout(10):
        while len(found) < 2:
            found += await take(source, 1)
            assert told, "a record came before its partition's start was stored"
    assert sorted(found) == [(f"{topic}:1", b"one", 1), (f"{topic}:2", b"two", 1)]
    assert {name: start.at for starts in told for name, start in starts.items()} == {f"{topic}:1": 0, f"{topic}:2": 0}
    assert read_before_pin[0] == 0
    assert set(await source.ends()) == {f"{topic}:{number}" for number in range(3)}


async def test_a_partition_made_while_the_flow_was_down_starts_at_its_beginning(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, b"old")
    spec = broker.kafka.topic(topic, start="latest")
    source, starts = await started(spec)
    await source.close()
    await broker.grow(topic, 2)
    await broker.feed(topic, *numbers(0, 4), partition=1)
    assert await take(await opened(spec, starts), 4) == [
        (f"{topic}:1", each, at + 1) for at, each in enumerate(numbers(0, 4))
    ]
    await broker.delete_records(topic, 2, 1)
    with pytest.raises(RetentionGap, match=rf"{topic}:1 .*begins at 2, but 0 comes next") as refused:
        await opened(spec, starts)
    assert refused.value.hint


async def test_topics_that_match_later_are_read_from_their_beginning(broker: Broker):
    first = await broker.topic()
    spec = broker.kafka.topics(pattern=f"{first}(-.*)?", start="latest")
    source, starts = await started(spec)
    second = await broker.topic(name=f"{first}-b")
    await broker.topic(name=f"x-{first}-b")
    await broker.feed(second, *numbers(0, 3))
    await broker.feed(f"x-{first}-b", b"no match")
    assert await take(source, 3) == [(f"{second}:0", each, at + 1) for at, each in enumerate(numbers(0, 3))]
    await source.close()
    # the same if it appears while the flow is down
    assert await payloads(await opened(spec, starts), 3) == numbers(0, 3)


async def test_several_topics_and_one_more_later(broker: Broker):
    names = [await broker.topic() for _ in range(3)]
    for name in names:
        await broker.feed(name, name.encode())
    source, starts = await started(broker.kafka.topics(*names[:2]))
    assert sorted(await payloads(source, 2)) == sorted(name.encode() for name in names[:2])
    await source.close()
    resume = {name: Position(1, start.identity) for name, start in starts.items()}
    # a topic that is named anew starts as the spec says; one that is named no more is left alone
    assert await payloads(await opened(broker.kafka.topics(*names[1:]), resume), 1) == [names[2].encode()]
    await nothing(await opened(broker.kafka.topics(*names[1:], start="latest"), resume))


async def test_a_topic_that_is_deleted_while_it_is_read(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, b"1")
    source = await opened(broker.kafka.topic(topic, options=Options(timeout_seconds=1, refresh_seconds=0.1)))
    assert await payloads(source, 1) == [b"1"]
    await broker.delete(topic)
    with pytest.raises(Unavailable, match=topic) as lost:
        await payloads(source, 1)
    assert lost.value.hint
    with pytest.raises(NotFound, match=f"no topic {topic}"):
        await opened(broker.kafka.topic(topic))
    assert topic not in await broker.admin.list_topics(), "it was made again by asking for it"


async def test_a_topic_made_anew_while_it_is_read_is_refused(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, *numbers(0, 5))
    source = await opened(broker.kafka.topic(topic))
    await payloads(source, 5)
    await broker.delete(topic)
    await broker.topic(1, topic)
    await broker.feed(topic, *numbers(0, 9))
    with pytest.raises(SourceReplaced, match="made again while it was read"):
        await payloads(source, 1)


async def test_records_that_expire_while_the_source_lags_are_a_gap(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, *[bytes(1000) for _ in range(60)])
    spec = broker.kafka.topic(topic, options=Options(fetch_partition_bytes=4000, fetch_bytes=4000, refresh_seconds=0.2))
    source = await opened(spec)
    found = await take(source, 1)
    resume = (await source.ends())[f"{topic}:0"]
    await broker.delete_records(topic, 50)
    with pytest.raises(Unavailable, match="has no offset"):
        await until_refused(source, found)
    assert len(found) < 50
    with pytest.raises(RetentionGap, match="begins at 50"):
        await opened(spec, {f"{topic}:0": Position(found[-1][2], resume.identity)})


async def test_a_missing_topic_is_not_made(broker: Broker):
    spec = broker.kafka.topic("nobody-made-this")
    with pytest.raises(NotFound, match="has no topic nobody-made-this") as refused:
        await opened(spec)
    assert "kafka-topics.sh --create" in refused.value.hint
    probe = await spec.source().probe()
    assert not probe.ok
    assert "nobody-made-this" in probe.problem
    with pytest.raises(NotFound, match=r"no topic like nobody\.\*"):
        await opened(broker.kafka.topics(pattern="nobody.*"))
    assert "nobody-made-this" not in await broker.admin.list_topics()


async def test_committed_positions_are_told_to_the_group_and_never_read(broker: Broker):
    topic = await broker.topic()
    await broker.feed(topic, *numbers(0, 10))
    source = await opened(broker.kafka.topic(topic), flow="lag", source="orders")
    await payloads(source, 10)
    for epoch in range(1, 5):
        await source.committed(epoch, Taken({f"{topic}:0": Position(2 * epoch)}))
    async with asyncio.timeout(15):
        while await broker.group_offset("lag.orders", topic) != 8:
            await asyncio.sleep(0.1)
    # the last report leaves with the source
    await source.committed(5, Taken({f"{topic}:0": Position(10)}))
    await source.close()
    assert await broker.group_offset("lag.orders", topic) == 10
    again = await opened(broker.kafka.topic(topic), flow="lag", source="orders")
    assert await payloads(again, 10) == numbers(0, 10)


async def test_paused_partitions_give_nothing_and_hold_up_nobody(broker: Broker):
    topic = await broker.topic(2)
    options = Options(fetch_bytes=20_000, fetch_partition_bytes=20_000, fetch_wait_seconds=0.2, refresh_seconds=5)
    for number in range(2):
        await broker.feed_batch(topic, [bytes(100) for _ in range(300)], number)
    source = await opened(broker.kafka.topic(topic, options=options))
    source.pause({f"{topic}:0"})
    await asyncio.sleep(0.5)  # both have been fetched by now: the paused one holds the room
    assert {partition for partition, _, _ in await take(source, 300)} == {f"{topic}:1"}
    await broker.feed_batch(topic, numbers(0, 5), 1)
    assert [payload for _, payload, _ in await take(source, 5)] == numbers(0, 5)
    await nothing(source)
    source.pause(set())
    rest = await take(source, 300)
    assert [at for _, _, at in rest] == list(range(1, 301))
    assert {partition for partition, _, _ in rest} == {f"{topic}:0"}


async def test_reads_that_are_cancelled_lose_nothing(broker: Broker):
    topic = await broker.topic(2)
    source = await opened(broker.kafka.topic(topic))
    feeding = asyncio.create_task(broker.feed(topic, *numbers(0, 200)))
    found: list[bytes] = []
    cancelled = 0
    while len(found) < 200:
        reading = asyncio.create_task(source.read())
        await asyncio.sleep(0.0005)
        if not reading.done():
            reading.cancel()
            cancelled += 1
        try:
            found += (await reading).payloads
        except asyncio.CancelledError:
            continue
    await feeding
    assert found == numbers(0, 200)
    assert cancelled > 20


async def test_memory_at_hand_is_bounded(broker: Broker):
    topic = await broker.topic(4)
    for number in range(4):
        for _ in range(5):
            await broker.feed_batch(topic, [bytes(1000) for _ in range(100)], number)
    options = Options(fetch_bytes=200_000, fetch_partition_bytes=100_000, refresh_seconds=5)
    source = await opened(broker.kafka.topic(topic, options=options))
    await asyncio.sleep(0.6)
    held = source._fetching._size_bytes
    # what is at hand when it was asked, and one more answer
    assert 0 < held <= 2 * options.fetch_bytes + 110_000
    assert len(await take(source, 2000)) == 2000
    assert source._fetching._size_bytes == 0
