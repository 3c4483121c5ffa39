"""A sink that has nothing to publish and loses its connection: opened again at once, if it can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import streamflow as sf
from streamflow.batch import Chunk, Progress
from streamflow.connect.contracts import LossNoticing, Sink, SinkContext, SinkOptions
from streamflow.connect.memory_sink import MemorySink
from streamflow.errors import Unavailable
from tests.unit.runtime.test_engine import Seen, until


class Noticing(MemorySink):
    """A memory sink with a line that may be cut."""

    cut: asyncio.Event
    opened = closed = 0

    async def open(self, ctx: SinkContext) -> None:
        type(self).opened += 1
        type(self).cut = asyncio.Event()
        await super().open(ctx)

    async def lost(self) -> None:
        await self.cut.wait()
        raise Unavailable("the line is cut", hint="")

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        if self.cut.is_set():
            raise Unavailable("the line is cut", hint="")
        return await super().publish(chunks, at)

    async def close(self) -> None:
        type(self).closed += 1
        await super().close()


class Topic(sf.MemoryTopic[int]):
    def sink(self, options: SinkOptions) -> Sink:
        made = super().sink(options)
        assert isinstance(made, MemorySink)
        sink = Noticing(made._settings)
        assert isinstance(sink, LossNoticing)
        return sink


async def test_an_idle_sink_is_opened_again(tmp_path: Path) -> None:
    source, target = sf.MemoryTopic("in", value=int), Topic("out", value=int)
    Noticing.opened = Noticing.closed = 0
    flow, seen = sf.Flow("idle", state=tmp_path / "idle.db"), Seen()
    flow.source(source).to(target)
    async with flow.running(seen):
        source.send(1)
        await until(lambda: len(target) == 1)
        for times in (1, 2):
            Noticing.cut.set()
            await until(lambda: Noticing.opened == times + 1 and not Noticing.cut.is_set())  # noqa: B023
            assert seen.failed == [("sink", "out")] * times
        source.send(2)
        await until(lambda: len(target) == 2)
    assert target.values == [1, 2]
    assert seen.restarts == []
    assert Noticing.closed >= Noticing.opened
