"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from streamflow.state.files import destroy
from tests.brokers import NatsServer
from tests.faults.deaths import POINTS, SETTINGS, die_at_every_point
from tests.faults.feeder import Feeder
from tests.faults.nats.outside import Outsider
from tests.faults.nats.trial import KINDS, MSGID, QUEUES, Kind, Trial
from tests.faults.process import copy_state


def points_of(kind: Kind) -> list[str]:
    """What a flow of that kind passes: all there are, but a queue has no position to pin."""
    return [point for point in POINTS if kind.source == "limits" or point != "source.pinned"]


async def run(server: NatsServer, folder: Path, kind: Kind, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    async with Trial(server, folder, kind, settings=SETTINGS, limits={"ack_wait_seconds": 0.3}) as trial:
        if kind.source == "interest":
            # messages that nobody has asked for are not kept: first the durable
            await trial.begin()
            destroy(trial.folder / "flow.db")
        feeder = trial.feeder(seed)
        after = None if kind.source == "limits" else partial(check_acknowledged, trial, feeder)
        return await die_at_every_point(trial, feeder, seed, points_of(kind), after)


async def check_acknowledged(trial: Trial, feeder: Feeder) -> None:
    """What has left the queue must be counted in the committed state: acknowledged after the commit only."""
    async with Outsider(trial.server) as outsider:
        before = feeder.acknowledged
        gone = before - await outsider.count(trial.source)
    target = trial.folder / f"copy{trial.flow.lives}"
    with sqlite3.connect(copy_state(trial.folder / "flow.db", target)) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'counted'").fetchone()[0]
        query = "SELECT coalesce(sum(json_extract(value, '$.count')), 0) FROM counted"
        counted = connection.execute(query).fetchone()[0] if tables else 0
    connection.close()
    assert gone <= counted, f"{gone} messages were acknowledged, {counted} are committed"


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point(server: NatsServer, tmp_path: Path) -> None:
    kinds = (*KINDS, MSGID)  # which is exact too while no restart takes longer than the window
    kills = await asyncio.gather(*(run(server, tmp_path, kind, seed) for seed, kind in enumerate(kinds)))
    assert sum(kills) >= 4 * len(POINTS), kills


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point_behind_a_queue(server: NatsServer, tmp_path: Path) -> None:
    kills = await asyncio.gather(*(run(server, tmp_path, kind, seed) for seed, kind in enumerate(QUEUES, 10)))
    assert sum(kills) >= 3 * (len(POINTS) - 1), kills
