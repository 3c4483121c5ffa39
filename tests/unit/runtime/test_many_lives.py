"""Flows that are started and stopped many times in one process leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from streamflow.runtime.engine import Engine
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until

LIVES = 100
LIVES_LONG = 1000


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


def living_engines() -> int:
    gc.collect()
    return sum(isinstance(found, Engine) for found in gc.get_objects())


async def live_once(folder: Path) -> None:
    """A flow with every kind of task: an async step, a stateful one, a resource, a sink."""
    source, sink = topics()
    flow = flow_in(folder)
    flow.resource(asyncio.Event)

    @flow.source(source).map(concurrency=4)
    async def awaited(v: int) -> int:
        await asyncio.sleep(0)
        return v

    awaited.key_by(lambda v: v % 2, name="by").count(name="n").to(sink)
    async with flow.running():
        source.send_all(range(5))
        await until(lambda: len(sink.values) == 5)


@pytest.mark.timeout(300)
@pytest.mark.allow_blocking("the test itself lists files")
async def test_many_flows_one_after_the_other_leave_nothing(tmp_path: Path, long_run: bool) -> None:
    lives = LIVES_LONG if long_run else LIVES
    folders = [tmp_path / str(number) for number in range(lives)]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:5]:
        await live_once(folder)
    gc.collect()
    tasks, threads, files, engines = len(asyncio.all_tasks()), threading.active_count(), open_files(), living_engines()
    for folder in folders[5:]:
        await live_once(folder)
    gc.collect()
    await asyncio.sleep(0.2)  # a thread that is told to end needs a moment
    assert len(asyncio.all_tasks()) == tasks
    assert threading.active_count() <= threads
    assert open_files() <= files
    assert living_engines() <= engines
