"""The broker is killed by SIGKILL under flows between its queues and its streams: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.deaths import SETTINGS
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.rabbitmq import stream_trial
from tests.faults.rabbitmq.test_kills import LIMITS
from tests.faults.rabbitmq.trial import KINDS, Trial
from tests.faults.trial import FlowTrial

IDLE = (0, 3)
"""Before these rounds the broker is also killed while nothing happens; the first time it stays away for long."""
AWAY_SECONDS = 3.5
"""Longer than three heartbeats of the trials."""
DECLARED_SECONDS = 2.5
"""Before, a broker that is killed may have forgotten what was declared."""
PATIENT = {"reopen_max": "600ms"}
"""Attempts of six flows to connect keep a broker from starting; it needs three seconds where nothing else runs."""


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_broker_is_killed(tmp_path: Path) -> None:
    """While nothing happens, and while every flow stands in the middle of a publish or of acknowledging."""
    assert await kill_brokers(tmp_path, 7) == 7 + len(IDLE)


def trials_of(server: RabbitServer, folder: Path) -> list[FlowTrial]:
    """A flow of every kind there is."""
    queues = [Trial(server, folder / "queues", kind, exact=False, limits=LIMITS, settings=PATIENT) for kind in KINDS]
    settings = {**SETTINGS, **PATIENT}
    streams = [stream_trial.Trial(server, folder / "streams", kind, settings=settings) for kind in stream_trial.KINDS]
    return [*queues, *streams]


async def kill_brokers(folder: Path, rounds: int) -> int:
    """Kills the broker of several flows again and again; returns how often."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RabbitServer())
        trials = [await stack.enter_async_context(trial) for trial in trials_of(server, folder)]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            reads_quorum = isinstance(trial, Trial) and trial.kind.source == "quorum"
            point = "ack.begun" if reads_quorum else "publish.part"
            trial.flow.start(Trap(point, action="hold", gate=trial.folder / "gate"))
        for trial in trials:
            await trial.flow.until(lambda trial=trial: trial.flow.said("published"), "a publish")  # type: ignore[misc]
        await asyncio.sleep(DECLARED_SECONDS)
        for number in range(rounds):
            if number in IDLE:
                await kill_when_idle(server, trials, feeders, 0 if number else AWAY_SECONDS)
            await asyncio.gather(*(trial.flow.held(trial.folder / "gate") for trial in trials))
            await server.kill_async()
            for trial in trials:
                (trial.folder / "gate").unlink()
            await server.start_async()
        kills = server.starts - 1
        for feeder in feeders:
            await feeder.stop()
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.check(feeder)
            assert len(trial.flow.events("failed")) + len(trial.flow.events("restarting")) >= kills
            assert trial.flow.lives == 1
        return kills


async def kill_when_idle(
    server: RabbitServer, trials: Sequence[FlowTrial], feeders: Sequence[Feeder], away_seconds: float
) -> None:
    for feeder in feeders:
        feeder.paused = True
    await asyncio.gather(*(trial.wait_for(feeder) for trial, feeder in zip(trials, feeders, strict=True)))
    await server.kill_async()
    await asyncio.sleep(away_seconds)
    await server.start_async()
    for feeder in feeders:
        feeder.paused = False
