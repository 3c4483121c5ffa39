"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.deaths import POINTS, SETTINGS, die_at_every_point
from tests.faults.kafka.trial import Trial


async def run(server: KafkaServer, folder: Path, seed: int) -> int:
    async with Trial(server, folder, settings=SETTINGS) as trial:
        return await die_at_every_point(trial, trial.feeder(seed), seed)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point(server: KafkaServer, tmp_path: Path) -> None:
    kills = await asyncio.gather(*(run(server, tmp_path, seed) for seed in range(2)))
    assert sum(kills) >= 2 * len(POINTS), kills
