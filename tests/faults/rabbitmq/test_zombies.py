"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults import zombies
from tests.faults.flow import Trap
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial
from tests.faults.zombies import FREEZES

LIMITS = {"publish_window_records": 64}


async def fail_over(server: RabbitServer, folder: Path, kind: Kind, freeze: Trap) -> str:
    async with Trial(server, folder, kind, limits=LIMITS) as trial:
        return await zombies.fail_over(trial, trial.feeder(), freeze, undisturbed=True)


@pytest.mark.timeout(240)
async def test_a_zombie_is_refused(server: RabbitServer, tmp_path: Path, long_run: bool) -> None:
    """Frozen in the middle of a publish, and wherever else, for each way to publish."""
    freezes = FREEZES if long_run else FREEZES[:1]
    ends = await asyncio.gather(*(fail_over(server, tmp_path, kind, freeze) for freeze in freezes for kind in KINDS))
    assert len(ends) == len(freezes) * len(KINDS)
