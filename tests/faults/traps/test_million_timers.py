"""A burst of a million timers due at once: bounded memory, short turns of the loop, each fires once, crash or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.burst import measured_burst, write_checkpoint
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.tally import Tally

NAMES = 100
FREEING_MS_MAX = 20
GROWN_BYTES_MAX = 250
"""Per timer, in the burst, beyond what the timers themselves occupy: its entry among those to be deleted from the
file, the change encoded, and SQLite's cache."""


class Alarms:
    """A flow whose state file holds very many timers that are due, over keys and names."""

    def __init__(self, total: int) -> None:
        self.total, self.keys = total, total // NAMES
        self.fired = 0
        self.kill_at = -1
        self.killed = asyncio.Event()
        self.source: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
        self.tally = Tally("out", self.expected)

    def expected(self) -> Iterator[bytes]:
        """In the order of due time, key as JSON, name."""
        keys = sorted(f"k{key}" for key in range(self.keys))
        return (f"{key} {name}".encode() for key in keys for name in self.names())

    def names(self) -> list[str]:
        return [f"n{name:02}" for name in range(NAMES)]

    def flow(self) -> Flow:
        flow = Flow("alarms")
        process = flow.source(self.source).key_by(lambda word: word).process(state=int, name="alarm")
        stream: Any = process(lambda ctx, word: None)
        for name in self.names():
            stream.on_timer(name)(self.handler(name))
        stream.to(self.tally)
        return flow

    def handler(self, name: str) -> Callable[[sf.Context[str, int]], Iterator[bytes]]:
        def fire(ctx: sf.Context[str, int]) -> Iterator[bytes]:
            self.fired += 1
            if self.fired == self.kill_at:
                self.killed.set()
            ctx.state += 1
            yield f"{ctx.key} {name}".encode()

        return fire

    async def set_all(self, path: Path) -> None:
        """Writes a checkpoint in which every timer is set."""
        due_ms = 1_700_000_000_000

        def entries(keys: range) -> list[str]:
            return [f'["k{key}","{name}",{due_ms},null]' for key in keys for name in self.names()]

        await write_checkpoint(self.flow(), path, "alarm@timers", self.keys, due_ms - 1000, entries)


@pytest.mark.timeout(300)
async def test_each_fires_once_and_others_run(tmp_path: Path, long_run: bool) -> None:
    alarms = Alarms(1_000_000 if long_run else 100_000)
    await alarms.set_all(tmp_path / "flow.db")
    async with measured_burst(alarms.flow, tmp_path / "flow.db") as burst:
        await burst.until(lambda: alarms.tally.count == alarms.total)
        table = burst.engine.tables["alarm@timers"]
        assert len(table.snapshot()) == 0
        assert burst.engine.tables["alarm"].snapshot() == {f"k{key}": NAMES for key in range(alarms.keys)}
    assert alarms.fired == alarms.total
    assert alarms.tally.wrong == []
    burst.check(alarms.total, bytes_max=GROWN_BYTES_MAX, freeing_ms_max=FREEING_MS_MAX, freeing_turns_max=int(long_run))


@pytest.mark.timeout(300)
async def test_a_crash_in_the_middle_of_the_burst(tmp_path: Path, long_run: bool) -> None:
    alarms = Alarms(300_000 if long_run else 50_000)
    await alarms.set_all(tmp_path / "flow.db")
    lives = Lives(alarms.flow, tmp_path / "flow.db", BRISK, thread=True)
    alarms.kill_at = alarms.total // 2
    async with lives.life() as life:
        await asyncio.wait_for(alarms.killed.wait(), 100)
        await life.kill()
    assert alarms.tally.count == 0
    fired = alarms.fired
    assert alarms.total // 2 <= fired < alarms.total
    async with lives.life("publish.begun") as life:
        await life.until(lambda: False, 200)
    assert alarms.fired == fired + alarms.total
    async with lives.life() as life:
        await life.until(lambda: alarms.tally.count == alarms.total, 200)
    assert alarms.fired == fired + alarms.total, "the burst was committed and does not come again"
    assert lives.kills == 2
    assert alarms.tally.wrong == []
