"""Async stages: what all of them share - taking fragments in, letting rows go on in their turn, passing barriers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from streamflow.batch import Fragment
from streamflow.clock import Clock
from streamflow.graph import OnError, Port
from streamflow.operators.bind import BoundStage
from streamflow.operators.calls import Call, Calls
from streamflow.operators.exits import Exits
from streamflow.operators.line import Line
from streamflow.operators.operator import SLICE_SECONDS, Outlet, Shard
from streamflow.operators.routing import Inlet
from streamflow.policy import CallLimits
from streamflow.state.keyed import MISSING

BEGUN_AT_ONCE: Final = 32
"""Calls begun before the operator looks at the time."""


class AsyncStage(ABC):
    """Runs a stage of one async step.

    GUARANTEE: every number leaves once and in order; a barrier passes behind the last row before it.
    BOUND: ``concurrency`` calls under way, 64 micro-batches.

    Args:
        bound: The stage.
        shard: Whom to tell.
        clock: The time.
        rows_max: Most rows in a fragment.
        ordered: Whether rows leave in their order.
    """

    def __init__(self, bound: BoundStage, shard: Shard, clock: Clock, rows_max: int, *, ordered: bool) -> None:
        self.bound = bound
        self.busy_seconds = 0.0
        self._step = bound.stage.steps[0]
        self._limits: CallLimits = self._step.options["limits"]
        self._shard = shard
        self._clock = clock
        self._line = Line(Exits(bound), self._failed, rows_max, ordered=ordered)
        self._outlets: Sequence[Outlet] = ()
        self._next: tuple[Exits, Sequence[Outlet]] | None = None
        self._wake = asyncio.Event()

    def replace(self, taps: Sequence[Port], outlets: Sequence[Outlet]) -> None:
        """Takes other taps and their outlets; they are used from the next number on."""
        self._next = Exits(self.bound, taps), outlets

    @property
    @abstractmethod
    def under_way(self) -> int:
        """Rows taken in that have not left: they wait for users' awaits, here or of a row before them."""

    @abstractmethod
    def _function(self) -> Callable[..., Any]:
        """What a call calls."""

    @abstractmethod
    def _has_room(self) -> bool:
        """Whether another fragment may be taken in."""

    @abstractmethod
    def _take(self, part: Fragment) -> None:
        """Takes a fragment in."""

    @abstractmethod
    def _next_calls(self, most: int) -> list[Call]:
        """The next calls that there is room for, up to so many; empty if there is none."""

    @abstractmethod
    def _ended(self, call: Call) -> None:
        """A call is done."""

    @abstractmethod
    def _close(self) -> None:
        """Takes back what was asked of the clock."""

    async def run(self, inlet: Inlet) -> None:
        """Runs until cancelled; raises what a call raised, as `StepError`."""
        retry = self._step.options.get("retry")
        self._calls = Calls(self._step.name, self._function(), self._limits, retry, self._clock, self._call_ended)
        self._calls.watched = self.bound
        self._calls.more = self._next_call
        self._calls.told = self._wake.set
        getting: asyncio.Task[Fragment] | None = None
        try:
            while True:
                self._wake.clear()
                if self._calls.broken is not None:
                    raise self._calls.broken
                if getting is not None and getting.done():
                    self._take(getting.result())
                    getting = None
                moved = await self._move()
                if getting is None and self._has_room():
                    getting = asyncio.create_task(inlet.get())
                    getting.add_done_callback(lambda _: self._wake.set())
                if not moved:
                    await self._wake.wait()
        finally:
            if getting is not None:
                getting.cancel()
                await asyncio.wait([getting])
            self._close()
            await self._calls.close()

    async def _move(self) -> bool:
        """Begins calls and lets go on what is done; whether anything changed."""
        started = self._clock.monotonic()
        moved = self._begin(started + SLICE_SECONDS)
        for like, outs in self._outgoing():
            for outlet, out in zip(self._outlets, outs, strict=True):
                await outlet.put(out)
            if like.last:
                self._finish(like)
            moved = True
        self._shard.breathe()
        now = self._clock.monotonic()
        self.busy_seconds += now - started
        if now > started + SLICE_SECONDS:
            await asyncio.sleep(0)
        return moved

    def _begin(self, until: float) -> bool:
        """Begins as many calls as there is room for, but for no longer than until then."""
        began = False
        while calls := self._next_calls(BEGUN_AT_ONCE):
            began = True
            self.bound.entered = self._clock.monotonic()
            try:
                self._calls.begin(calls)
            finally:
                self.bound.entered = 0.0
            if self._clock.monotonic() > until:
                self._wake.set()
                break
        return began

    def _next_call(self) -> Call | None:
        return next(iter(self._next_calls(1)), None)

    def _outgoing(self) -> Iterator[tuple[Fragment, tuple[Fragment, ...]]]:
        ready = self._line.ready()
        while True:
            if self._next is not None and self._line.between:
                (self._line.exits, self._outlets), self._next = self._next, None
            found = next(ready, None)
            if found is None:
                return
            yield found

    def _finish(self, part: Fragment) -> None:
        """A number has left."""
        epoch = part.batch.barrier
        if epoch is not None:
            for table in self.bound.tables.values():
                table.seal()
            self._shard.point("stage.sealed")
            self._shard.arrive(epoch, self.bound.stage.index)

    def _call_ended(self, call: Call) -> None:
        self._wake.set()
        self._ended(call)

    def _failed(self, part: Fragment, row: int, error: Exception) -> None:
        """A row whose turn it is has failed, and no attempt is left."""
        key = MISSING if part.keys is None else part.keys[row]
        if self._step.options["on_error"] is OnError.STOP:
            self.bound.blamed = (0, key)
            raise self.bound.fail(error, part, row) from error
        self.bound.lost(0, error, part, row, key)
