"""Operator: the coroutine that drives one stage, from an inlet to its outlets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streamflow.batch import Fragment
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import Transform
from streamflow.operators.routing import Inlet

SLICE_SECONDS: Final = 0.002
"""How long an operator keeps the loop before it lets others run."""

WAITED_SECONDS: Final = 20e-6
"""An inlet that took longer has waited, and others have run meanwhile."""


class Outlet(Protocol):
    """Where an operator's fragments go: a channel, or the end of a path."""

    async def put(self, part: Fragment) -> None: ...


class Shard(Protocol):
    """What an operator tells and asks of the shard it runs in."""

    def arrive(self, epoch: int, stage: int) -> None:
        """Everything of the epoch has passed this stage; its tables are sealed."""
        ...

    def wake_at(self, stage: int, now_ms: int | None) -> None:
        """A timer of this stage is due then."""
        ...

    def late(self, step: str, records: int) -> None:
        """So many records of a number were late for a window step."""
        ...

    def point(self, name: str) -> None:
        """A crash point is passed."""
        ...

    def breathe(self) -> None:
        """Gives the interpreter to the store's thread for a moment, when it is at work."""
        ...


@dataclass(slots=True)
class Sync:
    """Runs a stage of synchronous steps.

    GUARANTEE: tables are sealed after the last row before a barrier and before the first one behind it.

    Args:
        bound: The stage and its tables.
        transform: Its loop; may be replaced between two numbers.
        outlets: One per exit and tap.
        shard: Whom to tell.
    """

    bound: BoundStage
    transform: Transform
    outlets: Sequence[Outlet]
    shard: Shard
    busy_seconds: float = 0.0
    _next: tuple[Transform, Sequence[Outlet]] | None = None

    def replace(self, transform: Transform, outlets: Sequence[Outlet]) -> None:
        """Takes another loop and its outlets; they are used from the next number on."""
        self._next = transform, outlets

    @property
    def under_way(self) -> int:
        """Rows that wait for users' awaits: none."""
        return 0

    async def run(self, inlet: Inlet) -> None:
        """Runs until cancelled; raises what a step raised, as `StepError`."""
        slice_ends = 0.0
        clock = self.bound.monotonic
        whole = True
        while True:
            asked = clock()
            part = await inlet.get()
            started = clock()
            if started - asked > WAITED_SECONDS:
                slice_ends = started + SLICE_SECONDS
            # what is fast enough ends its fragment before it has to pause in it
            self.bound.until = slice_ends + SLICE_SECONDS
            self.bound.entered = started
            if whole and self._next is not None:
                (self.transform, self.outlets), self._next = self._next, None
            whole = part.last
            for outs in self.transform(part):
                self.bound.entered = 0.0
                await self._give(outs)
                # thousands of rows that nobody needs any more are let go while they are at hand: later it costs more
                del outs
                self.shard.breathe()
                if clock() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = clock() + SLICE_SECONDS
                    self.bound.until = slice_ends + SLICE_SECONDS
                self.bound.entered = clock()
            self.bound.entered = 0.0
            if part.last:
                self._finish(part)
            del part
            self.busy_seconds += clock() - started

    async def _give(self, outs: Sequence[Fragment]) -> None:
        for outlet, out in zip(self.outlets, outs, strict=True):
            await outlet.put(out)

    def _finish(self, part: Fragment) -> None:
        for table in self.bound.tables.values():
            if table.ttl_ms is not None:
                table.expire(part.batch.now_ms)
        if self.bound.timers:
            self.shard.wake_at(self.bound.stage.index, self.bound.next_due_ms())
        for name, windows in self.bound.windows.items():
            if windows.late:
                self.shard.late(name, windows.late)
                windows.late = 0
        epoch = part.batch.barrier
        if epoch is not None:
            for table in self.bound.tables.values():
                table.seal()
            self.shard.point("stage.sealed")
            self.shard.arrive(epoch, self.bound.stage.index)
