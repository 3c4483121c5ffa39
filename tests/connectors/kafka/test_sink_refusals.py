"""What the Kafka sink, or the server behind it, refuses: named by record, setting or topic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamflow.batch import Chunk, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow.errors import (
    ConnectorError,
    EncodeError,
    NotFound,
    RecordRejected,
    Unavailable,
)
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.stage import Stage, chunk, fragment, values_of


async def test_too_large_for_the_topic_is_known_at_encode(broker: Broker):
    each = Stage(broker, await broker.topic(**{"max.message.bytes": "2000"}))
    sink, at = await each.begun()
    with pytest.raises(EncodeError, match="the limit is") as caught:
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
    await each.set_limit(2000)
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
    await each.set_limit(2000)
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
