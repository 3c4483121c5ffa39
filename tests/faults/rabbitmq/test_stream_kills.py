"""Flows between RabbitMQ streams, killed by SIGKILL again and again, and their broker too: nothing lost or twice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.deaths import POINTS, SETTINGS, die_at_every_point, die_at_random
from tests.faults.flow import Trap
from tests.faults.rabbitmq.stream_trial import KINDS, PLAIN, Kind, Trial


async def kill_at_random(server: RabbitServer, folder: Path, kind: Kind, kills: int) -> int:
    async with Trial(server, folder, kind) as trial:
        return await die_at_random(trial, trial.feeder(kills), kills, longest_seconds=0.9)


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: RabbitServer, tmp_path: Path, long_run: bool) -> None:
    kills = 20 if long_run else 5
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, kills) for kind in KINDS))
    assert sum(killed) == kills * len(KINDS) >= 15


async def kill_at_every_point(server: RabbitServer, folder: Path, kind: Kind, seed: int) -> int:
    async with Trial(server, folder, kind, settings=SETTINGS) as trial:
        return await die_at_every_point(trial, trial.feeder(seed), seed)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point(server: RabbitServer, tmp_path: Path) -> None:
    kinds = KINDS[:2]
    kills = await asyncio.gather(*(kill_at_every_point(server, tmp_path, kind, n) for n, kind in enumerate(kinds)))
    assert sum(kills) >= len(kinds) * len(POINTS), kills


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_broker_is_killed(rabbit_server: RabbitServer, tmp_path: Path) -> None:
    """While nothing happens, and while every flow stands in the middle of a publish."""
    server, rounds = rabbit_server, 4
    async with AsyncExitStack() as stack:
        trials = [await stack.enter_async_context(Trial(server, tmp_path, kind, settings=SETTINGS)) for kind in KINDS]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            trial.flow.start(Trap("publish.part", action="hold", gate=trial.folder / "gate"))
        await asyncio.sleep(1)  # what the broker notes of its first streams reaches the disk half a second later
        for feeder in feeders:
            feeder.paused = True
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.wait_for(feeder)
        await server.kill_async()
        await server.start_async()
        for feeder in feeders:
            feeder.paused = False
        for _ in range(rounds):
            await asyncio.gather(*(trial.flow.held(trial.folder / "gate") for trial in trials))
            await server.kill_async()
            for trial in trials:
                (trial.folder / "gate").unlink()
            await server.start_async()
        kills = server.starts - 1
        assert kills == 1 + rounds
        for feeder in feeders:
            await feeder.stop()
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.check(feeder)
            assert len(trial.flow.events("failed")) >= kills
            assert trial.flow.lives == 1


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_the_broker_is_killed_in_a_publish(rabbit_server: RabbitServer, tmp_path: Path) -> None:
    async with Trial(rabbit_server, tmp_path, PLAIN, settings=SETTINGS) as trial, trial.feeder() as feeder:
        gate = trial.folder / "gate"
        trial.flow.start(Trap("publish.part", action="hold", gate=gate))
        await asyncio.sleep(1)
        await trial.flow.held(gate)
        await rabbit_server.kill_async()
        gate.unlink()
        await rabbit_server.start_async()
        await feeder.stop()
        await trial.check(feeder)
        assert trial.flow.events("failed")
        assert trial.flow.lives == 1
