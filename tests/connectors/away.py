"""Windows over a broker that is away: what is told of them, and what is late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.flow import Flow

IDLE_SECONDS = 0.5
AWAY_SECONDS = 1.5
"""So long that a question which was asked while the broker was away is answered later than after ``idle``."""
MESSAGES = 30
UNACKNOWLEDGED_MAX = 10


class Watching(sf.Instrument):
    """Notes how often the source and the sinks failed."""

    def __init__(self) -> None:
        self.failed = {"source": 0, "sink": 0}

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self.failed[kind] += 1


@dataclass
class Told:
    """What a flow told so far: records, counts of windows, late records."""

    watching: Watching = field(default_factory=Watching)
    seen: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


def seconds(record: str) -> int:
    return int(record) * 1000


@asynccontextmanager
async def windows(
    folder: Path, spec: Any, *, window: str = "10s", sink: Any = None, **source: Any
) -> AsyncIterator[Told]:
    """Runs a flow that counts records in windows of event time; a record is its own time in seconds."""
    flow = Flow("away", state=folder / "away.db", settings=sf.Settings(reopen_max="300ms"))
    records = flow.source(spec, name="in", time=seconds, idle=f"{IDLE_SECONDS}s", **source)
    counts = records.key_by(lambda record: "k").window(sf.tumbling(window)).count(name="counts")
    if sink is not None:
        records.to(sink)
    told = Told()
    async with flow.running(told.watching) as run:

        async def listen(to: sf.Stream[Any], into: Callable[[Any], None]) -> None:
            async for row in run.subscribe(to):
                into(row)

        listeners = [
            asyncio.create_task(listen(records, told.seen.append)),
            asyncio.create_task(listen(counts, lambda row: told.counts.append(row.value))),
            asyncio.create_task(listen(counts.late, told.late.append)),
        ]
        try:
            yield told
        finally:
            for listener in listeners:
                listener.cancel()


async def a_frozen_broker_closes_no_window(
    folder: Path, server: Any, spec: Any, feed: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """A broker hangs for longer than ``idle``; a record that waits for it meanwhile still belongs to the window."""
    async with windows(folder, spec) as told:
        await feed(b"3", b"4")
        await until(lambda: told.seen == ["3", "4"])
        server.freeze()
        feeding = asyncio.create_task(feed(b"5"))
        try:
            await asyncio.sleep(AWAY_SECONDS)
            assert told.counts == []
            assert not feeding.done()
        finally:
            server.thaw()
        await feeding
        await until(lambda: bool(told.counts))
        assert (told.counts, told.late) == ([3], [])


async def a_dead_broker_closes_no_window(
    folder: Path, server: Any, spec: Any, feed: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """A broker is killed, and away for longer than ``idle``: no window closes, and nothing held is released."""
    await feed(b"3", b"4")
    async with windows(folder, spec, order="time") as told:
        await until(lambda: told.seen == ["3"])  # what came last is held until the watermark is behind it
        await server.kill_async()
        await asyncio.sleep(AWAY_SECONDS)
        assert told.watching.failed["source"] > 0
        assert (told.seen, told.counts) == (["3"], [])
        await server.start_async()
        await until(lambda: bool(told.counts))
        assert told.seen == ["3", "4"]
        assert (told.counts, told.late) == ([2], [])


async def withheld_acknowledgements_close_no_window(folder: Path, spec: Any) -> None:
    """A queue of `MESSAGES` hands out `UNACKNOWLEDGED_MAX` for as long as a sink is away: the rest is no silence."""
    sink = sf.MemoryTopic[Any]("out")
    sink.unreachable = True
    async with windows(folder, spec, window="60s", sink=sink) as told:
        await until(lambda: len(told.seen) == UNACKNOWLEDGED_MAX)
        await asyncio.sleep(AWAY_SECONDS)
        assert told.watching.failed["sink"] > 0
        assert (len(told.seen), told.counts) == (UNACKNOWLEDGED_MAX, [])
        sink.unreachable = False
        await until(lambda: bool(told.counts))
        assert (told.counts, told.late) == ([MESSAGES], [])


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)
