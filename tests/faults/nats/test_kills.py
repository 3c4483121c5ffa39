"""Flows on a real NATS, killed by SIGKILL again and again, and their server too: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.deaths import die_at_random
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.nats.trial import KINDS, MSGID, QUEUES, Kind, Trial
from tests.faults.oracle import check_at_least_once

SERVED = (*KINDS, MSGID, Kind("workqueue"))


async def kill_at_random(server: NatsServer, folder: Path, kind: Kind, kills: int) -> int:
    """Returns how many times the flow was killed."""
    async with Trial(server, folder, kind, limits={"ack_wait_seconds": 0.3}) as trial:
        if kind.source == "interest":
            await trial.begin()
        return await die_at_random(trial, trial.feeder(kills), kills, longest_seconds=0.8)


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: NatsServer, tmp_path: Path, long_run: bool) -> None:
    kills = 20 if long_run else 7
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, kills) for kind in KINDS))
    assert sum(killed) == kills * len(KINDS) >= 20


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_the_flow_behind_a_queue_is_killed_at_random_instants(server: NatsServer, tmp_path: Path) -> None:
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, 10) for kind in QUEUES))
    assert sum(killed) >= 20


@pytest.mark.timeout(240)
async def test_the_server_is_killed(tmp_path: Path, long_run: bool) -> None:
    """While nothing happens, in the middle of a publish, and in the middle of acknowledging."""
    rounds = 2 if long_run else 1
    assert await kill_servers(tmp_path, rounds) == (1 + len(SERVED)) * rounds


async def kill_servers(folder: Path, rounds: int) -> int:
    """Kills the server of several flows again and again; returns how often."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer())
        trials = [await stack.enter_async_context(Trial(server, folder, kind)) for kind in SERVED]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            point = "ack.begun" if trial.kind.source == "workqueue" else "publish.part"
            trial.flow.start(Trap(point, action="hold", gate=trial.folder / "gate"))
        for _ in range(rounds):
            await kill_when_idle(server, trials, feeders)
            for trial in trials:
                gate = trial.folder / "gate"
                await trial.flow.held(gate)
                await server.kill_async()
                gate.unlink()
                await asyncio.sleep(0.1)
                await server.start_async()
        kills = server.starts - 1
        for feeder in feeders:
            await feeder.stop()
        for trial, feeder in zip(trials, feeders, strict=True):
            if trial.kind is MSGID:
                await trial.wait_for(feeder)
                check_at_least_once(feeder.sent, await trial.results(), "msgid")
            else:
                await trial.check(feeder)
            assert len(trial.flow.events("failed")) + len(trial.flow.events("restarting")) >= kills
            assert trial.flow.lives == 1
        return kills


async def kill_when_idle(server: NatsServer, trials: Sequence[Trial], feeders: Sequence[Feeder]) -> None:
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
