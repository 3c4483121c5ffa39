"""A million windows that one watermark closes: bounded memory, short turns of the loop, each gives its result once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.batch import Taken
from streamflow.flow import Flow
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Delta, Epoch
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.slices import Memory, measured
from tests.faults.traps.tally import Tally

START_MS = 1_700_000_040_000
"""Start of a minute."""
SLICE_MS_MAX = 10
FREEING_MS_MAX = 20
GROWN_BYTES_MAX = 400
"""Per window, in the burst, beyond what the windows themselves occupy."""


class Minutes:
    """A flow whose state file holds very many windows of one minute, one per key."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.given = 0
        self.kill_at = -1
        self.killed = asyncio.Event()
        self.source: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
        self.tally = Tally("out", self.expected)

    def expected(self) -> Iterator[bytes]:
        """In the order of the keys as JSON."""
        return (f"{key} 1".encode() for key in sorted(f"k{key}" for key in range(self.total)))

    def flow(self) -> Flow:
        flow = Flow("minutes")
        records = flow.source(self.source, time=lambda word: START_MS + 60_000, idle=None)
        counts = records.key_by(lambda word: word).window(sf.tumbling("1m")).count(name="counts")
        counts.map(self.told).to(self.tally)
        return flow

    def told(self, row: sf.Windowed[str, int]) -> bytes:
        self.given += 1
        if self.given == self.kill_at:
            self.killed.set()
        return f"{row.key} {row.value}".encode()

    async def open_all(self, path: Path) -> None:
        """Writes a checkpoint in which every window is open."""
        job = Job(make_plan(self.flow().graph()), SqliteStore(path))
        await job.store.open(job.manifest(Engine(job).bound))
        for epoch in range(1, 11):
            keys = range((epoch - 1) * self.total // 10, epoch * self.total // 10)
            entries = [f'["k{key}",{START_MS * 1000},1,null]' for key in keys]
            delta = Delta("counts", (0, 255), len(entries), f"[{','.join(entries)}]".encode())
            await job.store.commit(Epoch(epoch, epoch, START_MS, {"in": Taken()}, deltas=[delta]))
        await job.store.close()


@pytest.mark.timeout(300)
async def test_each_closes_once_and_others_run(tmp_path: Path, long_run: bool) -> None:
    minutes = Minutes(1_000_000 if long_run else 100_000)
    await minutes.open_all(tmp_path / "flow.db")
    with measured() as slices:
        async with Lives(minutes.flow, tmp_path / "flow.db", BRISK, thread=True).life() as life:
            await life.until(life.started, 100)
            memory = Memory()
            await asyncio.sleep(0)
            slices.milliseconds.clear()  # building the engine is the start, not the burst
            watch = asyncio.create_task(memory.watch())
            minutes.source.send("last")
            await life.until(lambda: minutes.tally.count == minutes.total and life.engine.pacer.idle, 200)
            over = slices.over(SLICE_MS_MAX)
            assert life.engine.tables["counts"].snapshot() == {"last": {(START_MS + 60_000) * 1000: 1}}
            watch.cancel()
    assert minutes.given == minutes.total
    assert minutes.tally.wrong == []
    grown = memory.most - memory.before
    assert grown < (48 << 20) + GROWN_BYTES_MAX * minutes.total, f"{grown / minutes.total:.0f} bytes per window"
    assert max(over, default=0) < FREEING_MS_MAX
    assert len(over) <= long_run, f"{over} of {slices.total_seconds:.1f} s"


@pytest.mark.timeout(300)
async def test_a_crash_in_the_middle_of_the_burst(tmp_path: Path, long_run: bool) -> None:
    minutes = Minutes(300_000 if long_run else 50_000)
    await minutes.open_all(tmp_path / "flow.db")
    lives = Lives(minutes.flow, tmp_path / "flow.db", BRISK, thread=True)
    minutes.kill_at = minutes.total // 2
    async with lives.life() as life:
        await life.until(life.started, 100)
        minutes.source.send("last")
        await asyncio.wait_for(minutes.killed.wait(), 100)
        await life.kill()
    assert minutes.tally.count == 0
    given = minutes.given
    assert minutes.total // 2 <= given < minutes.total
    async with lives.life() as life:
        await life.until(lambda: minutes.tally.count == minutes.total, 200)
    assert minutes.given == given + minutes.total
    async with lives.life() as life:
        await life.until(life.started, 100)
    assert minutes.given == given + minutes.total, "the burst was committed and does not come again"
    assert minutes.tally.wrong == []
