"""Work-queue and interest streams: redelivery, lost acknowledgements, restarts, other readers, order kept."""

from __future__ import annotations

import asyncio
import random

import pytest

from streamflow.batch import Taken
from streamflow.errors import ConnectorError, Unavailable
from streamflow_nats import Limits
from tests.connectors.nats.kit import nothing, opened, take

LIMITS = Limits(read_ahead_records=64, ack_wait_seconds=1.0)


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def left(broker, name: str) -> int:
    return int((await broker.js.stream_info(name)).state.messages)


async def drained(broker, name: str) -> None:
    async with asyncio.timeout(5):
        while await left(broker, name):
            await asyncio.sleep(0.02)


@pytest.fixture(params=["workqueue", "interest"])
def retention(request) -> str:
    return str(request.param)


async def queue(broker, retention: str, count: int):
    """A stream with ``count`` messages, which a durable of the flow already knows."""
    name = await broker.stream("{}.x", retention=retention)
    stream = broker.nats.stream(name, limits=LIMITS)
    source = await opened(stream)
    await source.close()
    await broker.feed(f"{name}.x", *numbers(0, count))
    return name, stream


async def test_messages_leave_the_stream_when_they_are_committed(broker, retention):
    name, stream = await queue(broker, retention, 20)
    source = await opened(stream)
    found = await take(source, 20)
    await asyncio.sleep(0.1)
    assert await left(broker, name) == 20
    await source.committed(1, Taken(ids=[each for _, each in found[:12]]))
    async with asyncio.timeout(5):
        while await left(broker, name) != 8:
            await asyncio.sleep(0.02)
    await source.committed(2, Taken(ids=[each for _, each in found[12:]]))
    await drained(broker, name)
    async with asyncio.timeout(5):
        while source._reader._unconfirmed:
            await asyncio.sleep(0.02)
    assert source._reader._done == set()
    assert source._reader._in_flight == {}
    await source.close()


async def test_what_is_in_flight_is_not_handed_out_twice(broker, retention):
    name, stream = await queue(broker, retention, 10)
    source = await opened(stream)
    found = await take(source, 10)
    await nothing(source, 2.5)  # ack_wait passes twice
    info = (await broker.js.consumers_info(name))[0]
    assert info.delivered.consumer_seq > 10
    await source.committed(1, Taken(ids=[each for _, each in found]))
    await drained(broker, name)
    await source.close()


async def test_lost_acknowledgements_are_made_up_for(broker, retention, monkeypatch):
    name, stream = await queue(broker, retention, 10)
    source = await opened(stream)
    found = await take(source, 10)
    send = source._link.send

    async def lose(commands: bytes) -> None:
        if b"+ACK" not in commands:
            await send(commands)

    monkeypatch.setattr(source._link, "send", lose)
    await source.committed(1, Taken(ids=[each for _, each in found]))
    await asyncio.sleep(0.1)
    monkeypatch.setattr(source._link, "send", send)
    assert await left(broker, name) == 10
    await broker.feed(f"{name}.x", b"later")
    later = await take(source, 1)
    assert [payload for payload, _ in later] == [b"later"]
    await nothing(source, 1.5)
    await source.committed(2, Taken(ids=[later[0][1]]))
    await drained(broker, name)
    await source.close()


async def test_a_restart_gives_the_rest_in_order_and_drops_what_is_seen(broker, retention):
    name, stream = await queue(broker, retention, 30)
    source = await opened(stream)
    found = await take(source, 30)
    await source._link.close()  # dies without acknowledging
    await source.close()
    seen = {each for _, each in found[:10]} | {found[20][1]}
    await broker.feed(f"{name}.x", *numbers(30, 33))
    source = await opened(stream, seen=seen)
    again = await take(source, 22)
    assert [payload for payload, _ in again] == [b"%d" % n for n in range(10, 33) if n != 20]
    await source.committed(1, Taken(ids=[each for _, each in again]))
    await drained(broker, name)
    await source.close()


async def test_ids_of_a_stream_made_anew_are_others(broker):
    name, stream = await queue(broker, "workqueue", 5)
    source = await opened(stream)
    found = await take(source, 5)
    await source.close()
    await broker.js.delete_stream(name)
    await broker.make(name, [f"{name}.x"], retention="workqueue")
    await broker.feed(f"{name}.x", *numbers(100, 105))
    source = await opened(stream, seen={each for _, each in found})
    assert [payload for payload, _ in await take(source, 5)] == numbers(100, 105)
    await source.close()


async def test_another_reader_of_a_work_queue_is_named(broker):
    name, stream = await queue(broker, "workqueue", 1)
    await broker.js.delete_consumer(name, (await broker.js.consumers_info(name))[0].name)
    await broker.api(
        f"CONSUMER.CREATE.{name}.other",
        {"stream_name": name, "config": {"name": "other", "durable_name": "other", "ack_policy": "explicit"}},
    )
    with pytest.raises(ConnectorError, match="another consumer reads the same subjects") as caught:
        await opened(stream)
    assert caught.value.hint


async def test_a_work_queue_cannot_start_at_its_end(broker):
    name = await broker.stream("{}.x", retention="workqueue")
    with pytest.raises(ConnectorError, match="read from its first message"):
        await opened(broker.nats.stream(name, start="latest"))


async def test_a_durable_with_other_settings_is_left_alone(broker):
    name = await broker.stream("{}.>", retention="interest")
    source = await opened(broker.nats.stream(name, subject=f"{name}.a", durable="mine"))
    await source.close()
    with pytest.raises(ConnectorError, match="exists with other settings"):
        await opened(broker.nats.stream(name, subject=f"{name}.b", durable="mine"))


async def test_a_thief_on_the_durable_is_noticed_and_order_is_kept(broker):
    """A second process pulls from the same durable: what it holds comes first after the source is opened again."""
    name, stream = await queue(broker, "interest", 0)
    source = await opened(stream)
    await nothing(source, 0.1)
    durable = (await broker.js.consumers_info(name))[0].name
    await source.close()
    await broker.feed(f"{name}.x", *numbers(0, 3))
    thief = await broker.js.pull_subscribe_bind(durable, name)
    stolen = await thief.fetch(2)
    assert [message.data for message in stolen] == numbers(0, 2)
    source = await opened(stream)
    assert [payload for payload, _ in await take(source, 3)] == numbers(0, 3)
    # Again, beside the running source, which has nothing outstanding.
    source.pause({""})
    await source.close()
    source = await opened(stream)
    source._reader._not_before = 0.0
    await source._reader._start()
    await broker.feed(f"{name}.x", *numbers(3, 6))
    async with asyncio.timeout(5):
        stolen = await thief.fetch(1, timeout=4)
    with pytest.raises(Unavailable, match="delivery"):
        await take(source, 10)
    await source.close()
    source = await opened(stream)
    assert [payload for payload, _ in await take(source, 6)] == numbers(0, 6)
    await source.close()


async def test_a_work_queue_across_server_kills(mortal):
    name = await mortal.stream("{}.x", retention="workqueue")
    total, kills = 2000, 0
    for start in range(0, total, 500):
        await asyncio.gather(*[mortal.js.publish(f"{name}.x", b"%d" % each) for each in range(start, start + 500)])
    await mortal.close()
    stream = mortal.nats.stream(name, limits=LIMITS)
    chance = random.Random(3)
    committed: list[int] = []
    seen: set[str] = set()
    epoch = 0
    while len(committed) < total:
        source = await opened(stream, seen=frozenset(seen))
        killer = asyncio.create_task(_kill_soon(mortal, chance)) if kills < 4 else None
        try:
            while len(committed) < total:
                batch = await source.read()
                committed += [int(payload) for payload in batch.payloads]
                seen |= set(batch.ids)
                epoch += 1
                await source.committed(epoch, Taken(ids=batch.ids))
                await asyncio.sleep(0.005)
        except Unavailable:
            kills += 1
            assert killer is not None
            await killer
            await mortal.server.start_async()
        finally:
            await source.close()
    assert kills >= 3
    assert committed == list(range(total))
    await mortal.connect()
    source = await opened(stream, seen=frozenset(seen))
    await nothing(source, 0.5)
    await source.close()
    await drained(mortal, name)


async def _kill_soon(broker, chance) -> None:
    await asyncio.sleep(0.01 + 0.03 * chance.random())
    await broker.server.kill_async()
