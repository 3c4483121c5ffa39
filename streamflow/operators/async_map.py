"""Async steps without state: map, filter, flat_map and batch functions that await."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from streamflow.batch import FRAGMENT_ROWS_MAX, Fragment
from streamflow.clock import Cancellable, Clock
from streamflow.graph import OnError, Port, Step
from streamflow.operators.bind import BoundStage
from streamflow.operators.calls import Call, Calls
from streamflow.operators.context import CALL_OUTPUTS_MAX, Context
from streamflow.operators.exits import Exits
from streamflow.operators.line import Failed, Flight, Line
from streamflow.operators.operator import SLICE_SECONDS, Outlet, Shard
from streamflow.operators.routing import Inlet
from streamflow.policy import CallLimits
from streamflow.state.keyed import MISSING

BEGUN_AT_ONCE: Final = 32
"""Calls begun before the operator looks at the time."""

OPEN_ROWS_MAX: Final = 65_536
"""Rows begun and not let go on, of a step that keeps no order."""


class AsyncMap:
    """Runs a stage of one async step.

    GUARANTEE: every record is called once per life of the shard but for retries; results leave in the order of the
    records, as soon as all before them are there. A barrier passes behind the last row before it.
    BOUND: ``concurrency`` calls under way, ``window`` rows from the oldest unfinished one on, 64 micro-batches.

    Args:
        bound: The stage.
        shard: Whom to tell.
        clock: The time.
        rows_max: Most rows in a fragment.
        merged: Whether rows of this stage are merged with others further on, which needs their order.
    """

    def __init__(
        self, bound: BoundStage, shard: Shard, clock: Clock, *, rows_max: int = FRAGMENT_ROWS_MAX, merged: bool = False
    ) -> None:
        self.bound = bound
        self.busy_seconds = 0.0
        self._step = step = bound.stage.steps[0]
        self._shard = shard
        self._clock = clock
        self._limits: CallLimits = step.options["limits"]
        self._window = self._limits.window if self._limits.ordered else OPEN_ROWS_MAX
        self._line = Line(Exits(bound), self._failed, rows_max, ordered=self._limits.ordered or merged)
        self._outlets: Sequence[Outlet] = ()
        self._next: tuple[Exits, Sequence[Outlet]] | None = None
        self._unbegun: deque[Flight] = deque()
        self._unbegun_rows = 0
        self._batches = step.kind == "async_map_batch"
        self._first_at = 0.0
        self._alarm: Cancellable | None = None

    def replace(self, taps: Sequence[Port], outlets: Sequence[Outlet]) -> None:
        """Takes other taps and their outlets; they are used from the next number on."""
        self._next = Exits(self.bound, taps), outlets

    @property
    def under_way(self) -> int:
        """Rows taken in that have not left: they wait for users' awaits, here or of a row before them."""
        return self._line.open + self._unbegun_rows

    async def run(self, inlet: Inlet) -> None:
        """Runs until cancelled; raises what a call raised, as `StepError`."""
        self._wake = asyncio.Event()
        options = self._step.options
        self._calls = Calls(
            self._step.name, _collected(self._step), self._limits, options.get("retry"), self._clock, self._ended
        )
        self._calls.entered = self._entered
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
            if self._alarm is not None:
                self._alarm.cancel()
            await self._calls.close()

    def _has_room(self) -> bool:
        if not self._line:
            return True
        return not self._line.full and self._unbegun_rows < self._limits.concurrency * self._limits.size

    def _take(self, part: Fragment) -> None:
        flight = self._line.add(part)
        if part.values:
            if not self._unbegun_rows:
                self._first_at = self._clock.monotonic()
            self._unbegun.append(flight)
            self._unbegun_rows += len(part.values)

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
        epoch = part.batch.barrier
        if epoch is not None:
            self._shard.point("stage.sealed")
            self._shard.arrive(epoch, self.bound.stage.index)

    # -- calls ------------------------------------------------------------------------------------

    def _begin(self, until: float) -> bool:
        """Begins as many calls as there is room for, but for no longer than until then."""
        began = False
        while calls := self._next_calls():
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

    def _next_calls(self) -> list[Call]:
        room = self._limits.concurrency - self._calls.running
        if self._batches:
            call = self._next_batch() if room > 0 else None
            return [] if call is None else [call]
        room = min(room, self._window - self._line.open, BEGUN_AT_ONCE)
        return [] if room <= 0 else [self._call(flight, row) for flight, row in islice(self._rows(), room)]

    def _rows(self) -> Iterator[tuple[Flight, int]]:
        """Takes rows whose calls are to be begun."""
        while self._unbegun:
            flight = self._unbegun[0]
            row = flight.begun
            flight.begun += 1
            self._line.open += 1
            self._unbegun_rows -= 1
            if flight.begun == flight.rows:
                self._unbegun.popleft()
            yield flight, row

    def _call(self, flight: Flight, row: int) -> Call:
        part = flight.part
        if not self._step.options.get("context"):
            return Call((part.values[row],), (flight, row))
        context: Context[Any, Any] = Context(self.bound.graph.flow, self._step.name)
        assert part.origins is not None
        context.batch, context.origin = part.batch, part.origins[row]
        context.key = None if part.keys is None else part.keys[row]
        return Call((context, part.values[row]), (flight, row))

    def _next_batch(self) -> Call | None:
        """A call of a batch function, once the batch is full, its time is over, or an epoch waits for it."""
        count = min(self._unbegun_rows, self._limits.size)
        if not count or self._line.open + count > self._window * self._limits.size:
            return None
        wait = self._first_at + self._limits.within_seconds - self._clock.monotonic()
        if count < self._limits.size and wait > 0 and not self._line.holds_barrier:
            if self._alarm is None:
                self._alarm = self._clock.call_later(wait, self._time_is_over)
            return None
        places = list(islice(self._rows(), count))
        self._first_at = self._clock.monotonic()
        return Call(([flight.part.values[row] for flight, row in places],), places)

    def _time_is_over(self) -> None:
        self._alarm = None
        self._wake.set()

    def _ended(self, call: Call) -> None:
        self._wake.set()
        if self._batches:
            self._batch_ended(call)
            return
        flight, row = call.place
        outcome: Any
        if call.error is not None:
            outcome = Failed(call.error)
        elif self._step.kind == "async_map":
            outcome = (call.value,)
        elif self._step.kind == "async_filter":
            outcome = (flight.part.values[row],) if call.value else ()
        else:
            outcome = call.value
        self._line.settle(flight, row, outcome)

    def _batch_ended(self, call: Call) -> None:
        places: list[tuple[Flight, int]] = call.place
        for at, (flight, row) in enumerate(places):
            outcome: Any
            if call.error is not None:
                outcome = Failed(call.error)
            elif len(call.value) == len(places):
                outcome = (call.value[at],)
            else:
                outcome = call.value if at == 0 else []
            self._line.settle(flight, row, outcome)

    def _failed(self, part: Fragment, row: int, error: Exception) -> None:
        key = MISSING if part.keys is None else part.keys[row]
        if self._step.options["on_error"] is OnError.STOP:
            self.bound.blamed = (0, key)
            raise self.bound.fail(error, part, row) from error
        self.bound.lost(0, error, part, row, key)

    def _entered(self, since: float) -> None:
        self.bound.entered = since


def _collected(step: Step) -> Callable[..., Any]:
    """The step's function; one that gives many rows is made to give them as a list, of a bounded length."""
    function = step.call
    if step.kind not in ("async_flat_map", "async_map_batch"):
        return function

    async def collected(*arguments: Any) -> list[Any]:
        made = function(*arguments)
        if isinstance(made, AsyncIterable):
            found: list[Any] = []
            async for output in made:
                found.append(output)
                _check_count(step, found)
            return found
        if not inspect.isawaitable(made):
            raise TypeError(f"the function of async step {step.name!r} returned {made!r:.60}, which cannot be awaited")
        found = list(islice(await made, CALL_OUTPUTS_MAX + 1))
        _check_count(step, found)
        return found

    return collected


def _check_count(step: Step, found: list[Any]) -> None:
    if len(found) > CALL_OUTPUTS_MAX:
        raise ValueError(f"more than {CALL_OUTPUTS_MAX} outputs in one call of async step {step.name!r}")
