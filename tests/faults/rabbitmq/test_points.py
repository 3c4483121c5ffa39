"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.points import POINTS
from tests.faults.process import copy_state
from tests.faults.rabbitmq.outside import depth
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

RECOVERY = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs that spill, of many small chunks."""
LIMITS = {"publish_window_records": 64}
QUIET = ("fold.written", "progress.noted")
"""What is done when nothing else is: folding changes into rows, and noting what was published last."""
NTH_MAX = {"spill.done": 3, "fold.written": 1, "publish.part": 4, "progress.noted": 1}
PASSED = [point for point in POINTS if point != "source.pinned"]
"""A queue has no position to pin."""


def schedule(rng: random.Random) -> list[Trap]:
    """Every point once, first what only a new store passes; between the others two kills on the way back."""
    on_the_way = [point for point in PASSED if point not in ("sink.baseline", *RECOVERY, "stop.drained")]
    rng.shuffle(on_the_way)
    back = 2 * rng.sample(RECOVERY, len(RECOVERY))
    traps = [Trap("sink.baseline")]
    for number, point in enumerate(on_the_way):
        traps.append(Trap(point, rng.randint(1, NTH_MAX.get(point, 4))))
        if number % 3 == 2:
            traps += [Trap(back.pop()), Trap(back.pop())]
    return [*traps, *(Trap(point) for point in back[: len(back) % 2]), Trap("stop.drained")]


async def run(server: RabbitServer, folder: Path, kind: Kind, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    traps = schedule(random.Random(seed))
    assert {trap.point for trap in traps} == set(PASSED)
    async with Trial(server, folder, kind, settings=SETTINGS, limits=LIMITS) as trial:
        flow = trial.flow
        async with trial.feeder(seed) as feeder:
            for trap in traps:
                flow.start(trap)
                if trap.point == "stop.drained":
                    await flow.until(lambda: flow.said("published"), "a publish")
                    flow.terminate()
                if trap.point in QUIET:
                    await flow.until(lambda: flow.said("published") or not flow.alive, "a publish")
                    feeder.paused = True
                await flow.killed(trap)
                feeder.paused = False
                await check_acknowledged(trial, feeder)
        flow.start()
        await trial.check(feeder)
        points = [event["point"] for event in flow.events("trapped")]
        assert set(points) == set(PASSED)
        assert len(points) == len(traps)
        return flow.kills


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
