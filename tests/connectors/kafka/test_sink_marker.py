"""The Kafka sink's marker on a real server: what it tells, what happens when it is gone, and other instances."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from streamflow.errors import (
    ConnectorError,
    Fenced,
    ProgressUnknown,
    SinkAhead,
    Unavailable,
)
from streamflow_kafka import marker as marker_module
from streamflow_kafka.marker import linked
from streamflow_kafka.sink import Cursor
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.stage import Stage, chunk, fragment, values_of


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
