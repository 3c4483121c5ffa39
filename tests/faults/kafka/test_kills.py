"""Flows on a real Kafka, killed by SIGKILL again and again: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.kafka.trial import Trial


async def kill_at_random(server: KafkaServer, folder: Path, seed: int, kills: int) -> int:
    """Returns how many times the flow was killed."""
    rng = random.Random(seed)
    async with Trial(server, folder) as trial:
        async with trial.feeder(seed) as feeder:
            for _ in range(kills):
                trial.flow.start()
                # from before the state file is open to the middle of processing
                await asyncio.sleep(rng.uniform(0.01, 0.4 if rng.random() < 0.3 else 1.2))
                trial.flow.kill()
        trial.flow.start()
        await trial.check(feeder)
        assert trial.flow.events("committed")
        return trial.flow.kills


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: KafkaServer, tmp_path: Path, long_run: bool) -> None:
    kills = 15 if long_run else 5
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, seed, kills) for seed in range(2)))
    assert sum(killed) == 2 * kills
