"""Flows on a real Kafka, killed by SIGKILL again and again: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.deaths import die_at_random
from tests.faults.kafka.trial import Trial


async def kill_at_random(server: KafkaServer, folder: Path, seed: int, kills: int) -> int:
    """Returns how many times the flow was killed."""
    async with Trial(server, folder) as trial:
        return await die_at_random(trial, trial.feeder(seed), kills, longest_seconds=1.2)


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: KafkaServer, tmp_path: Path, long_run: bool) -> None:
    kills = 15 if long_run else 5
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, seed, kills) for seed in range(2)))
    assert sum(killed) == 2 * kills
