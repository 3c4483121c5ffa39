"""How a flow across brokers is killed: at random instants, and at crash points on its way and on its way back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.across.trial import Trial
from tests.faults.flow import Trap

ON_THE_WAY = (
    "number.formed",
    "barrier.formed",
    "commit.begun",
    "commit.written",
    "commit.done",
    "epoch.appended",
    "publish.begun",
    "publish.part",
    "publish.done",
    "ack.begun",
)
ON_THE_WAY_BACK = ("store.claimed", "store.opened", "state.loaded", "source.opened", "sink.fenced", "sink.asked")
SETTINGS = {"commit_min": "30ms", "epoch_bytes_max": 30_000, "chunk_bytes": 2_000}
"""Small epochs, of many small chunks: there is always something between two points."""
NTH_MAX = 3
RECORDS_MIN = 3000


@dataclass(frozen=True)
class Survived:
    """What flows went through: the points at which they died, "" for any instant, and how many records were checked."""

    deaths: tuple[str, ...]
    results: int

    @staticmethod
    def total(each: Iterable[Survived]) -> Survived:
        """What several went through."""
        every = list(each)
        return Survived(tuple(death for one in every for death in one.deaths), sum(one.results for one in every))


def schedule(number: int, kills: int) -> list[Trap | None]:
    """How a flow dies: in turn at a point on its way, at any instant, and at a point on its way back.

    Args:
        number: Of the trial: trials with numbers that follow each other meet all points between them.
        kills: How many times.
    """
    rng = random.Random(number)
    deaths: list[Trap | None] = []
    for turn in range(kills):
        at = number + turn // 3 * 5
        deaths.append(
            (
                Trap(ON_THE_WAY[at % len(ON_THE_WAY)], rng.randint(1, NTH_MAX)),
                None,
                Trap(ON_THE_WAY_BACK[at % len(ON_THE_WAY_BACK)]),
            )[turn % 3]
        )
    return deaths


async def kill(trial: Trial, seed: int, deaths: Sequence[Trap | None]) -> Survived:
    """Kills a flow again and again while it is fed, lets it end its work, and checks every single result."""
    rng = random.Random(seed)
    async with trial, trial.feeding(seed) as feeder:
        for trap in deaths:
            trial.flow.start(trap)
            if trap is not None:
                await trial.flow.killed(trap)
            else:
                # from before the state file is open to the middle of processing
                await asyncio.sleep(rng.uniform(0.01, 0.3 if rng.random() < 0.3 else 1.0))
                trial.flow.kill()
        trial.flow.start()
        await trial.flow.until(lambda: trial.flow.said("published") and feeder.total >= RECORDS_MIN, "enough records")
        await feeder.stop()
        await trial.check(feeder)
        met = [event["point"] for event in trial.flow.events("trapped")]
        assert met == [trap.point for trap in deaths if trap is not None], trial
        assert trial.flow.kills == len(deaths), trial
        assert trial.flow.events("committed") and len(trial.published) == len(trial.sinks), trial
    survived = Survived(tuple(trap.point if trap else "" for trap in deaths), feeder.total * len(trial.sinks))
    print(f"{trial}: {len(survived.deaths)} kills, {survived.results:,} results, none missing, none twice")
    return survived
