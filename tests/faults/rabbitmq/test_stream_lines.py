"""The line between a flow and RabbitMQ's streams is cut, or falls silent: nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.proxy import Line
from tests.faults.rabbitmq.stream_flow import Way
from tests.faults.rabbitmq.stream_trial import Trial

CUTS = 6


async def lines(stack: AsyncExitStack, server: RabbitServer) -> tuple[Line, Line, Way]:
    """Lines to the two ports of the server: AMQP (the lock) and streams."""
    lock = await stack.enter_async_context(Line(server))
    streams = await stack.enter_async_context(Line(server, server.stream_port))
    return lock, streams, Way(lock.url, streams.near_port)


async def publishing(trial: Trial) -> None:
    """Waits until the flow is at work."""
    before = len(trial.flow.events("published"))
    await trial.flow.until(lambda: len(trial.flow.events("published")) > before + 2, "publishing")


@pytest.mark.timeout(120)
async def test_a_line_is_cut(server: RabbitServer, tmp_path: Path) -> None:
    """In turn that of the source, that of the sink, and that of the sink's lock: then the sink stops at once."""
    async with AsyncExitStack() as stack:
        _, source_line, way_in = await lines(stack, server)
        lock_line, sink_line, way_out = await lines(stack, server)
        trial = await stack.enter_async_context(Trial(server, tmp_path, way_in=way_in, way_out=way_out))
        async with trial.feeder() as feeder:
            trial.flow.start()
            for number in range(CUTS):
                await publishing(trial)
                before = len(trial.flow.events("failed"))
                line = (source_line, sink_line, lock_line)[number % 3]
                if line is sink_line:
                    line.cut_after(700)  # in the middle of a frame
                    await trial.flow.until(lambda: not sink_line.armed, "the cut")
                else:
                    assert line.cut()
                await trial.flow.until(lambda: len(trial.flow.events("failed")) > before, "a failure")  # noqa: B023
        await trial.check(feeder)
        kinds = {event["kind"] for event in trial.flow.events("failed")}
        assert kinds == {"source", "sink"}
        assert len(trial.flow.events("failed")) >= CUTS
        assert trial.flow.lives == 1 and not trial.flow.events("restarting")
        assert source_line.cuts and sink_line.cuts and lock_line.cuts


async def silent_lines(server: RabbitServer, tmp_path: Path) -> None:
    """Nothing passes any more and nobody is told: heartbeats notice; what was sent then comes late and is dropped."""
    async with AsyncExitStack() as stack:
        _, source_line, way_in = await lines(stack, server)
        _, sink_line, way_out = await lines(stack, server)
        trial = await stack.enter_async_context(Trial(server, tmp_path, way_in=way_in, way_out=way_out))
        async with trial.feeder() as feeder:
            trial.flow.start()
            for line, kind in ((source_line, "source"), (sink_line, "sink")):
                await publishing(trial)
                line.silence()
                await trial.flow.until(
                    lambda: any(event["kind"] == kind for event in trial.flow.events("failed")),  # noqa: B023
                    f"the {kind} to notice",
                )
                await asyncio.sleep(0.5)
                line.let_through()
        await trial.check(feeder)
        assert source_line.silences and sink_line.silences
        assert trial.flow.lives == 1
