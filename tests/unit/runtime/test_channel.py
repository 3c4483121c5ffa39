"""Channel: bounded, in order, one reader and one writer; every number once, its last fragment marked (I5)."""

from __future__ import annotations

import asyncio

import pytest

from streamflow.batch import Fragment, MicroBatch
from streamflow.runtime.channel import Channel


def part(number: int, last: bool = True, rows: int = 1) -> Fragment:
    return Fragment(MicroBatch(number, 0), [number] * rows, last)


@pytest.mark.parametrize(
    "wrong",
    [
        [(7, True)],
        [(5, True)],
        [(6, True), (6, True)],
        [(6, False), (7, True)],
        [(6, True), (8, True)],
        [(6, False), (5, True)],
    ],
)
async def test_a_number_that_is_missing_doubled_or_unfinished_is_refused(wrong):
    channel = Channel(9, 5)
    *before, (number, last) = wrong
    for good in before:
        await channel.put(part(*good))
    with pytest.raises(AssertionError):
        await channel.put(part(number, last))


@pytest.mark.parametrize("capacity", [1, 2, 64])
async def test_fragments_pass_in_order_and_never_more_than_fit(capacity):
    channel = Channel(capacity, 0)
    sent = [part(1 + n // 3, n % 3 == 2, n) for n in range(300)]
    most = 0

    async def write() -> None:
        nonlocal most
        for fragment in sent:
            await channel.put(fragment)
            most = max(most, channel.statistics().waiting)

    task = asyncio.create_task(write())
    got = [await channel.get() for _ in sent]
    await task
    assert all(one is other for one, other in zip(got, sent, strict=True))
    assert 1 <= most <= capacity
    assert (channel.statistics().fragments, channel.statistics().rows) == (300, sum(range(300)))


async def test_it_tells_who_waited():
    channel = Channel(1, 0)
    reader = asyncio.create_task(channel.get())
    await asyncio.sleep(0.02)
    await channel.put(part(1))
    await reader
    assert channel.statistics().get_seconds > 0.01
    assert channel.statistics().put_seconds == 0
    await channel.put(part(2))
    writer = asyncio.create_task(channel.put(part(3)))
    await asyncio.sleep(0.02)
    await channel.get()
    await writer
    assert channel.statistics().put_seconds > 0.01


async def test_a_cancelled_reader_loses_nothing():
    channel = Channel(2, 0)
    reader = asyncio.create_task(channel.get())
    await asyncio.sleep(0)
    await channel.put(part(1))
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert (await channel.get()).batch.number == 1


async def test_a_second_reader_is_refused():
    channel = Channel(2, 0)
    reader = asyncio.create_task(channel.get())
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="one reader"):
        await channel.get()
    reader.cancel()
