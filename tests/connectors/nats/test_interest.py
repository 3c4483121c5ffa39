"""Interest streams across restarts: what several processes held comes in the order of the stream."""

from __future__ import annotations

import pytest

from streamflow.batch import Taken
from streamflow_nats import Limits
from tests.connectors.nats.kit import opened, take
from tests.connectors.nats.test_queue import drained, numbers

COUNT = 300


@pytest.mark.parametrize("bytes_max", [32 * 1024 * 1024, 2_000])
async def test_what_two_dead_processes_held_comes_in_order(broker, bytes_max):
    """The second was given a part again before it died, so the server gives the rest before that part."""
    name = await broker.stream("{}.x", retention="interest")
    small = broker.nats.stream(name, limits=Limits(read_ahead_records=8, ack_wait_seconds=1.0))
    source = await opened(small)
    await source.close()
    await broker.feed(f"{name}.x", *numbers(0, COUNT))
    first = await opened(small)
    await take(first, COUNT // 2)
    await first._link.close()
    await first.close()
    second = await opened(small)
    again = await take(second, 1)
    assert again[0][0] == b"0"
    await second._link.close()
    await second.close()
    large = broker.nats.stream(name, limits=Limits(ack_wait_seconds=1.0, read_ahead_bytes=bytes_max))
    source = await opened(large, seen=frozenset({again[0][1]}))
    found = await take(source, COUNT - 1)
    assert [payload for payload, _ in found] == numbers(1, COUNT)
    await source.committed(1, Taken(ids=[each for _, each in found]))
    await drained(broker, name)
    await source.close()


async def test_what_was_purged_or_acknowledged_late_is_not_waited_for(broker):
    name = await broker.stream("{}.x", retention="interest")
    stream = broker.nats.stream(name, limits=Limits(ack_wait_seconds=1.0))
    source = await opened(stream)
    await source.close()
    await broker.feed(f"{name}.x", *numbers(0, 20))
    first = await opened(stream)
    await take(first, 20)
    await first._link.close()
    await first.close()
    second = await opened(stream)
    await broker.js.purge_stream(name, seq=11)
    await broker.feed(f"{name}.x", b"20")
    assert [payload for payload, _ in await take(second, 11)] == numbers(10, 21)
    await second.close()
