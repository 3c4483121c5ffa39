"""The harness of the golden cases finds what a crash changes: else it would prove nothing."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden.playing import fed, play, played, records_of

RECORDS = list(range(20))


def doubled(forgetful: list[int]) -> tuple[sf.Flow, Any, Any, Any]:
    """A flow whose steps see, through a list that no checkpoint holds, how many records came before."""
    flow = sf.Flow("doubled")
    source = flow.source(sf.MemoryTopic[int]("in"))
    counted = source.map(lambda n: (n, len(forgetful)), name="counted")
    totals = counted.key_by(lambda row: row[0] % 2, name="parity").agg(sf.sum(lambda row: row[1]), name="totals")
    totals.to(sf.MemoryTopic("out"))
    return flow, source, counted, totals


async def test_what_a_step_makes_of_a_crash_is_found_in_state_sink_and_result() -> None:
    lives: list[int] = []
    flow, source, counted, totals = doubled(lives)
    feed = records_of(*((source, n) for n in RECORDS))

    async def living(t: FlowTest, crashes: int) -> None:
        lives.clear()
        before = t.crash

        async def crash() -> None:
            lives.append(0)
            await before()

        t.crash = crash  # type: ignore[method-assign]
        await feed(t, crashes)

    with pytest.raises(AssertionError):
        await played(flow, living, 3, counted)
    clean, crashed = await play(flow, living, 0, counted, totals), await play(flow, living, 3, counted, totals)
    assert clean.digests.keys() == crashed.digests.keys() == {"step totals", "sink out", "0", "1"}
    assert [name for name in clean.digests if clean.digests[name] == crashed.digests[name]] == []


async def test_a_feed_must_crash_as_often_as_it_says() -> None:
    flow, source, counted, _ = doubled([])

    async def never(t: FlowTest, crashes: int) -> None:
        await t.send(source, *RECORDS)

    assert await played(flow, never, 0, counted) == [[(n, 0) for n in RECORDS]]
    with pytest.raises(AssertionError):
        await played(flow, never, 3, counted)


async def test_the_order_of_records_counts_unless_it_is_said_not_to() -> None:
    flow, source, counted, _ = doubled([])
    forward, backward = (records_of(*((source, n) for n in order)) for order in (RECORDS, RECORDS[::-1]))
    assert (await play(flow, forward, 0, counted)).digests != (await play(flow, backward, 0, counted)).digests
    finals = [await play(flow, feed, 0, counted, ordered=False) for feed in (forward, backward)]
    assert finals[0].digests == finals[1].digests


async def test_it_crashes_in_the_middle_of_the_work() -> None:
    """Not only where all is committed: what was taken and not committed is read again."""
    seen: list[int] = []
    flow = sf.Flow("seen")
    source = flow.source(sf.MemoryTopic[int]("in"))

    def see(n: int) -> int:
        seen.append(n)
        return n

    assert await fed(flow, source, RECORDS, 20, source.map(see)) == RECORDS
    assert len(seen) > 2 * len(RECORDS), "one clean run, and a crashed one that saw some records again"
