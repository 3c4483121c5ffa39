"""Flows that are started and stopped many times in one process leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from streamflow.operators import fused
from streamflow.runtime.engine import Engine
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until

LIVES = 60
LIVES_LONG = 1000
MEMORY_BYTES_MAX = 8 << 20
OBJECTS_MAX = 500
"""What the process may keep for itself, however many flows there were."""


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


class Held(NamedTuple):
    """What the process holds."""

    tasks: int
    files: int
    engines: int
    objects: int
    memory_bytes: int


def held() -> Held:
    gc.collect()
    objects = gc.get_objects()
    engines = sum(isinstance(found, Engine) for found in objects)
    return Held(len(asyncio.all_tasks()), open_files(), engines, len(objects), resident_bytes())


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0


async def live_once(folder: Path) -> None:
    """A flow with every kind of task: async, detached and threaded steps, a stateful one, a resource, a sink."""
    source, sink = topics()
    flow = flow_in(folder)
    flow.resource(asyncio.Event)

    @flow.source(source).map(concurrency=4)
    async def awaited(v: int) -> int:
        await asyncio.sleep(0)
        return v

    async def detached(v: int) -> int:
        return v

    later = awaited.map(detached, detached=True).map_thread(abs, workers=1)
    later.key_by(lambda v: v % 2, name="by").count(name="n").to(sink)
    async with flow.running() as run:
        told = run.subscribe(later)
        source.send_all(range(5))
        await until(lambda: len(sink.values) == 5)
        assert await anext(told) == 0


@pytest.mark.timeout(400)
@pytest.mark.allow_blocking("the test itself lists files")
async def test_many_flows_one_after_the_other_leave_nothing(
    tmp_path: Path, long_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled loops are kept for flows that come again, so many and no more: here so few that it shows at once."""
    monkeypatch.setattr(fused, "LOOPS_KEPT_MAX", 8)
    lives, first = LIVES_LONG if long_run else LIVES, 20
    folders = [tmp_path / str(number) for number in range(lives)]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:first]:
        await live_once(folder)
    before = held()
    for folder in folders[first:]:
        await live_once(folder)
    for _ in range(200):
        if threading.active_count() == 1:
            break
        await asyncio.sleep(0.01)  # a thread that is told to end needs a moment
    after = held()
    changes = ", ".join(
        f"{name} {was:,} -> {now:,}" for name, was, now in zip(Held._fields, before, after, strict=True)
    )
    print(f"\n{lives} flows, behind the first {first}: {changes}, threads {threading.active_count()}")
    assert threading.active_count() == 1
    assert after.tasks == before.tasks
    assert after.files <= before.files
    assert after.engines <= before.engines
    assert after.objects - before.objects < OBJECTS_MAX
    assert after.memory_bytes - before.memory_bytes < MEMORY_BYTES_MAX
