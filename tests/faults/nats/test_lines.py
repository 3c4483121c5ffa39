"""The line to the server is cut, falls silent, delivers late, is slow: no hole, no other order, nothing twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.nats.trial import KINDS, MSGID, QUEUES, Kind, Trial
from tests.faults.proxy import Line


class Lines:
    """A trial whose source and sink have a line each."""

    def __init__(self, server: NatsServer, folder: Path, kind: Kind, timeout_seconds: float = 10.0) -> None:
        self._timeout_seconds = timeout_seconds
        self.source, self.sink = Line(server), Line(server)
        self._server, self._folder, self._kind = server, folder, kind
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Lines:
        await self._stack.enter_async_context(self.source)
        await self._stack.enter_async_context(self.sink)
        trial = Trial(
            self._server,
            self._folder,
            self._kind,
            source_url=self.source.url,
            sink_url=self.sink.url,
            timeout_seconds=self._timeout_seconds,
        )
        self.trial = await self._stack.enter_async_context(trial)
        self.gate = self.trial.folder / "gate"
        if self._kind.source == "interest":
            await self.trial.begin()
        self.trial.flow.start(Trap("publish.part", action="hold", gate=self.gate))
        await self.trial.flow.until(lambda: self.trial.flow.said("started"), "the start")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def going_on(self) -> None:
        """Waits until the flow publishes again, if it has something to publish."""
        flow = self.trial.flow
        before = len(flow.events("published"))
        deadline = asyncio.get_running_loop().time() + 5
        while len(flow.events("published")) <= before and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    async def failed(self, kind: str, more_than: int) -> None:
        """Waits until the flow has noticed that it lost one more connector."""
        flow = self.trial.flow
        await flow.until(lambda: self.failures(kind) > more_than, f"{self._kind}: a lost {kind}")

    def failures(self, kind: str) -> int:
        return sum(event["kind"] == kind for event in self.trial.flow.events("failed"))


async def cut_again_and_again(server: NatsServer, folder: Path, kind: Kind, rounds: int) -> int:
    rng = random.Random(rounds)
    async with Lines(server, folder, kind) as lines:
        trial = lines.trial
        async with trial.feeder() as feeder:
            await lines.going_on()
            for _ in range(rounds):
                await cut_one(lines, "source")
                await lines.going_on()
                await cut_one(lines, "sink")
                await lines.going_on()
                # in the middle of a publish, in the middle of a message
                sinks, sources = lines.failures("sink"), lines.failures("source")
                lines.sink.cut_after(rng.randrange(200, 40_000))
                await trial.flow.until(lambda: not lines.sink.armed, "enough bytes")
                await lines.failed("sink", sinks)
                assert lines.failures("source") == sources
        await trial.check(feeder)
        assert trial.flow.events("restarting") == []
        assert lines.source.cuts >= rounds
        assert lines.sink.cuts >= 2 * rounds
        return lines.source.cuts + lines.sink.cuts


async def cut_one(lines: Lines, kind: str) -> None:
    """Cuts one connector's line; only that connector may notice."""
    other = "sink" if kind == "source" else "source"
    before, others = lines.failures(kind), lines.failures(other)
    assert (lines.source if kind == "source" else lines.sink).cut() == 1
    await lines.failed(kind, before)
    assert lines.failures(other) == others, f"the {other} failed when the line of the {kind} was cut"


@pytest.mark.timeout(180)
async def test_a_line_is_cut(server: NatsServer, tmp_path: Path, long_run: bool) -> None:
    """Also in the middle of a publish: the flow opens that connector again, and only that one."""
    rounds, kinds = (6, (*KINDS, MSGID)) if long_run else (2, KINDS)
    cuts = await asyncio.gather(*(cut_again_and_again(server, tmp_path, kind, rounds) for kind in kinds))
    assert sum(cuts) >= 9 * rounds


async def silent_sink(server: NatsServer, folder: Path, kind: Kind) -> int:
    """What the sink had sent arrives when it has long been opened again and has gone on; returns how many bytes."""
    async with Lines(server, folder, kind, timeout_seconds=2) as lines:
        trial = lines.trial
        async with trial.feeder(bursts=(1300,)) as feeder:
            for _ in range(3):
                await trial.flow.held(lines.gate)  # a part of what it publishes has left
                before = lines.failures("sink")
                lines.sink.silence()
                lines.gate.unlink()
                await lines.failed("sink", before)
                await lines.going_on()
                lines.sink.let_through()
                await lines.going_on()
        await trial.check(feeder)
        assert trial.flow.events("restarting") == []
        assert lines.failures("source") == 0
        assert lines.sink.silences >= 3
        return lines.sink.late_bytes


async def silent_source(server: NatsServer, folder: Path, kind: Kind) -> None:
    async with Lines(server, folder, kind, timeout_seconds=3) as lines:
        trial = lines.trial
        async with trial.feeder() as feeder:
            await lines.going_on()
            lines.source.silence()
            if kind.source == "limits":
                await lines.failed("source", 0)
            else:
                await trial.flow.until(lambda: bool(trial.flow.events("restarting")), "the restart")
            await lines.going_on()
            lines.source.let_through()
            await lines.going_on()
        await trial.check(feeder)
        assert lines.failures("sink") == 0


async def slow_line(server: NatsServer, folder: Path, kind: Kind) -> None:
    async with Lines(server, folder, kind) as lines:
        lines.source.delay_seconds = lines.sink.delay_seconds = 0.04
        async with lines.trial.feeder() as feeder:
            await asyncio.sleep(3)
        await lines.trial.check(feeder)
        assert lines.trial.flow.events("failed") == lines.trial.flow.events("restarting") == []


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_lines_fall_silent_deliver_late_or_are_slow(server: NatsServer, tmp_path: Path) -> None:
    """A silent source is noticed and opened again, what a sink sent arrives late; a slow line is no failure."""
    async with asyncio.TaskGroup() as group:
        sinks = [group.create_task(silent_sink(server, tmp_path, kind), name=str(kind)) for kind in KINDS]
        for kind in (KINDS[0], *QUEUES):
            group.create_task(silent_source(server, tmp_path, kind), name=f"source {kind}")
        for kind in (*KINDS, *QUEUES):
            group.create_task(slow_line(server, tmp_path, kind), name=f"slow {kind}")
    late = [sink.result() for sink in sinks]
    assert all(size_bytes > 3 * 1000 for size_bytes in late), late


async def cut_queue(server: NatsServer, folder: Path, kind: Kind) -> None:
    """A source with ids restarts the shard from its checkpoint, unless it has given nothing since it was opened."""
    async with Lines(server, folder, kind) as lines:
        trial, lives = lines.trial, lines.trial.flow.lives
        async with trial.feeder() as feeder:
            for cuts in range(1, 6):
                await go_on(trial, feeder)
                assert lines.source.cut() == 1
                await noticed(lines, cuts)
        await trial.check(feeder)
        assert len(trial.flow.events("restarting")) >= 2
        assert trial.flow.lives == lives


async def noticed(lines: Lines, times: int) -> None:
    flow = lines.trial.flow
    await flow.until(lambda: len(flow.events("restarting")) + lines.failures("source") == times, "a restart")


async def go_on(trial: Trial, feeder: Feeder) -> None:
    """Waits until the flow has published something more and has a source."""
    published = len(trial.flow.events("published"))
    await trial.flow.until(lambda: len(trial.flow.events("published")) > published, "a publish")


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_the_line_to_a_queue_is_cut(server: NatsServer, tmp_path: Path) -> None:
    await asyncio.gather(*(cut_queue(server, tmp_path, kind) for kind in QUEUES))
