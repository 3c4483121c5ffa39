"""A burst of a million timers due at once: bounded memory, short turns of the loop, each fires once, crash or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

NAMES = 100
SLICE_MS_MAX = 10
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
        job = Job(make_plan(self.flow().graph()), SqliteStore(path))
        await job.store.open(job.manifest(Engine(job).bound))
        due_ms = 1_700_000_000_000
        for epoch in range(1, 11):
            keys = range((epoch - 1) * self.keys // 10, epoch * self.keys // 10)
            entries = [f'["k{key}","{name}",{due_ms},null]' for key in keys for name in self.names()]
            delta = Delta("alarm@timers", (0, 255), len(entries), f"[{','.join(entries)}]".encode())
            await job.store.commit(Epoch(epoch, epoch, due_ms - 1000, {"in": Taken()}, deltas=[delta]))
        await job.store.close()


@pytest.mark.timeout(300)
async def test_each_fires_once_and_others_run(tmp_path: Path, long_run: bool) -> None:
    alarms = Alarms(1_000_000 if long_run else 100_000)
    await alarms.set_all(tmp_path / "flow.db")
    watch = None
    with measured() as slices:
        async with Lives(alarms.flow, tmp_path / "flow.db", BRISK, thread=True).life() as life:
            await life.until(life.started, 100)
            memory = Memory()
            await asyncio.sleep(0)
            slices.milliseconds.clear()  # building the engine is the start, not the burst
            watch = asyncio.create_task(memory.watch())
            await life.until(lambda: alarms.tally.count == alarms.total and life.engine.pacer.idle, 200)
            over = slices.over(SLICE_MS_MAX)
            table = life.engine.tables["alarm@timers"]
            assert len(table.snapshot()) == 0
            assert life.engine.tables["alarm"].snapshot() == {f"k{key}": NAMES for key in range(alarms.keys)}
    watch.cancel()
    assert alarms.fired == alarms.total
    assert alarms.tally.wrong == []
    grown = memory.most - memory.before
    assert grown < (48 << 20) + GROWN_BYTES_MAX * alarms.total, f"{grown / alarms.total:.0f} bytes per timer"
    # after a million, memory that goes back to the system may take one turn more
    assert max(over, default=0) < FREEING_MS_MAX
    assert len(over) <= long_run, f"{over} of {slices.total_seconds:.1f} s"


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
