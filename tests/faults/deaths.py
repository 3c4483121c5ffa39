"""A flow that dies again and again: at random instants, or by itself at every crash point that it passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from streamflow.points import POINTS as ALL_POINTS
from streamflow.state.files import destroy
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.trial import FlowTrial

POINTS: Final = tuple(point for point in ALL_POINTS if point != "record.buried")
"""All but one: in these trials no broker refuses a record for good. The trials of poison kill there."""
FIRST_LIFE = ("source.pinned", "sink.baseline")
RECOVERY = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS: dict[str, Any] = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs that spill, of many small chunks."""
QUIET = ("fold.written", "progress.noted")
"""What is done when nothing else is: folding changes into rows, and noting what was published last."""
NTH_MAX = {"spill.done": 3, "fold.written": 1, "progress.noted": 1}


async def die_at_random(trial: FlowTrial, feeder: Feeder, kills: int, *, longest_seconds: float) -> int:
    """Kills the flow again and again, from before its state file is open to the middle of processing.

    Returns:
        How many times it was killed.
    """
    rng = random.Random(f"{trial} {kills}")
    async with feeder:
        for _ in range(kills):
            trial.flow.start()
            await asyncio.sleep(rng.uniform(0.01, longest_seconds * (0.35 if rng.random() < 0.3 else 1)))
            trial.flow.kill()
    trial.flow.start()
    await trial.check(feeder)
    assert trial.flow.events("committed")
    return trial.flow.kills


def schedule(points: Sequence[str], rng: random.Random) -> list[Trap]:
    """Every point once, first what only a new store passes; between the others two kills on the way back."""
    traps = [Trap(point) for point in FIRST_LIFE if point in points]
    on_the_way = [point for point in points if point not in (*FIRST_LIFE, *RECOVERY, "stop.drained")]
    rng.shuffle(on_the_way)
    back = 2 * rng.sample(RECOVERY, len(RECOVERY))
    for number, point in enumerate(on_the_way):
        traps.append(Trap(point, rng.randint(1, NTH_MAX.get(point, 4))))
        if number % 3 == 2:
            traps += [Trap(back.pop()), Trap(back.pop())]
    return [*traps, *(Trap(point) for point in back[: len(back) % 2]), Trap("stop.drained")]


async def die_at_every_point(
    trial: FlowTrial,
    feeder: Feeder,
    seed: int,
    points: Sequence[str] = POINTS,
    after: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """As many deaths as there are traps, then a life to the end.

    Args:
        trial: A trial with `SETTINGS`.
        feeder: Its feeder.
        seed: Of the order of deaths.
        points: What the flow passes.
        after: Looks at the trial after each death.

    Returns:
        How many times the flow was killed.
    """
    flow, traps = trial.flow, schedule(points, random.Random(seed))
    assert {trap.point for trap in traps} == set(points)
    before = len(flow.events("trapped"))
    async with feeder:
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
            if after is not None:
                await after()
    flow.start()
    await trial.check(feeder)
    died_at = [event["point"] for event in flow.events("trapped")][before:]
    assert set(died_at) == set(points)
    assert len(died_at) == len(traps)
    return flow.kills
