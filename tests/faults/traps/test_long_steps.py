"""Long synchronous work gives the loop back in time, and a step that does not is named."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.slices import measured

SLICE_MS_MAX = 10


def spin(milliseconds: float) -> None:
    """Keeps the processor busy."""
    ends = time.thread_time() + milliseconds / 1000
    while time.thread_time() < ends:
        pass


async def test_a_heart_beats_beside_fast_steps_at_full_speed(tmp_path: Path) -> None:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    out: sf.MemoryTopic[list[object]] = sf.MemoryTopic("out", value=list[object])
    flow = Flow("fast")
    keyed = flow.source(numbers).map(lambda n: n + 1, name="more").key_by(lambda n: n % 1000)
    keyed.count(name="counted").to(out)  # type: ignore[arg-type]
    numbers.send_all(range(150_000))
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    with measured() as slices:
        async with Lives(lambda: flow, tmp_path / "flow.db", BRISK, thread=True).life() as life:
            await life.until(life.started)
            heart = asyncio.create_task(beat())
            await life.until(lambda: len(out) == 150_000)
            heart.cancel()
    assert slices.over(SLICE_MS_MAX) == []
    assert beats > 100 * slices.total_seconds


@pytest.mark.parametrize("shape", ["map", "chain", "expanding", "keyed"])
async def test_slow_records_do_not_add_up(tmp_path: Path, shape: str) -> None:
    """A number of five hundred records that take 0.1 ms each would keep the loop for 50 ms."""
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    out: sf.MemoryTopic[object] = sf.MemoryTopic("out")
    done = 0

    def slow(n: int) -> int:
        nonlocal done
        done += 1
        spin(0.1)
        return n

    flow = Flow("slow")
    source = flow.source(numbers)
    if shape == "expanding":
        source.filter(lambda n: n < 6, name="few").flat_map(lambda n: range(250), name="many").map(slow).to(out)
    elif shape == "chain":
        source.map(lambda n: n, name="first").map_batch(list, name="queue").map(slow).to(out)
    elif shape == "keyed":
        source.key_by(slow, name="key").count(name="counted").to(out)
    else:
        source.map(slow).to(out)
    numbers.send_all(range(1500))
    with measured() as slices:
        async with Lives(lambda: flow, tmp_path / "flow.db", BRISK, thread=True).life() as life:
            await life.until(lambda: len(out) == 1500)
    assert done == 1500
    assert slices.over(SLICE_MS_MAX) == [], f"of {slices.total_seconds:.1f} s"


class Named(sf.Instrument):
    def __init__(self) -> None:
        self.blocked_by: list[tuple[str, str, float]] = []

    def blocked(self, step: str, line: str, seconds: float) -> None:
        self.blocked_by.append((step, line, seconds))


@pytest.mark.parametrize("how", ["sleeps", "computes"])
async def test_a_step_that_blocks_by_itself_is_named(tmp_path: Path, how: str) -> None:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    out: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)

    def dull(n: int) -> int:
        if n == 3:
            time.sleep(0.5) if how == "sleeps" else spin(500)
        return n

    flow = Flow("blocks", state=tmp_path / "flow.db", settings=sf.Settings(blocked_after="100ms"))
    flow.source(numbers).map(lambda n: n, name="quick").map(dull).filter(lambda n: True, name="after").to(out)
    named = Named()
    numbers.send_all(range(10))
    async with flow.running(named):
        async with asyncio.timeout(10):
            while len(out) < 10 or not named.blocked_by:
                await asyncio.sleep(0.01)
    step, line, seconds = named.blocked_by[0]
    assert step == "dull"
    assert line.startswith("test_long_steps.py:")
    assert seconds > 0.1


def quick(n: int) -> int:
    spin(0.01)
    return n


async def test_quick_steps_are_not_named(tmp_path: Path) -> None:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    out: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
    flow = Flow("quick", state=tmp_path / "flow.db", settings=sf.Settings(blocked_after="5s"))
    flow.source(numbers).map(quick).to(out)
    named = Named()
    numbers.send_all(range(20_000))
    async with flow.running(named):
        async with asyncio.timeout(20):
            while len(out) < 20_000:
                await asyncio.sleep(0.01)
    assert named.blocked_by == []
