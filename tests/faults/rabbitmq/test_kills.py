"""Flows on a real RabbitMQ, killed by SIGKILL again and again: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import NatsServer, RabbitServer
from tests.faults.deaths import die_at_random
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
