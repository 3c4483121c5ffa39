"""The flow kills itself at every named crash point, on its way and on its way back: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from streamflow.state.files import destroy
from tests.brokers import KafkaServer
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial
from tests.faults.points import POINTS

FIRST_LIFE = ("source.pinned", "sink.baseline")
RECOVERY = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs that spill, of many small chunks."""
QUIET = ("fold.written", "progress.noted")
"""What is done when nothing else is: folding changes into rows, and noting what was published last."""
NTH_MAX = {"spill.done": 3, "fold.written": 1, "progress.noted": 1}


def schedule(rng: random.Random) -> list[Trap]:
    """Every point once, first what only a new store passes; between the others two kills on the way back."""
    traps = [Trap(point) for point in FIRST_LIFE]
    on_the_way = [point for point in POINTS if point not in (*FIRST_LIFE, *RECOVERY, "stop.drained")]
    rng.shuffle(on_the_way)
    back = 2 * rng.sample(RECOVERY, len(RECOVERY))
    for number, point in enumerate(on_the_way):
        traps.append(Trap(point, rng.randint(1, NTH_MAX.get(point, 4))))
        if number % 3 == 2:
            traps += [Trap(back.pop()), Trap(back.pop())]
    return [*traps, *(Trap(point) for point in back[: len(back) % 2]), Trap("stop.drained")]


async def run(server: KafkaServer, folder: Path, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    traps = schedule(random.Random(seed))
    assert {trap.point for trap in traps} == set(POINTS)
    async with Trial(server, folder, settings=SETTINGS) as trial:
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
                if trap.point == "source.pinned":
                    # nothing was taken yet, but the other first thing may have happened: a new store for that
                    destroy(trial.folder / "flow.db")
        flow.start()
        await trial.check(feeder)
        points = [event["point"] for event in flow.events("trapped")]
        assert set(points) == set(POINTS)
        assert len(points) == len(traps)
        return flow.kills


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killed_at_every_point(server: KafkaServer, tmp_path: Path) -> None:
    kills = await asyncio.gather(*(run(server, tmp_path, seed) for seed in range(2)))
    assert sum(kills) >= 2 * len(POINTS), kills
