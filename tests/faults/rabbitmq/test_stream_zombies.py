"""Zombies on RabbitMQ streams: a frozen flow, its store copied and taken over by another, doubles nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.flow import Trap
from tests.faults.process import FlowProcess, copy_state
from tests.faults.rabbitmq.stream_trial import PLAIN, Kind, Trial

FREEZES = (
    Trap("publish.part", 3, "freeze"),  # in the middle of a publish: a part has left
    Trap("epoch.appended", 5, "freeze"),  # committed, nothing of it has left
    Trap("publish.done", 4, "freeze"),  # it has left, and nobody has noted it
    Trap("sink.asked", 1, "freeze"),  # on the way back: it knows what the broker holds, as of then
)
REFUSALS = ("Fenced", "SinkAhead")


async def fail_over(server: RabbitServer, folder: Path, kind: Kind, freeze: Trap) -> str:
    """One trial; returns how the zombie ended."""
    where = f"{kind} frozen at {freeze.point}"
    # many small chunks: a publish has several parts
    async with Trial(server, folder, kind, settings={"chunk_bytes": 2_000}) as trial, AsyncExitStack() as stack:
        old = trial.flow
        async with trial.feeder() as feeder:
            if freeze.point == "sink.asked":
                old.start()
                await old.until(lambda: len(old.events("published")) > 3, "publishing")
                old.kill()
            old.start(freeze)
            await old.frozen()
            fed = feeder.total
            state = copy_state(old.setup.state, trial.folder / "copy")
            new = FlowProcess(trial.setup(state=state), trial.folder, "new")
            stack.callback(new.stop)
            new.start()
            await new.until(lambda: len(new.events("published")) > 4, f"{where}: the new flow")
            async with trial.outsider() as outsider, asyncio.timeout(60):
                while await outsider.count(trial.sink) <= fed:
                    await asyncio.sleep(0.05)
            old.thaw()
            words = await old.ended()
            assert words["error"] in REFUSALS, f"{where}: {words}"
            assert words["hint"]
            published = len(new.events("published"))
            await new.until(lambda: len(new.events("published")) > published + 2, f"{where}: going on")
        trial.flow = new
        await trial.check(feeder)
        assert new.lives == 1
    return str(words["error"])


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_zombie_is_refused_wherever_it_was_frozen(server: RabbitServer, tmp_path: Path) -> None:
    trials = (fail_over(server, tmp_path, kind, freeze) for freeze in FREEZES for kind in (PLAIN, Kind(False, True)))
    ends = await asyncio.gather(*trials)
    assert len(ends) == 2 * len(FREEZES)
