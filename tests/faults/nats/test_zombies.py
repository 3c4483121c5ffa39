"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults import zombies
from tests.faults.flow import Trap
from tests.faults.nats.trial import KINDS, QUEUES, Kind, Trial
from tests.faults.zombies import FREEZES


async def fail_over(server: NatsServer, folder: Path, kind: Kind, freeze: Trap) -> str:
    async with Trial(server, folder, kind) as trial:
        await trial.begin()
        return await zombies.fail_over(trial, trial.feeder(), freeze)


@pytest.mark.timeout(240)
async def test_a_zombie_is_refused(server: NatsServer, tmp_path: Path, long_run: bool) -> None:
    """Frozen in the middle of a publish, and wherever else, for each way to guard a sink."""
    freezes = FREEZES if long_run else FREEZES[:1]
    ends = await asyncio.gather(*(fail_over(server, tmp_path, kind, freeze) for freeze in freezes for kind in KINDS))
    assert len(ends) == len(freezes) * len(KINDS)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_zombie_behind_a_queue_is_refused(server: NatsServer, tmp_path: Path) -> None:
    """The new flow takes over the queue as well: the zombie acknowledges nothing that only it has committed."""
    ends = await asyncio.gather(*(fail_over(server, tmp_path, kind, FREEZES[0]) for kind in QUEUES))
    assert len(ends) == 3
