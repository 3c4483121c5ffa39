"""The line to the broker is cut, or falls silent and delivers late: no hole, no other order, nothing twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.flow import Trap
from tests.faults.proxy import Line
from tests.faults.rabbitmq.test_stream_lines import silent_lines
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

LIMITS = {"publish_window_records": 64}


class Lines:
    """A trial whose source and sink have a line each."""

    def __init__(self, server: RabbitServer, folder: Path, kind: Kind) -> None:
        self.source, self.sink = Line(server), Line(server)
        self._server, self._folder, self._kind = server, folder, kind
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Lines:
        await self._stack.enter_async_context(self.source)
        await self._stack.enter_async_context(self.sink)
        trial = Trial(self._server, self._folder, self._kind, limits=LIMITS)
        trial.source_url, trial.sink_url = self.source.url, self.sink.url
        trial.flow.setup = trial.setup()
        self.trial = await self._stack.enter_async_context(trial)
        self.gate = self.trial.folder / "gate"
        self.trial.flow.start(Trap("publish.part", action="hold", gate=self.gate))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def going_on(self) -> None:
        """Waits until the flow publishes again."""
        flow = self.trial.flow
        before = len(flow.events("published"))
        await flow.until(lambda: len(flow.events("published")) > before, f"{self._kind}: going on")

    async def lost_sink(self, before: int) -> None:
        """Waits until the flow has noticed one more lost sink."""
        await self.trial.flow.until(lambda: self.failures > before, f"{self._kind}: a lost sink")

    @property
    def failures(self) -> int:
        return len(self.trial.flow.events("failed"))


async def cut_again_and_again(server: RabbitServer, folder: Path, kind: Kind, rounds: int) -> int:
    """A lost sink is opened again alone; a lost queue starts the shard again from its checkpoint."""
    rng = random.Random(rounds)
    async with Lines(server, folder, kind) as lines:
        trial, flow = lines.trial, lines.trial.flow
        async with trial.feeder() as feeder:
            await lines.going_on()
            for number in range(1, rounds + 1):
                assert lines.source.cut() == 1
                await flow.until(lambda number=number: len(flow.events("restarting")) == number, "a restart")  # type: ignore[misc]
                await lines.going_on()
                before = lines.failures
                assert lines.sink.cut() == 1
                await lines.lost_sink(before)
                await lines.going_on()
                # in the middle of a publish, in the middle of a message
                before = lines.failures
                lines.sink.cut_after(rng.randrange(200, 20_000))
                await flow.until(lambda: not lines.sink.armed, "enough bytes")
                await lines.lost_sink(before)
                assert len(flow.events("restarting")) == number
                await lines.going_on()
        await trial.check(feeder)
        return lines.source.cuts + lines.sink.cuts


@pytest.mark.timeout(180)
async def test_a_line_is_cut(server: RabbitServer, tmp_path: Path, long_run: bool) -> None:
    rounds = 4 if long_run else 1
    cuts = await asyncio.gather(*(cut_again_and_again(server, tmp_path, kind, rounds) for kind in KINDS))
    assert sum(cuts) == 3 * rounds * len(KINDS)


async def silent_sink(server: RabbitServer, folder: Path, kind: Kind) -> int:
    """What the sink had sent arrives when the broker has long let it go; returns how many bytes came late."""
    async with Lines(server, folder, kind) as lines:
        trial = lines.trial
        async with trial.feeder(bursts=(1300,)) as feeder:
            for _ in range(2):
                await trial.flow.held(lines.gate)  # a part of what it publishes has left
                before = lines.failures
                lines.sink.silence()
                lines.gate.unlink()
                await lines.lost_sink(before)
                await lines.going_on()
                lines.sink.let_through()
        await trial.check(feeder)
        assert lines.sink.silences >= 2
        return lines.sink.late_bytes


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_line_falls_silent_and_delivers_late(server: RabbitServer, tmp_path: Path) -> None:
    """That of a sink on a queue, and beside it those of a source and a sink on streams: mostly they wait."""
    streams = asyncio.ensure_future(silent_lines(server, tmp_path / "streams"))
    late = await asyncio.gather(*(silent_sink(server, tmp_path, kind) for kind in KINDS))
    assert all(late), late
    await streams
