"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.deaths import POINTS, SETTINGS, die_at_every_point
from tests.faults.feeder import Feeder
from tests.faults.process import copy_state
from tests.faults.rabbitmq.outside import depth
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

LIMITS = {"publish_window_records": 64}
SPILLING = {**SETTINGS, "epoch_bytes_max": 8_000}
"""What a queue delivers comes in small epochs: on a quiet machine few of them would pass 30 KB."""
PASSED = [point for point in POINTS if point != "source.pinned"]
"""A queue has no position to pin."""


async def run(server: RabbitServer, folder: Path, kind: Kind, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    async with Trial(server, folder, kind, settings=SPILLING, limits=LIMITS) as trial:
        feeder = trial.feeder(seed)
        return await die_at_every_point(trial, feeder, seed, PASSED, partial(check_acknowledged, trial, feeder))


async def check_acknowledged(trial: Trial, feeder: Feeder) -> None:
    """What has left the queue must be counted in the committed state: acknowledged after the commit only."""
    target = trial.folder / f"copy{trial.flow.lives}"
    with sqlite3.connect(copy_state(trial.folder / "flow.db", target)) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'counted'").fetchone()[0]
        query = "SELECT coalesce(sum(json_extract(value, '$.count')), 0) FROM counted"
        counted = connection.execute(query).fetchone()[0] if tables else 0
    connection.close()
    gone = 0
    for _ in range(100):
        # what a dead process held is given back when the broker has seen its connection end
        before = feeder.acknowledged
        gone = before - await depth(trial.server, trial.source)
        if gone <= counted:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{gone} messages were acknowledged, {counted} are committed")


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point(server: RabbitServer, tmp_path: Path) -> None:
    kills = await asyncio.gather(*(run(server, tmp_path, kind, seed) for seed, kind in enumerate(KINDS)))
    assert sum(kills) >= len(KINDS) * len(PASSED), kills
