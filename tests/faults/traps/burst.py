"""A burst: very much of a state file that is due at once, and what that takes of the loop's turns and of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from streamflow.batch import Taken
from streamflow.flow import Flow
from streamflow.graph import SOURCE
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Delta, Epoch
from tests.faults.traps.lives import BRISK, Life, Lives
from tests.faults.traps.slices import Memory, Slices, measured

EPOCHS = 10
SLICE_MS_MAX = 10
GROWN_BYTES_MAX = 48 << 20
"""Beyond what each of those that are due takes."""


async def write_checkpoint(
    flow: Flow, path: Path, table: str, keys: int, now_ms: int, entries_of: Callable[[range], Sequence[str]]
) -> None:
    """Writes a state file in which a table holds entries, without running the flow.

    Args:
        flow: Whose file it is; it has taken nothing from its sources.
        path: Where.
        table: The table.
        keys: How many keys it has.
        now_ms: The time of the last epoch.
        entries_of: Gives the entries of some of them, each as JSON.
    """
    job = Job(make_plan(flow.graph()), SqliteStore(path))
    await job.store.open(job.manifest(Engine(job).bound))
    taken = {step.name: Taken() for step in job.plan.graph.of_kind(SOURCE)}
    for epoch in range(1, EPOCHS + 1):
        entries = entries_of(range((epoch - 1) * keys // EPOCHS, epoch * keys // EPOCHS))
        delta = Delta(table, (0, 255), len(entries), f"[{','.join(entries)}]".encode())
        await job.store.commit(Epoch(epoch, epoch, now_ms, taken, deltas=[delta]))
    await job.store.close()


class Burst:
    """One life of a flow, measured from where it has started."""

    def __init__(self, life: Life, slices: Slices) -> None:
        self.engine = life.engine
        self.memory = Memory()
        self._life, self._slices = life, slices
        self._over: list[float] = []

    async def until(self, done: Callable[[], bool]) -> None:
        """Waits until something is done and committed; what comes then is not measured."""
        await self._life.until(lambda: done() and self.engine.pacer.idle, 200)
        self._over = self._slices.over(SLICE_MS_MAX)

    def check(self, count: int, *, bytes_max: int, freeing_ms_max: float, freeing_turns_max: int) -> None:
        """Asserts that it was bounded and let others run.

        Args:
            count: How many were due.
            bytes_max: How much memory each may take, beyond what it occupied before.
            freeing_ms_max: Longest turn of the loop: after very many, memory that goes back to the system takes some.
            freeing_turns_max: How many turns may be longer than `SLICE_MS_MAX`.
        """
        grown = self.memory.most - self.memory.before
        assert grown < GROWN_BYTES_MAX + bytes_max * count, f"{grown / count:.0f} bytes for each"
        assert max(self._over, default=0) < freeing_ms_max, self._over
        assert len(self._over) <= freeing_turns_max, f"{self._over} of {self._slices.total_seconds:.1f} s"


@asynccontextmanager
async def measured_burst(make_flow: Callable[[], Flow], path: Path) -> AsyncIterator[Burst]:
    """Runs a flow on the store's own thread, and measures it once it has started."""
    with measured() as slices:
        async with Lives(make_flow, path, BRISK, thread=True).life() as life:
            await life.until(life.started, 100)
            burst = Burst(life, slices)
            await asyncio.sleep(0)
            slices.milliseconds.clear()  # building the engine is the start, not the burst
            watch = asyncio.create_task(burst.memory.watch())
            try:
                yield burst
            finally:
                watch.cancel()
