"""The line to the server is cut, or falls silent: that connector is opened again, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.brokers.server import free_port
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial
from tests.faults.proxy import Line


class Lines:
    """A server, and a trial whose source and sink have a line to it each.

    Brokers name the address that clients shall use; so each line leads to a listener that names the line.
    """

    def __init__(self, folder: Path, timeout_seconds: float = 5.0) -> None:
        self._folder, self._timeout_seconds = folder, timeout_seconds
        self._stack = AsyncExitStack()
        self.server = KafkaServer()
        self.source, self.sink = (Line(self.server, free_port()) for _ in range(2))

    async def __aenter__(self) -> Lines:
        for line in (self.source, self.sink):
            await self._stack.enter_async_context(line)
        host, (plain, controller) = self.server.host, self.server.ports
        open_ones = f"PLAINTEXT://{host}:{plain}"
        self.server.extra_config = {
            "listeners": f"{open_ones},CONTROLLER://{host}:{controller},"
            f"SOURCE://{host}:{self.source.port},SINK://{host}:{self.sink.port}",
            "advertised.listeners": f"{open_ones},SOURCE://{self.source.url},SINK://{self.sink.url}",
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", "SOURCE", "SINK")
            ),
        }
        await self._stack.enter_async_context(self.server)
        options = {"timeout_seconds": self._timeout_seconds, "fetch_wait_seconds": 0.2}
        trial = Trial(self.server, self._folder, source_url=self.source.url, sink_url=self.sink.url, options=options)
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
        await flow.until(lambda: len(flow.events("published")) > before, "a publish")

    async def failed(self, kind: str, more_than: int) -> None:
        """Waits until the flow has noticed that it lost one more connector."""
        await self.trial.flow.until(lambda: self.failures(kind) > more_than, f"a lost {kind}")

    def failures(self, kind: str) -> int:
        return sum(event["kind"] == kind for event in self.trial.flow.events("failed"))

    async def cut_source(self) -> None:
        """Cuts the source's line, on which it waits for something unless its buffer is full; only it may notice."""
        before, others = self.failures("source"), self.failures("sink")
        assert self.source.cut() >= 1
        async with asyncio.timeout(60):
            while self.failures("source") == before:
                # one that had enough to give asks for nothing, and its client is connected again by itself: cut that
                for _ in range(60):
                    await asyncio.sleep(0.05)
                    if self.failures("source") > before:
                        break
                else:
                    self.source.cut()
        assert self.failures("sink") == others, "the sink failed when the line of the source was cut"

    async def cut_sink(self) -> None:
        """Cuts the sink's line between the records and the end of a transaction, which then goes by another one."""
        others = self.failures("source")
        await self.trial.flow.held(self.gate)
        assert self.sink.cut() >= 1
        self.gate.unlink()
        await self.going_on()
        assert self.failures("source") == others, "the source failed when the line of the sink was cut"


@pytest.mark.timeout(180)
async def test_a_line_is_cut(tmp_path: Path, long_run: bool) -> None:
    """Also in the middle of a publish: the flow opens that connector again, and only that one."""
    rounds = 5 if long_run else 2
    rng = random.Random(rounds)
    async with Lines(tmp_path) as lines:
        trial = lines.trial
        async with trial.feeder() as feeder:
            await lines.going_on()
            for _ in range(rounds):
                await lines.cut_source()
                await lines.going_on()
                await lines.cut_sink()
                sinks, sources = lines.failures("sink"), lines.failures("source")
                lines.sink.cut_after(rng.randrange(200, 40_000))
                await trial.flow.until(lambda: not lines.sink.armed, "enough bytes")
                await lines.failed("sink", sinks)
                assert lines.failures("source") == sources
                await lines.going_on()
        await trial.check(feeder)
        assert trial.flow.events("restarting") == []
        assert trial.flow.lives == 1
        assert lines.source.cuts >= rounds
        assert lines.sink.cuts >= 2 * rounds


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_silent_source_is_noticed_and_opened_again(tmp_path: Path) -> None:
    async with Lines(tmp_path, timeout_seconds=2) as lines:
        async with lines.trial.feeder() as feeder:
            await lines.going_on()
            lines.source.silence()
            await lines.failed("source", 0)
            await lines.going_on()
            lines.source.let_through()
            await lines.going_on()
        await lines.trial.check(feeder)
        assert lines.failures("sink") == 0


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_what_a_sink_sent_on_a_silent_line_arrives_late(tmp_path: Path) -> None:
    """When it has long been opened again and has gone on."""
    async with Lines(tmp_path, timeout_seconds=2) as lines:
        async with lines.trial.feeder(bursts=(1300,)) as feeder:
            for _ in range(3):
                await lines.trial.flow.held(lines.gate)  # everything but the end of the transaction has left
                before = lines.failures("sink")
                lines.sink.silence()
                lines.gate.unlink()
                await lines.failed("sink", before)
                await lines.going_on()
                lines.sink.let_through()
                await lines.going_on()
        await asyncio.sleep(0.2)
        await lines.trial.check(feeder)
        assert lines.trial.flow.events("restarting") == []
        assert lines.failures("source") == 0
        assert lines.sink.silences >= 3
        assert lines.sink.late_bytes > 0
