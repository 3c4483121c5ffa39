"""Flows on a real RabbitMQ, killed by SIGKILL again and again, and their broker too: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import NatsServer, RabbitServer
from tests.faults.deaths import die_at_random
from tests.faults.flow import Trap
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

LIMITS = {"publish_window_records": 64}
"""Many small writes and transactions, so that kills fall between them."""


async def kill_at_random(
    server: RabbitServer, folder: Path, kind: Kind, kills: int, nats: NatsServer | None = None
) -> int:
    """Returns how many times the flow was killed."""
    async with Trial(server, folder, kind, nats, limits=LIMITS) as trial:
        return await die_at_random(trial, trial.feeder(kills), kills, longest_seconds=1.2)


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: RabbitServer, tmp_path: Path, long_run: bool) -> None:
    kills = 14 if long_run else 4
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, kills) for kind in KINDS))
    assert sum(killed) == kills * len(KINDS)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_the_flow_from_a_queue_to_nats_is_killed_at_random_instants(server: RabbitServer, tmp_path: Path) -> None:
    """Exactly-once over two brokers."""
    async with NatsServer(sync="2m") as nats:
        kinds = (Kind(sink="nats"), Kind("quorum", "nats"))
        killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, 12, nats) for kind in kinds))
    assert sum(killed) == 24


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_broker_is_killed(tmp_path: Path) -> None:
    """While nothing happens, and while flows stand in the middle of a publish or of acknowledging."""
    assert await kill_brokers(tmp_path, 3) == 6


async def kill_brokers(folder: Path, rounds: int) -> int:
    """Kills the broker of several flows again and again; returns how often."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RabbitServer())
        trials = [
            await stack.enter_async_context(Trial(server, folder, kind, exact=False, limits=LIMITS)) for kind in KINDS
        ]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            point = "ack.begun" if trial.kind.source == "quorum" else "publish.part"
            trial.flow.start(Trap(point, action="hold", gate=trial.folder / "gate"))
        for trial in trials:
            await trial.flow.until(lambda trial=trial: trial.flow.said("published"), "a publish")  # type: ignore[misc]
        await trials[0].settle()
        for number in range(rounds):
            for feeder in feeders:
                feeder.paused = True
            await asyncio.sleep(0.3)
            await server.kill_async()
            if not number:
                # longer than three heartbeats of the trials
                await asyncio.sleep(3.5)
            await server.start_async()
            for feeder in feeders:
                feeder.paused = False
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
