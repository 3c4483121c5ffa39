"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.process import FlowProcess, copy_state
from tests.faults.trial import FlowTrial

FREEZES = (
    Trap("publish.part", 3, "freeze"),  # in the middle of a publish: a part has left
    Trap("epoch.appended", 5, "freeze"),  # committed, nothing of it has left
    Trap("publish.done", 4, "freeze"),  # it has left, and nobody has noted it
    Trap("commit.written", 4, "freeze"),  # inside the transaction of the store
    Trap("sink.asked", 1, "freeze"),  # on the way back: it knows what the broker holds, as of then
)
REFUSALS = ("Fenced", "SinkAhead")


async def fail_over(
    trial: FlowTrial,
    feeder: Feeder,
    freeze: Trap,
    *,
    refusals: Sequence[str] = REFUSALS,
    undisturbed: bool = False,
) -> str:
    """Freezes the flow, lets another take over on a copy of its store, and thaws it.

    Args:
        trial: A trial whose flow was not started yet.
        feeder: Its feeder.
        freeze: Where the flow stops.
        refusals: How the zombie may end.
        undisturbed: Whether its end must not make the new flow open anything again.

    Returns:
        How the zombie ended.
    """
    where, old = f"{trial} frozen at {freeze.point}", trial.flow
    async with AsyncExitStack() as stack:
        async with feeder:
            if freeze.point.startswith("sink."):
                old.start()
                await old.until(lambda: len(old.events("published")) > 3, "publishing")
                old.kill()
            old.start(freeze)
            await old.frozen()
            await _refused_by_the_lock(trial)
            fed = feeder.total
            state = copy_state(old.setup.state, trial.folder / "copy")
            new = FlowProcess(trial.setup(state=state), trial.folder, "new")
            stack.callback(new.stop)
            new.start()
            await new.until(lambda: len(new.events("published")) > 4, f"{where}: the new flow")
            # beyond all that the zombie may have read before it was frozen; else the two would be equals in a race
            async with trial.outsider() as outsider, asyncio.timeout(60):
                while await outsider.count(trial.sink) <= fed:
                    await asyncio.sleep(0.05)
            old.thaw()
            words = await old.ended()
            assert words["error"] in refusals, f"{where}: {words}"
            assert words["hint"]
            published = len(new.events("published"))
            await new.until(lambda: len(new.events("published")) > published + 2, f"{where}: going on")
        trial.flow = new
        await trial.check(feeder)
        assert new.lives == 1
        if undisturbed:
            assert not new.events("restarting"), (
                f"{where}: {new.events('restarting')}\n{new.account()}\n{old.account()}"
            )
    return str(words["error"])


async def _refused_by_the_lock(trial: FlowTrial) -> None:
    """A second process on the same store, while the first is frozen, does not even open it."""
    second = FlowProcess(trial.setup(), trial.folder, "second")
    second.start()
    words = await second.ended()
    assert words["error"] == "StateLockedError", words
    assert not second.events("started")
