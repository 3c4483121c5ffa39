"""A shard that is restarted again and again at one position stops, and names it.

A source that gives nothing before it breaks is only asked again, for as long as it takes: nobody restarts for it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import Unavailable
from tests.faults.traps.lives import BRISK, Lives
from tests.unit.runtime.test_engine import Seen

TRIES = 4


@pytest.mark.parametrize("others_commit", [False, True])
async def test_a_queue_that_breaks_at_one_message_stops_the_flow(tmp_path: Path, others_commit: bool) -> None:
    """Also while another source lets epochs commit: that one's progress is not the broken one's."""
    queue: sf.MemoryTopic[int] = sf.MemoryTopic("queue", value=int, ids=True)
    other: sf.MemoryTopic[int] = sf.MemoryTopic("other", value=int)
    out: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
    make = queue.source

    def breaking() -> Any:
        source: Any = make()
        read, poisoned = source.read, False

        async def broken() -> Any:
            nonlocal poisoned
            if poisoned:
                raise Unavailable("the broker hung up")
            batch = await read()
            poisoned = b"3" in batch.payloads
            return batch

        source.read = broken
        return source

    queue.source = breaking  # type: ignore[method-assign]
    flow = sf.Flow(
        "loops",
        state=tmp_path / "loops.db",
        settings=sf.Settings(commit_min="0ms", restarts_max=TRIES, reopen_max="100ms"),
    )
    flow.source(queue).merge(flow.source(other)).to(out)

    async def keep_committing() -> None:
        value = 100
        while True:
            other.send(value := value + 1)
            await asyncio.sleep(0.002)

    queue.send(1)
    seen = Seen()
    feeding = asyncio.create_task(keep_committing()) if others_commit else None

    async def host() -> None:
        async with flow.running(seen):
            while 1 not in out.values:
                await asyncio.sleep(0.005)
            queue.send(3)
            await asyncio.sleep(60)

    try:
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable) as died:
                await host()
    finally:
        if feeding is not None:
            feeding.cancel()
    assert len(seen.restarts) == TRIES
    told = str(died.value)
    assert told.startswith(f"restarted {TRIES} times at epoch ")
    assert "(source 'queue'; source 'other', position " in told
    assert "without getting on: the broker hung up" in told
    assert died.value.hint


async def test_processes_that_die_one_after_the_other_at_one_place_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    out: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
    flow = sf.Flow("dies", state=tmp_path / "dies.db", settings=BRISK)
    flow.source(topic).to(out)
    lives = Lives(lambda: flow, tmp_path / "dies.db")
    topic.send(1)
    async with lives.life() as life:
        await life.until(lambda: out.values == [1])
    topic.send(2)
    for death in range(1, 5):
        caplog.clear()
        async with lives.life("epoch.encoded") as life:
            await life.until(lambda: False)
        assert life.dead
        assert ("has died" in caplog.text) is (death > 3), death
    assert "flow dies has died 3 times in a row before it committed anything" in caplog.text
    assert "it stands at epoch 1 (source 'in', position 1)" in caplog.text
    caplog.clear()
    async with lives.life() as life:
        await life.until(lambda: out.values == [1, 2])
    assert "has died 4 times in a row" in caplog.text
    caplog.clear()
    async with lives.life():
        pass
    assert "has died" not in caplog.text
