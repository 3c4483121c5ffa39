"""Flows between RabbitMQ streams, killed by SIGKILL again and again, and their broker too: nothing lost or twice."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamflow.state.files import destroy
from tests.brokers import RabbitServer
from tests.faults.flow import Trap
from tests.faults.points import POINTS
from tests.faults.rabbitmq.stream_trial import KINDS, PLAIN, Kind, Trial

FIRST_LIFE = ("source.pinned", "sink.baseline")
RECOVERY = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs that spill, of many small chunks."""
QUIET = ("fold.written", "progress.noted")
"""What is done when nothing else is: folding changes into rows, and noting what was published last."""
NTH_MAX = {"spill.done": 3, "fold.written": 1, "publish.part": 4, "progress.noted": 1}


async def kill_at_random(server: RabbitServer, folder: Path, kind: Kind, kills: int) -> int:
    """Returns how many times the flow was killed."""
    rng = random.Random(f"{kind} {kills}")
    async with Trial(server, folder, kind) as trial:
        async with trial.feeder(kills) as feeder:
            for _ in range(kills):
                trial.flow.start()
                # from before the state file is open to the middle of processing
                await asyncio.sleep(rng.uniform(0.01, 0.3 if rng.random() < 0.3 else 0.9))
                trial.flow.kill()
        trial.flow.start()
        await trial.check(feeder)
        assert trial.flow.events("committed")
        return trial.flow.kills


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(server: RabbitServer, tmp_path: Path, long_run: bool) -> None:
    kills = 20 if long_run else 5
    killed = await asyncio.gather(*(kill_at_random(server, tmp_path, kind, kills) for kind in KINDS))
    assert sum(killed) == kills * len(KINDS) >= 15


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


async def kill_at_every_point(server: RabbitServer, folder: Path, kind: Kind, seed: int) -> int:
    """One trial: as many deaths as there are traps, then a life to the end. Returns the number of kills."""
    traps = schedule(random.Random(seed))
    assert {trap.point for trap in traps} == set(POINTS)
    async with Trial(server, folder, kind, settings=SETTINGS) as trial:
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
async def test_killed_at_every_point(server: RabbitServer, tmp_path: Path) -> None:
    kinds = KINDS[:2]
    kills = await asyncio.gather(*(kill_at_every_point(server, tmp_path, kind, n) for n, kind in enumerate(kinds)))
    assert sum(kills) >= len(kinds) * len(POINTS), kills


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_broker_is_killed(rabbit_server: RabbitServer, tmp_path: Path) -> None:
    """While nothing happens, and while every flow stands in the middle of a publish."""
    server, rounds = rabbit_server, 4
    async with AsyncExitStack() as stack:
        trials = [await stack.enter_async_context(Trial(server, tmp_path, kind, settings=SETTINGS)) for kind in KINDS]
        feeders = [await stack.enter_async_context(trial.feeder(seed)) for seed, trial in enumerate(trials)]
        for trial in trials:
            trial.flow.start(Trap("publish.part", action="hold", gate=trial.folder / "gate"))
        await asyncio.sleep(1)  # what the broker notes of its first streams reaches the disk half a second later
        for feeder in feeders:
            feeder.paused = True
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.wait_for(feeder)
        await server.kill_async()
        await server.start_async()
        for feeder in feeders:
            feeder.paused = False
        for _ in range(rounds):
            await asyncio.gather(*(trial.flow.held(trial.folder / "gate") for trial in trials))
            await server.kill_async()
            for trial in trials:
                (trial.folder / "gate").unlink()
            await server.start_async()
        kills = server.starts - 1
        assert kills == 1 + rounds
        for feeder in feeders:
            await feeder.stop()
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.check(feeder)
            assert len(trial.flow.events("failed")) >= kills
            assert trial.flow.lives == 1


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_the_broker_is_killed_in_a_publish(rabbit_server: RabbitServer, tmp_path: Path) -> None:
    async with Trial(rabbit_server, tmp_path, PLAIN, settings=SETTINGS) as trial, trial.feeder() as feeder:
        gate = trial.folder / "gate"
        trial.flow.start(Trap("publish.part", action="hold", gate=gate))
        await asyncio.sleep(1)
        await trial.flow.held(gate)
        await rabbit_server.kill_async()
        gate.unlink()
        await rabbit_server.start_async()
        await feeder.stop()
        await trial.check(feeder)
        assert trial.flow.events("failed")
        assert trial.flow.lives == 1
