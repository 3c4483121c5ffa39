"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.flow import Trap
from tests.faults.process import FlowProcess, copy_state
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

FREEZES = (
    Trap("publish.part", 3, "freeze"),  # in the middle of a publish: a part has left
    Trap("epoch.appended", 5, "freeze"),  # committed, nothing of it has left
    Trap("publish.done", 4, "freeze"),  # it has left, and nobody has noted it
    Trap("commit.written", 4, "freeze"),  # inside the transaction
    Trap("sink.asked", 1, "freeze"),  # on the way back: it knows what the broker holds, as of then
)
LIMITS = {"publish_window_records": 64}
REFUSALS = ("Fenced", "SinkAhead")


async def fail_over(server: RabbitServer, folder: Path, kind: Kind, freeze: Trap) -> str:
    """One trial; returns how the zombie ended."""
    where = f"{kind} frozen at {freeze.point}"
    async with Trial(server, folder, kind, limits=LIMITS) as trial, AsyncExitStack() as stack:
        old = trial.flow
        async with trial.feeder() as feeder:
            if freeze.point == "sink.asked":
                old.start()
                await old.until(lambda: len(old.events("published")) > 3, "publishing")
                old.kill()
            old.start(freeze)
            await old.frozen()
            await refused_by_the_lock(trial)
            fed = feeder.total
            state = copy_state(old.setup.state, trial.folder / "copy")
            new = FlowProcess(trial.setup(state=state), trial.folder, "new")
            stack.callback(new.stop)
            new.start()
            await new.until(lambda: len(new.events("published")) > 4, f"{where}: the new flow")
            # the broker has let the frozen one go: its lock, and the messages that it held, which the new one has done
            async with asyncio.timeout(60):
                while await trial.progress() <= fed:
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
        assert not new.events("restarting"), f"{where}: the zombie disturbed its successor"
    return str(words["error"])


async def refused_by_the_lock(trial: Trial) -> None:
    """A second process on the same store, while the first is frozen, does not even open it."""
    second = FlowProcess(trial.setup(), trial.folder, "second")
    second.start()
    words = await second.ended()
    assert words["error"] == "StateLockedError", words
    assert not second.events("started")


@pytest.mark.timeout(180)
async def test_a_zombie_is_refused(server: RabbitServer, tmp_path: Path) -> None:
    """Frozen in the middle of a publish, for each way to publish."""
    ends = await asyncio.gather(*(fail_over(server, tmp_path, kind, FREEZES[0]) for kind in KINDS))
    assert len(ends) == 3


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_zombie_is_refused_wherever_it_was_frozen(server: RabbitServer, tmp_path: Path) -> None:
    trials = (fail_over(server, tmp_path, kind, freeze) for freeze in FREEZES[1:] for kind in KINDS)
    ends = await asyncio.gather(*trials)
    assert len(ends) == 12
