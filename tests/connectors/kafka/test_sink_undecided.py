"""A marker that stays undecided though its transaction is over (error 88), or records do, as after a kill."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer

from streamflow.errors import Fenced, ProgressUnknown, SinkAhead, Unavailable
from tests.connectors.kafka.broker import Broker
from tests.connectors.kafka.stage import Stage, chunk, values_of
from tests.connectors.kafka.undecided import is_decided, is_undecided, leave_undecided, stable_ends


@pytest.fixture
async def stage(careless: Broker) -> AsyncIterator[Stage]:
    each = Stage(careless, await careless.topic(partitions=3))
    yield each
    await each.close()


@pytest.mark.parametrize("noted", [True, False])
async def test_a_committed_transaction(stage: Stage, monkeypatch, noted: bool):
    """Whether or not the store has noted it: its records are not sent again, and nothing counts as lost."""
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, 2 * epoch - 1, [f"{epoch}a", f"{epoch}b"]) for epoch in (1, 2, 3)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch)
    after = await sink.publish(runs[1:2], before)
    await sink.close()
    again = await stage.open(2)
    await is_undecided(again)
    at = await again.recover(after if noted else before, runs[2:] if noted else runs[1:])
    assert (at.next_seq, at.epoch) == (5, 2)
    await is_decided(again, 5)
    # at once open again, as after a kill: nothing has changed
    third = await stage.open(3)
    at = await third.recover(at, runs[2:])
    assert at.next_seq == 5
    await third.publish(runs[2:], at)
    await is_decided(third, 7)
    assert sorted(values_of(await stage.records()), key=str) == ["1a", "1b", "2a", "2b", "3a", "3b"]


async def test_an_aborted_transaction(stage: Stage, monkeypatch):
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, epoch, [str(epoch)]) for epoch in (1, 2)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch)
    transactions = sink._transactions

    async def lost() -> None:
        raise Unavailable("lost")

    monkeypatch.setattr(transactions, "commit", lost)
    with pytest.raises(Unavailable, match="lost"):
        await sink.publish(runs[1:], before)
    again = await stage.open(2)  # which ends the transaction
    await is_undecided(again)
    at = await again.recover(before, runs[1:])
    assert at.next_seq == 2
    await is_decided(again, 2)
    await again.publish(runs[1:], at)
    assert sorted(values_of(await stage.records()), key=str) == ["1", "2"]
    assert len(await stage.records("read_uncommitted")) == 3


@pytest.mark.parametrize(
    ("noted", "group"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.long),
        pytest.param(False, True, marks=pytest.mark.long),
    ],
)
async def test_records_of_a_committed_transaction_are_undecided(stage: Stage, monkeypatch, noted: bool, group: bool):
    """In one partition of three; in the others they are visible. With the marker undecided too, and without."""
    sink, baseline = await stage.begun(partition=int)
    runs = [chunk(sink, epoch, 3 * epoch - 2, ["0", "1", "2"]) for epoch in (1, 2, 3)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch, [1], group=group)
    after = await sink.publish(runs[1:2], before)
    await sink.close()
    assert await stable_ends(stage) == [4, 2, 4]
    again = await stage.open(2, partition=int)
    at = await again.recover(after if noted else before, runs[2:] if noted else runs[1:])
    assert at.next_seq == 7
    await again.publish(runs[2:], at)
    assert values_of(await stage.records()) == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


async def test_records_of_an_aborted_transaction_are_undecided(stage: Stage, monkeypatch):
    """The next commit must not bring them to light."""
    sink, baseline = await stage.begun(partition=int)
    runs = [chunk(sink, epoch, 3 * epoch - 2, ["0", "1", "2"]) for epoch in (1, 2)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch, [1], group=False)
    monkeypatch.setattr(sink._transactions, "commit", sink._transactions.abort)
    await sink.publish(runs[1:], before)
    await sink.close()
    assert await stable_ends(stage) == [4, 2, 4]
    again = await stage.open(2, partition=int)
    at = await again.recover(before, runs[1:])
    assert at.next_seq == 4
    await again.publish(runs[1:], at)
    assert values_of(await stage.records()) == ["0"] * 2 + ["1"] * 2 + ["2"] * 2


async def begin_another_producer(stage: Stage) -> None:
    """Begins one without the note that a sink leaves: the coordinator forgets how the last transaction ended."""
    producer = AIOKafkaProducer(bootstrap_servers=stage.broker.server.url, transactional_id=stage.fence)
    await producer.start()
    await producer.stop()


async def test_how_it_ended_is_forgotten(stage: Stage, monkeypatch):
    """Somebody began a producer in between. What was acknowledged was committed; for the rest nobody can know."""
    sink, baseline = await stage.begun()
    runs = [chunk(sink, epoch, epoch, [str(epoch)]) for epoch in (1, 2)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch)
    await sink.publish(runs[1:], before)
    await sink.close()
    await begin_another_producer(stage)
    third = await stage.open(3)
    with pytest.raises(ProgressUnknown, match="has forgotten how it ended") as caught:
        await third.recover(before, runs[1:])
    assert "--accept-head" in caught.value.hint


async def test_what_was_acknowledged_is_committed_even_then(stage: Stage, monkeypatch):
    sink, baseline = await stage.begun(partition=int)
    runs = [chunk(sink, epoch, 3 * epoch - 2, ["0", "1", "2"]) for epoch in (1, 2)]
    before = await sink.publish(runs[:1], baseline)
    leave_undecided(sink, monkeypatch, [1])
    after = await sink.publish(runs[1:], before)
    await sink.close()
    await begin_another_producer(stage)
    third = await stage.open(3)
    assert (await third.recover(after, [])).next_seq == 7
    await is_decided(third, 7)
    assert values_of(await stage.records()) == ["0"] * 2 + ["1"] * 2 + ["2"] * 2


async def test_a_store_that_knows_of_nothing(stage: Stage, monkeypatch):
    sink, baseline = await stage.begun()
    leave_undecided(sink, monkeypatch)
    await sink.publish([chunk(sink, 1, 1, ["a", "b"])], baseline)
    await sink.close()
    again = await stage.open(2)
    await is_undecided(again)
    with pytest.raises(SinkAhead, match="up to 2, but the store knows of none"):
        await again.recover(None, [])
    assert values_of(await stage.records()).count("a") == 1


async def test_other_content_is_still_fenced_off_by_the_marker_that_is_told(stage: Stage, monkeypatch):
    """The one before the undecided one belongs to another store."""
    sink, baseline = await stage.begun()
    first = await sink.publish([chunk(sink, 1, 1, ["a"])], baseline)
    leave_undecided(sink, monkeypatch)

    async def lost() -> None:
        raise Unavailable("lost")

    monkeypatch.setattr(sink._transactions, "commit", lost)
    with pytest.raises(Unavailable, match="lost"):
        await sink.publish([chunk(sink, 2, 2, ["b"])], first)
    copy = await stage.open(2)
    await is_undecided(copy)
    with pytest.raises(Fenced, match="holds other content up to number 1"):
        await copy.recover(baseline, [chunk(copy, 1, 1, ["other"])])
