"""A death while a sink decides what a killed broker left undecided: what was acknowledged stays, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer

from streamflow.batch import Progress
from streamflow.errors import Fenced, ProgressUnknown, SinkAhead
from streamflow_kafka import transactions
from streamflow_kafka.outcomes import Last, with_note
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.stage import Stage, chunk, values_of
from tests.connectors.kafka.undecided import Death, drop, is_decided, leave_undecided, opened, stable_ends

VALUES = ["0", "1", "2"]
TWICE = ["0", "0", "1", "1", "2", "2"]


@pytest.fixture
async def stage(careless: Broker) -> AsyncIterator[Stage]:
    each = Stage(careless, await careless.topic(partitions=3))
    yield each
    await each.close()


async def left_undecided(stage: Stage, monkeypatch: pytest.MonkeyPatch, *, aborted: bool = False) -> Progress:
    """Publishes twice, to three partitions; the end of the second transaction is not written to one of them."""
    sink, baseline = await stage.begun(partition=int)
    before = await sink.publish([chunk(sink, 1, 1, VALUES)], baseline)
    leave_undecided(sink, monkeypatch, [1], group=False)
    if aborted:
        monkeypatch.setattr(sink._transactions, "commit", sink._transactions.abort)
    after = await sink.publish([chunk(sink, 2, 4, VALUES)], before)
    await drop(sink)
    assert await stable_ends(stage) == [4, 2, 4]
    return before if aborted else after


async def test_deaths_on_the_way_to_a_commit(stage: Stage, monkeypatch):
    """Before the repair, and in the middle of it; nothing that was acknowledged is gone."""
    after = await left_undecided(stage, monkeypatch)
    await drop(await opened(stage, 2))
    sink = await opened(stage, 3)
    with pytest.raises(Death):
        await sink.recover(after, [])
    await drop(sink)
    sink = await opened(stage, 4)  # which commits the repair that it finds open
    assert (await sink.recover(after, [])).next_seq == 7
    assert values_of(await stage.records()) == TWICE
    at = await sink.publish([chunk(sink, 3, 7, VALUES)], after)
    assert at.next_seq == 10
    await is_decided(sink, 10)


async def test_a_close_in_the_middle_of_a_repair_aborts_nothing(stage: Stage, monkeypatch):
    """Cancelled, or failed for another reason, and closed in order: the repair stays open for the next one."""
    after = await left_undecided(stage, monkeypatch)
    sink = await opened(stage, 2)
    with pytest.raises(Death):
        await sink.recover(after, [])
    await sink.close()
    sink = await opened(stage, 3)
    assert (await sink.recover(after, [])).next_seq == 7
    assert values_of(await stage.records()) == TWICE


async def test_deaths_on_the_way_to_an_abort(stage: Stage, monkeypatch):
    """What was not committed does not come to light, and comes once."""
    before = await left_undecided(stage, monkeypatch, aborted=True)
    await drop(await opened(stage, 2))
    sink = await opened(stage, 3)
    again = [chunk(sink, 2, 4, VALUES)]
    with pytest.raises(Death):
        await sink.recover(before, again)
    await drop(sink)
    sink = await opened(stage, 4)
    at = await sink.recover(before, again)
    assert at.next_seq == 4
    await sink.publish(again, at)
    assert values_of(await stage.records()) == TWICE


async def test_a_repair_that_nobody_ends(stage: Stage, monkeypatch):
    """The broker gives it up at last, and aborts acknowledged records: that is said, until the user accepts it."""
    after = await left_undecided(stage, monkeypatch)
    monkeypatch.setattr(transactions, "REPAIR_MS", 1000)
    options = replace(QUICK, transaction_timeout_seconds=1.0)
    sink = await opened(stage, 2, options=options)
    with pytest.raises(Death):
        await sink.recover(after, [])
    await drop(sink)
    async with asyncio.timeout(30):
        while (await stable_ends(stage))[1] == 2:
            await asyncio.sleep(0.2)
    for generation in (3, 4):
        sink = await opened(stage, generation)
        with pytest.raises(ProgressUnknown, match="its records were acknowledged, and some may be gone") as caught:
            await sink.recover(after, [])
        assert "--accept-head" in caught.value.hint
        await sink.close()
    # what accepting the head does: the sink is opened as one that knows of nothing, then with what it found
    sink = await opened(stage, 4)
    with pytest.raises(SinkAhead):
        await sink.recover(None, [])
    await sink.close()
    sink = await opened(stage, 5)
    assert (await sink.recover(after, [])).next_seq == 7


async def test_one_that_was_frozen_before_it_settled_disturbs_nobody(stage: Stage):
    """It does not begin its producer anew in the place of the one that has taken over."""
    first, baseline = await stage.begun(partition=int)
    at = await first.publish([chunk(first, 1, 1, VALUES)], baseline)
    frozen = await opened(stage, 2)
    sink = await opened(stage, 3)
    await sink.recover(at, [])
    with pytest.raises(Fenced):
        await frozen.recover(at, [])
    after = await sink.publish([chunk(sink, 2, 4, VALUES)], at)
    assert after.next_seq == 7
    assert values_of(await stage.records()) == TWICE


@pytest.mark.parametrize("note", [None, True, False])
def test_a_note_is_kept_by_every_timeout(note: bool | None):
    for timeout_ms in (1, 1000, 59_999, 60_000, 900_000):
        noted = with_note(timeout_ms, note)
        assert abs(noted - timeout_ms) <= 12
        assert Last("Empty", noted, (1, 1)).outcome is note


async def test_a_broker_that_allows_only_short_transactions(stage: Stage, monkeypatch):
    """A repair takes the timeout of the sink's own then."""
    monkeypatch.setattr(transactions, "REPAIR_MS", 2**31 - 20)
    after = await left_undecided(stage, monkeypatch)
    sink = await opened(stage, 2)
    with pytest.raises(Death):
        await sink.recover(after, [])
    last = await sink._transactions.last()
    assert last.is_open_repair
    assert last.timeout_ms == 60_001
    await drop(sink)
    sink = await opened(stage, 3)
    assert (await sink.recover(after, [])).next_seq == 7
    assert values_of(await stage.records()) == TWICE


async def test_a_plain_producer_is_not_taken_for_a_repair(stage: Stage):
    """Its open transaction is aborted as ever."""
    sink, at = await stage.begun(partition=int)
    await sink.publish([chunk(sink, 1, 1, VALUES)], at)
    await sink.close()
    producer = AIOKafkaProducer(bootstrap_servers=stage.broker.server.url, transactional_id=stage.fence)
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(stage.topic, b"foreign", partition=0)
    last = await (await opened(stage, 2))._transactions.last()
    assert last.outcome is False
    assert "foreign" not in values_of(await stage.records())
    await producer.client.close()
    producer._closed = True
