"""The broker is killed by SIGKILL under flows that write to it: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial

SINK_POINTS = ("sink.baseline", "publish.begun", "publish.part", "sink.fenced", "publish.done", "sink.asked")
"""The crash points between an outbox and the broker; those of the way back follow a kill on the way."""


@pytest.mark.timeout(400)
async def test_the_broker_is_killed(tmp_path: Path, long_run: bool) -> None:
    """While nothing happens, in the middle of a transaction, and at random instants."""
    rounds = 3 if long_run else 1
    assert await kill_brokers(tmp_path, rounds) == 3 * rounds


async def kill_brokers(folder: Path, rounds: int) -> int:
    """Kills the broker of two flows again and again; returns how often."""
    rng = random.Random(rounds)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(KafkaServer())
        trials = [await stack.enter_async_context(Trial(server, folder)) for _ in range(2)]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            trial.flow.start(Trap("publish.part", action="hold", gate=trial.folder / "gate"))
        gate = trials[0].folder / "gate"
        for _ in range(rounds):
            await kill_when_idle(server, trials, feeders)
            # every record of a transaction has arrived, and nobody has committed it
            await trials[0].flow.held(gate)
            await server.kill_async()
            gate.unlink()
            await asyncio.sleep(0.1)
            await server.start_async()
            await going_on(trials)
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            await server.kill_async()
            await server.start_async()
            await going_on(trials)
        kills = server.starts - 1
        for feeder in feeders:
            await feeder.stop()
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.check(feeder)
            assert trial.flow.lives == 1
            assert len(trial.flow.events("failed")) + len(trial.flow.events("restarting")) >= kills
        return kills


async def going_on(trials: Sequence[Trial]) -> None:
    """Waits until every flow publishes again."""
    before = [len(trial.flow.events("published")) for trial in trials]
    for trial, published in zip(trials, before, strict=True):
        await trial.flow.until(lambda: len(trial.flow.events("published")) > published, "publishing again")  # noqa: B023


async def kill_when_idle(server: KafkaServer, trials: Sequence[Trial], feeders: Sequence[Feeder]) -> None:
    for feeder in feeders:
        feeder.paused = True
    for trial, feeder in zip(trials, feeders, strict=True):
        await asyncio.sleep(0.2)
        await trial.wait_for(feeder)
    await server.kill_async()
    await asyncio.sleep(0.3)
    await server.start_async()
    for feeder in feeders:
        feeder.paused = False


@pytest.mark.timeout(120)
async def test_the_flow_is_killed_between_outbox_and_broker(server: KafkaServer, tmp_path: Path) -> None:
    """At each crash point of a sink, several at its transaction's open end."""
    async with Trial(server, tmp_path) as trial:
        async with trial.feeder() as feeder:
            for point in SINK_POINTS:
                for nth in (1, 2) if point == "publish.part" else (1,):
                    trap = Trap(point, nth)
                    trial.flow.start(trap)
                    await trial.flow.killed(trap)
        trial.flow.start()
        await trial.check(feeder)
        assert {event["point"] for event in trial.flow.events("trapped")} == set(SINK_POINTS)
        assert trial.flow.kills == len(SINK_POINTS) + 1
