"""Flows between RabbitMQ streams, killed by SIGKILL again and again: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.deaths import POINTS, SETTINGS, die_at_every_point, die_at_random
from tests.faults.rabbitmq.stream_trial import KINDS, Kind, Trial


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
