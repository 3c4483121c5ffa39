"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from streamflow.state.files import destroy
from tests.brokers import NatsServer
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.nats.outside import Outsider
from tests.faults.nats.trial import KINDS, MSGID, QUEUES, Kind, Trial
from tests.faults.points import POINTS
from tests.faults.process import copy_state

FIRST_LIFE = ("source.pinned", "sink.baseline")
RECOVERY = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs that spill, of many small chunks."""
QUIET = ("fold.written", "progress.noted")
"""What is done when nothing else is: folding changes into rows, and noting what was published last."""
NTH_MAX = {"spill.done": 3, "fold.written": 1, "publish.part": 4, "progress.noted": 1}


def schedule(kind: Kind, rng: random.Random) -> list[Trap]:
    """Every point once, first what only a new store passes; between the others two kills on the way back."""
    traps = [Trap(point) for point in FIRST_LIFE if point in points_of(kind)]
    on_the_way = [point for point in points_of(kind) if point not in (*FIRST_LIFE, *RECOVERY, "stop.drained")]
    rng.shuffle(on_the_way)
    back = 2 * rng.sample(RECOVERY, len(RECOVERY))
    for number, point in enumerate(on_the_way):
        traps.append(Trap(point, rng.randint(1, NTH_MAX.get(point, 4))))
        if number % 3 == 2:
            traps += [Trap(back.pop()), Trap(back.pop())]
    return [*traps, *(Trap(point) for point in back[: len(back) % 2]), Trap("stop.drained")]


def points_of(kind: Kind) -> list[str]:
    """What a flow of that kind passes: all there are, but a queue has no position to pin."""
    return [point for point in POINTS if kind.source == "limits" or point != "source.pinned"]


async def run(server: NatsServer, folder: Path, kind: Kind, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    traps = schedule(kind, random.Random(seed))
    assert {trap.point for trap in traps} == set(points_of(kind))
    async with Trial(server, folder, kind, settings=SETTINGS) as trial:
        flow = trial.flow
        if kind.source == "interest":
            # messages that nobody has asked for are not kept: first the durable
            traps.insert(0, Trap("source.opened"))
            flow.start(traps[0])
            await flow.killed(traps[0])
            destroy(trial.folder / "flow.db")
        async with trial.feeder(seed) as feeder:
            for trap in traps[flow.lives :]:
                flow.start(trap)
                if trap.point == "stop.drained":
                    await flow.until(lambda: flow.said("published"), "a publish")
                    flow.terminate()
                if trap.point in QUIET:
                    await flow.until(lambda: flow.said("published") or not flow.alive, "a publish")
                    feeder.paused = True
                await flow.killed(trap)
                feeder.paused = False
                if trap.point == "source.pinned":
                    # nothing was taken yet, but the other first thing may have happened: a new store for that
                    destroy(trial.folder / "flow.db")
                if kind.source != "limits":
                    await check_acknowledged(trial, feeder)
        flow.start()
        await trial.check(feeder)
        points = [event["point"] for event in flow.events("trapped")]
        assert set(points) == set(points_of(kind))
        assert len(points) == len(traps)
        return flow.kills


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
async def test_killed_at_every_point(tmp_path: Path) -> None:
    async with NatsServer(sync="2m") as server:
        kinds = (*KINDS, MSGID)  # which is exact too while no restart takes longer than the window
        kills = await asyncio.gather(*(run(server, tmp_path, kind, seed) for seed, kind in enumerate(kinds)))
    assert sum(kills) >= 4 * len(POINTS), kills


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point_behind_a_queue(tmp_path: Path) -> None:
    async with NatsServer(sync="2m") as server:
        kills = await asyncio.gather(*(run(server, tmp_path, kind, seed) for seed, kind in enumerate(QUEUES, 10)))
    assert sum(kills) >= 3 * (len(POINTS) - 1), kills
