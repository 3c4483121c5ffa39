"""A million windows that one watermark closes: bounded memory, short turns of the loop, each gives its result once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.burst import measured_burst, write_checkpoint
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.tally import Tally

START_MS = 1_700_000_040_000
"""Start of a minute."""
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

        def entries(keys: range) -> list[str]:
            return [f'["k{key}",{START_MS * 1000},1,null]' for key in keys]

        await write_checkpoint(self.flow(), path, "counts", self.total, START_MS, entries)


@pytest.mark.timeout(300)
async def test_each_closes_once_and_others_run(tmp_path: Path, long_run: bool) -> None:
    minutes = Minutes(1_000_000 if long_run else 100_000)
    await minutes.open_all(tmp_path / "flow.db")
    async with measured_burst(minutes.flow, tmp_path / "flow.db") as burst:
        minutes.source.send("last")
        await burst.until(lambda: minutes.tally.count == minutes.total)
        assert burst.engine.tables["counts"].snapshot() == {"last": {(START_MS + 60_000) * 1000: 1}}
    assert minutes.given == minutes.total
    assert minutes.tally.wrong == []
    burst.check(
        minutes.total, bytes_max=GROWN_BYTES_MAX, freeing_ms_max=FREEING_MS_MAX, freeing_turns_max=int(long_run)
    )


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
