"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.flow import Trap
from tests.faults.kafka.outside import Outsider
from tests.faults.kafka.trial import Trial
from tests.faults.process import FlowProcess, copy_state

FREEZES = (
    Trap("publish.part", 3, "freeze"),  # everything has left, the transaction is open
    Trap("epoch.appended", 5, "freeze"),  # committed, nothing of it has left
    Trap("publish.done", 4, "freeze"),  # it has left, and nobody has noted it
    Trap("commit.written", 4, "freeze"),  # inside the transaction of the store
    Trap("sink.fenced", 1, "freeze"),  # on the way back: it has begun its producer
    Trap("sink.asked", 1, "freeze"),  # and knows what the broker holds, as of then
)


async def fail_over(server: KafkaServer, folder: Path, freeze: Trap) -> str:
    """One trial; returns how the zombie ended."""
    where = f"frozen at {freeze.point}"
    async with Trial(server, folder) as trial, AsyncExitStack() as stack:
        old = trial.flow
        async with trial.feeder() as feeder:
            if freeze.point in ("sink.fenced", "sink.asked"):
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
            # beyond all that the zombie may have read before it was frozen
            async with Outsider(server) as outsider, asyncio.timeout(60):
                while await outsider.count(trial.sink) <= fed:
                    await asyncio.sleep(0.05)
            old.thaw()
            words = await old.ended()
            assert words["error"] == "Fenced", f"{where}: {words}"
            assert words["hint"]
            published = len(new.events("published"))
            await new.until(lambda: len(new.events("published")) > published + 2, f"{where}: going on")
        trial.flow = new
        await trial.check(feeder)
        assert new.lives == 1
        # the zombie gave way without disturbing the one that took over
        assert new.events("restarting") == new.events("failed") == [], f"{where}: {new.account()}"
    return str(words["error"])


async def refused_by_the_lock(trial: Trial) -> None:
    """A second process on the same store, while the first is frozen, does not even open it."""
    second = FlowProcess(trial.setup(), trial.folder, "second")
    second.start()
    words = await second.ended()
    assert words["error"] == "StateLockedError", words
    assert not second.events("started")


@pytest.mark.timeout(180)
async def test_a_zombie_is_fenced(server: KafkaServer, tmp_path: Path) -> None:
    """Frozen with an open transaction that holds its records."""
    assert await fail_over(server, tmp_path, FREEZES[0]) == "Fenced"


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_zombie_is_fenced_wherever_it_was_frozen(server: KafkaServer, tmp_path: Path) -> None:
    ends = await asyncio.gather(*(fail_over(server, tmp_path, freeze) for freeze in FREEZES[1:]))
    assert len(ends) == 5
