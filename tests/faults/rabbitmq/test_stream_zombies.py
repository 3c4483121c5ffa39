"""Zombies on RabbitMQ streams: a frozen flow, its store copied and taken over by another, doubles nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults import zombies
from tests.faults.flow import Trap
from tests.faults.rabbitmq.stream_trial import PLAIN, Kind, Trial
from tests.faults.zombies import FREEZES


async def fail_over(server: RabbitServer, folder: Path, kind: Kind, freeze: Trap) -> str:
    # many small chunks: a publish has several parts
    async with Trial(server, folder, kind, settings={"chunk_bytes": 2_000}) as trial:
        return await zombies.fail_over(trial, trial.feeder(), freeze)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_zombie_is_refused_wherever_it_was_frozen(server: RabbitServer, tmp_path: Path) -> None:
    trials = (fail_over(server, tmp_path, kind, freeze) for freeze in FREEZES for kind in (PLAIN, Kind(False, True)))
    ends = await asyncio.gather(*trials)
    assert len(ends) == 2 * len(FREEZES)
