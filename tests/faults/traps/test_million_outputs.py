"""One record becomes a million: bounded memory, short turns of the loop, in order, once, also through a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.slices import Memory, measured
from tests.faults.traps.tally import Tally

ROW_BYTES = 100
GROWN_MIB_MAX = 96
"""The outputs are more than that: what is staged (8 MiB), a run on its way out (8 MiB, thrice: read, split, checked),
SQLite's cache (32 MiB) and the log that it maps."""
SLICE_MS_MAX = 10
SETTINGS = replace(BRISK, epoch_bytes_max=4 << 20, outbox_memory_bytes_max=4 << 20)


def row(number: int) -> bytes:
    return b"%0*d" % (ROW_BYTES, number)


class Burst:
    """A flow whose one record becomes many rows; it can be stopped in the middle of making them."""

    def __init__(self, kind: str, total: int) -> None:
        self.kind, self.total = kind, total
        self.made = 0
        self.kill_at = -1
        self.killed = asyncio.Event()
        self.source: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
        self.tally = Tally("out", lambda: iter(map(row, range(total))))
        self.source.send("go")

    def rows(self) -> Iterator[bytes]:
        for number in range(self.total):
            self.made += 1
            if self.made == self.kill_at:
                self.killed.set()
            yield row(number)

    def flow(self) -> Flow:
        flow = Flow("burst")
        source = flow.source(self.source)
        stream: Any
        if self.kind == "flat_map":
            stream = source.flat_map(lambda _: self.rows(), name="many")
        elif self.kind == "process":
            stream = source.key_by(lambda word: word).process(state=int, name="many")(lambda ctx, _: self.rows())
        else:
            many = source.flat_map(lambda _: self.rows(), name="many")
            stream = many.map_batch(list, name="whole").filter(lambda _: True, name="all")
        stream.to(self.tally)
        return flow


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["flat_map", "process", "staged"])
async def test_it_is_bounded_and_in_order_and_lets_others_run(tmp_path: Path, kind: str, long_run: bool) -> None:
    burst = Burst(kind, 1_000_000 if long_run and kind != "staged" else 200_000)
    memory = Memory()
    watch = asyncio.create_task(memory.watch())
    with measured() as slices:
        async with Lives(burst.flow, tmp_path / "flow.db", SETTINGS, thread=True).life() as life:
            await life.until(lambda: burst.tally.count == burst.total, 200)
    watch.cancel()
    assert burst.tally.wrong == []
    assert burst.tally.count == burst.total == burst.made
    assert memory.grown_mib < GROWN_MIB_MAX, f"{memory.grown_mib:.0f} MiB"
    assert slices.over(SLICE_MS_MAX) == [], f"of {slices.total_seconds:.1f} s"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["flat_map", "process"])
async def test_a_crash_in_the_middle_changes_nothing(tmp_path: Path, kind: str) -> None:
    burst = Burst(kind, 300_000)
    lives = Lives(burst.flow, tmp_path / "flow.db", SETTINGS, thread=True)
    burst.kill_at = 200_000
    async with lives.life() as life:
        await asyncio.wait_for(burst.killed.wait(), 100)
        await life.kill()
    assert burst.made < burst.total
    assert burst.tally.count == 0, "nothing leaves before its epoch is committed"
    async with lives.life("publish.begun", 3) as life:
        await life.until(lambda: False, 100)
    assert 0 < burst.tally.count < burst.total
    async with lives.life("publish.done", 1) as life:
        await life.until(lambda: False, 100)
    assert 0 < burst.tally.count < burst.total
    made = burst.made
    async with lives.life() as life:
        await life.until(lambda: burst.tally.count == burst.total, 100)
    assert burst.made == made, "the epoch was committed: its record is not read again"
    assert lives.kills == 3
    assert burst.tally.wrong == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["filtered", "nowhere", "nested", "timers"])
async def test_rows_that_reach_no_exit_let_others_run_too(tmp_path: Path, kind: str) -> None:
    source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    total = 300_000 if kind != "timers" else 20_000
    source.send(total)
    counted = 0

    def count(_: object) -> bool:
        nonlocal counted
        counted += 1
        return False

    flow = Flow("silent")
    numbers = flow.source(source)
    if kind == "timers":
        process = numbers.flat_map(range, name="many").key_by(lambda n: n).process(state=int, name="timed")
        timed: Any = process(lambda ctx, _: ctx.timer("t", after="1ms"))
        timed.on_timer("t")(lambda ctx: [ctx.key] if count(ctx) else None)
    elif kind == "nested":
        inner = numbers.flat_map(lambda n: range(n // 20), name="a").flat_map(lambda _: range(20), name="b")
        inner.flat_map(lambda n: [n], name="c").filter(count).to(sf.MemoryTopic("out"))
    else:
        many = numbers.flat_map(range, name="many").filter(count)
        if kind == "filtered":
            many.to(sf.MemoryTopic("out"))
    with measured() as slices:
        async with Lives(lambda: flow, tmp_path / "flow.db", thread=True).life() as life:
            await life.until(lambda: counted >= total and life.engine.commits, 100)
    assert counted == total
    assert slices.over(SLICE_MS_MAX) == [], f"of {slices.total_seconds:.1f} s"
