"""The positional source on a real server: gaps, holes, replaced streams, lost connections, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import random
import shutil
import time

import pytest

from streamflow.batch import Position
from streamflow.errors import (
    ConnectorError,
    NotFound,
    PositionAhead,
    RetentionGap,
    SourceReplaced,
    Unavailable,
)
from streamflow_nats import Limits, Nats, pulls
from tests.connectors.nats.kit import nothing, opened, source_context, take

SMALL = Limits(read_ahead_records=8)


def numbers(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def until_refused(source, found) -> None:
    while True:
        found += await take(source, 1)


async def test_headers_keys_and_times_are_delivered(broker):
    name = await broker.stream("{}.x")
    before = time.time() * 1000 - 2000
    await broker.js.publish(f"{name}.x", b"1")
    await broker.js.publish(f"{name}.x", b"2", headers={"a": "ä b", "sf-key": "ann"})
    source = await opened(broker.nats.stream(name))
    batch = await source.read()
    while len(batch) < 2:
        batch = await source.read()
    assert batch.headers[0] is None
    assert batch.headers[1] == {"a": "ä b", "sf-key": "ann"}
    assert batch.keys == [None, b"ann"]
    assert all(before < at < before + 60_000 for at in batch.timestamps_ms)
    await source.close()


async def test_latest_starts_behind_what_is_there(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", *numbers(0, 3))
    stream = broker.nats.stream(name, start="latest")
    source = stream.source()
    starts = await source.open(source_context(), {})
    assert starts[""].at == 4
    await nothing(source)
    await broker.feed(f"{name}.x", b"3")
    assert await take(source, 1) == [(b"3", 5)]
    await source.close()
    again = await opened(stream, starts)
    assert await take(again, 1) == [(b"3", 5)]
    await again.close()


async def test_a_filter_reads_only_its_subjects(broker):
    name = await broker.stream("{}.>")
    for number in range(30):
        await broker.feed(f"{name}.{'a' if number % 3 == 0 else 'b.c'}", b"%d" % number)
    for subject, count in (("a", 10), ("b.*", 20), (">", 30)):
        source = await opened(broker.nats.stream(name, subject=f"{name}.{subject}"))
        found = await take(source, count)
        assert len(found) == count
        assert (await source.ends())[""].at == found[-1][1]
        await source.close()
        resume = {"": Position(found[2][1])}
        again = await opened(broker.nats.stream(name, subject=f"{name}.{subject}"), resume)
        assert await take(again, count - 3) == found[3:]
        await again.close()


async def test_a_subject_that_the_stream_does_not_hold_is_refused(broker):
    name = await broker.stream("{}.x")
    stream = broker.nats.stream(name, subject="other.>")
    with pytest.raises(NotFound, match="not bound to stream") as caught:
        await opened(stream)
    assert f"nats stream edit {name}" in caught.value.hint
    probe = await stream.source().probe()
    assert not probe.ok
    assert "not bound" in probe.problem


async def test_messages_that_expire_while_the_source_lags_are_a_gap(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", *numbers(0, 40))
    source = await opened(broker.nats.stream(name, limits=SMALL))
    found = await take(source, 1)
    await broker.js.purge_stream(name, seq=31)
    with pytest.raises(RetentionGap, match="begins at 31") as caught:
        await until_refused(source, found)
    assert [payload for payload, _ in found] == numbers(0, len(found))
    assert len(found) <= 16
    assert caught.value.hint
    await source.close()


async def test_a_purge_of_everything_while_the_source_lags_is_a_gap(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", *numbers(0, 40))
    source = await opened(broker.nats.stream(name, limits=SMALL))
    await take(source, 1)
    await broker.js.purge_stream(name)
    await broker.feed(f"{name}.x", b"later")
    with pytest.raises(RetentionGap):
        await take(source, 40)
    await source.close()


async def test_deleted_messages_in_the_middle_are_no_gap(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", *numbers(0, 30))
    for seq in (5, 6, 20):
        await broker.js.delete_msg(name, seq)
    source = await opened(broker.nats.stream(name, limits=SMALL))
    found = await take(source, 27)
    assert [at - 1 for _, at in found] == [seq for seq in range(1, 31) if seq not in (5, 6, 20)]
    await source.close()


async def test_last_values_of_a_compacted_stream_are_read(broker):
    name = await broker.stream("{}.>", max_msgs_per_subject=1)
    for number in range(60):
        await broker.feed(f"{name}.{number % 7 if number else 'first'}", b"%d" % number)
    source = await opened(broker.nats.stream(name, limits=SMALL))
    found = await take(source, 8)
    assert [payload for payload, _ in found] == [b"0", *numbers(53, 60)]
    await source.close()


async def test_a_caught_up_filter_outlives_the_expiry_of_other_subjects(broker):
    name = await broker.stream("{}.>", max_msgs=10)
    await broker.feed(f"{name}.a", b"1")
    source = await opened(broker.nats.stream(name, subject=f"{name}.a"))
    await take(source, 1)
    await nothing(source)
    await broker.feed(f"{name}.b", *numbers(0, 50))
    await broker.feed(f"{name}.a", b"2")
    assert [payload for payload, _ in await take(source, 1)] == [b"2"]
    await source.close()


async def test_a_deleted_consumer_is_made_anew_without_loss(broker):
    name = await broker.stream("{}.x")
    source = await opened(broker.nats.stream(name, limits=SMALL))
    found: list[bytes] = []
    for start in range(0, 60, 20):
        await broker.feed(f"{name}.x", *numbers(start, start + 20))
        found += [payload for payload, _ in await take(source, 5)]
        for consumer in await broker.js.consumers_info(name):
            await broker.js.delete_consumer(name, consumer.name)
    found += [payload for payload, _ in await take(source, 60 - len(found))]
    assert found == numbers(0, 60)
    await source.close()
    await asyncio.sleep(0.1)
    assert await broker.js.consumers_info(name) == []


async def test_a_lost_delivery_is_noticed_and_repeated(broker):
    name = await broker.stream("{}.x")
    source = await opened(broker.nats.stream(name, limits=SMALL))
    await nothing(source, 0.1)
    reader = source._reader
    original = reader.pulls._on_message
    dropped: list[bytes] = []

    def drop_the_third(subject, reply, data, headers):
        if data == b"2" and not dropped:
            dropped.append(data)
            return
        original(subject, reply, data, headers)

    direct = source._link._client.direct
    direct[max(direct)] = drop_the_third
    await broker.feed(f"{name}.x", *numbers(0, 30))
    found = await take(source, 30)
    assert dropped
    assert [payload for payload, _ in found] == numbers(0, 30)
    await source.close()


async def test_a_replaced_stream_is_noticed_while_reading(broker):
    name = await broker.stream("{}.x")
    source = await opened(broker.nats.stream(name))
    await broker.feed(f"{name}.x", b"1")
    await take(source, 1)
    await broker.js.delete_stream(name)
    await broker.make(name, [f"{name}.x"])
    await broker.feed(f"{name}.x", b"2", b"3")
    with pytest.raises(SourceReplaced):
        await take(source, 1)
    await source.close()


async def test_a_deleted_stream_is_noticed_while_reading(broker):
    name = await broker.stream("{}.x")
    source = await opened(broker.nats.stream(name))
    await nothing(source, 0.1)
    await broker.js.delete_stream(name)
    with pytest.raises(NotFound, match=f"no stream {name}"):
        await take(source, 1)
    await source.close()


async def test_a_message_above_the_limit_is_refused_behind_those_before_it(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", b"1", b"x" * 2000, b"3")
    source = await opened(broker.nats.stream(name), message_bytes_max=1000)
    assert await take(source, 1) == [(b"1", 2)]
    with pytest.raises(ConnectorError, match="message 2 has 2000 bytes; the limit is 1000") as caught:
        await source.read()
    assert not isinstance(caught.value, Unavailable)
    await source.close()


async def test_large_messages_get_through_small_buffers(broker):
    name = await broker.stream("{}.x")
    payloads = [bytes([65 + number]) * 900_000 for number in range(12)]
    await broker.feed(f"{name}.x", *payloads)
    source = await opened(broker.nats.stream(name, limits=Limits(read_ahead_bytes=1_000_000)))
    found = await take(source, 12)
    assert [payload for payload, _ in found] == payloads
    assert await broker.js.consumers_info(name)
    await source.close()


async def test_read_ahead_is_bounded(broker):
    name = await broker.stream("{}.x")
    await broker.feed(f"{name}.x", *numbers(0, 100))
    source = await opened(broker.nats.stream(name, limits=Limits(read_ahead_records=16)))
    await source._reader.ready()
    await asyncio.sleep(0.3)
    assert len(source._reader.pulls.buffer) <= 16
    assert len(await take(source, 100)) == 100
    await source.close()


async def test_a_restored_backup_is_refused(mortal):
    name = await mortal.stream("{}.x")
    await mortal.feed(f"{name}.x", *numbers(0, 5))
    await mortal.close()
    await mortal.server.stop_async()
    data, copy = mortal.server.folder / "data", mortal.server.folder / "copy"
    shutil.copytree(data, copy)
    await mortal.server.start_async()
    await mortal.connect()
    await mortal.feed(f"{name}.x", *numbers(5, 10))
    source = await opened(mortal.nats.stream(name))
    found = await take(source, 10)
    identity = (await source.ends())[""].identity
    await source.close()
    await mortal.close()
    await mortal.server.stop_async()
    shutil.rmtree(data)
    copy.rename(data)
    await mortal.server.start_async()
    await mortal.connect()
    with pytest.raises(PositionAhead, match="ends at 5, but 10 was already read"):
        await opened(mortal.nats.stream(name), {"": Position(found[-1][1], identity)})
    with pytest.raises(SourceReplaced):
        await opened(mortal.nats.stream(name), {"": Position(3, "2020-01-01T00:00:00Z")})
    source = await opened(mortal.nats.stream(name), {"": Position(3, identity)})
    assert [payload for payload, _ in await take(source, 3)] == numbers(2, 5)
    await source.close()


async def test_reading_across_server_kills(mortal):
    name = await mortal.stream("{}.x")
    total, kills = 6000, 0
    for start in range(0, total, 500):
        await asyncio.gather(*[mortal.js.publish(f"{name}.x", b"%d" % each) for each in range(start, start + 500)])
    expected = list(range(total))
    stream = mortal.nats.stream(name, limits=Limits(read_ahead_records=512))
    await mortal.close()
    chance = random.Random(7)
    found: list[int] = []
    resume: dict[str, Position] = {}
    while len(found) < total:
        source = stream.source()
        killer = None
        try:
            await source.open(source_context(), resume)
            killer = asyncio.create_task(_kill_soon(mortal, chance)) if kills < 4 else None
            while len(found) < total:
                batch = await source.read()
                found += [int(payload) for payload in batch.payloads]
                resume = {"": Position(batch.positions[-1], batch.identity)}
                await asyncio.sleep(0.005)
        except Unavailable:
            kills += 1
            assert killer is not None
            await killer
            await mortal.server.start_async()
        finally:
            await source.close()
    assert kills >= 3
    assert sorted(found) == expected
    assert len(set(found)) == total


async def _kill_soon(broker, chance) -> None:
    await asyncio.sleep(0.005 + 0.02 * chance.random())
    await broker.server.kill_async()


async def test_a_frozen_server_is_noticed(mortal, monkeypatch):
    monkeypatch.setattr(pulls, "SILENCE_SECONDS", 0.5)
    name = await mortal.stream("{}.x")
    source = await opened(Nats(mortal.server.url, timeout_seconds=1).stream(name))
    mortal.server.freeze()
    try:
        with pytest.raises(Unavailable):
            async with asyncio.timeout(10):
                await source.read()
        await source.close()
    finally:
        mortal.server.thaw()


async def test_a_kill_is_noticed_although_the_client_fails_to_flush(mortal, monkeypatch):
    """nats-py leaves out its closed callback when its last flush raises; the source must not wait for heartbeats."""
    name = await mortal.stream("{}.x")
    source = await opened(mortal.nats.stream(name))
    await nothing(source, 0.1)
    client = source._link._client

    async def broken() -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(client._transport, "drain", broken)
    client._pending.append(b"PING\r\n")
    client._pending_data_size += 6
    await mortal.server.kill_async()
    with pytest.raises(Unavailable, match="is lost"):
        async with asyncio.timeout(3):
            await source.read()
    await source.close()
