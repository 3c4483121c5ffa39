"""Async steps without state: map, filter, flat_map and batch functions that await."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterable, Callable
from typing import Any, Final

from streamflow.batch import FRAGMENT_ROWS_MAX, Fragment
from streamflow.clock import Cancellable, Clock
from streamflow.operators.async_stage import AsyncStage
from streamflow.operators.bind import BoundStage
from streamflow.operators.cached import cached
from streamflow.operators.calls import Call
from streamflow.operators.context import CALL_OUTPUTS_MAX, Context
from streamflow.operators.line import Failed, Flight
from streamflow.operators.operator import Shard
from streamflow.operators.stateful import all_of
from streamflow.policy import CallLimits

OPEN_ROWS_MAX: Final = 65_536
"""Rows begun and not let go on, of a step that keeps no order."""


class AsyncMap(AsyncStage):
    """Runs a stage of one async step without state.

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
        self, bound: BoundStage, shard: Shard, clock: Clock, rows_max: int = FRAGMENT_ROWS_MAX, *, merged: bool = False
    ) -> None:
        limits: CallLimits = bound.stage.steps[0].options["limits"]
        super().__init__(bound, shard, clock, rows_max, ordered=limits.ordered or merged)
        self._window = limits.window if limits.ordered else OPEN_ROWS_MAX
        self._unbegun: deque[Flight] = deque()
        self._unbegun_rows = 0
        self._batches = self._step.kind == "async_map_batch"
        self._first_at = 0.0
        self._alarm: Cancellable | None = None

    @property
    def under_way(self) -> int:
        return self._line.open + self._unbegun_rows

    def _function(self) -> Callable[..., Any]:
        function = self._step.call
        if self._step.kind in ("async_flat_map", "async_map_batch"):
            function = collected(function, self._step.name)
        return function if self._limits.cache is None else cached(function, self._limits.cache, self._clock)

    def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

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

    # -- calls ------------------------------------------------------------------------------------

    def _next_calls(self, most: int) -> list[Call]:
        if self._batches:
            call = self._next_batch() if self._calls.running < self._limits.concurrency else None
            return [] if call is None else [call]
        return [self._call(*self._next_row()) for _ in range(min(most, self._room()))]

    def _next_call(self) -> Call | None:
        if self._batches:
            return super()._next_call()
        return self._call(*self._next_row()) if self._room() > 0 else None

    def _room(self) -> int:
        """So many rows may be begun."""
        return min(self._limits.concurrency - self._calls.running, self._window - self._line.open, self._unbegun_rows)

    def _next_row(self) -> tuple[Flight, int]:
        """Takes the next row, whose call is to be begun."""
        flight = self._unbegun[0]
        row = flight.begun
        flight.begun += 1
        self._line.open += 1
        self._unbegun_rows -= 1
        if flight.begun == flight.rows:
            self._unbegun.popleft()
        return flight, row

    def _call(self, flight: Flight, row: int) -> Call:
        part = flight.part
        if not self._step.options.get("context"):
            return Call((part.values[row],), (flight, row))
        context: Context[Any, Any] = Context(self.bound.graph.flow, self._step.name)
        assert part.origins is not None
        context.batch, context.origin = part.batch, part.origins[row]
        context.key = None if part.keys is None else part.keys[row]
        context.time = None if part.times is None else part.times[row]
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
        places = [self._next_row() for _ in range(count)]
        self._first_at = self._clock.monotonic()
        return Call(([flight.part.values[row] for flight, row in places],), places)

    def _time_is_over(self) -> None:
        self._alarm = None
        self._wake.set()

    def _ended(self, call: Call) -> None:
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


def collected(function: Callable[..., Any], step: str) -> Callable[..., Any]:
    """A function that gives many rows, made to give them as a list, of a bounded length."""

    async def call(*arguments: Any) -> list[Any]:
        made = function(*arguments)
        if isinstance(made, AsyncIterable):
            return await all_given(made)
        if not inspect.isawaitable(made):
            raise TypeError(f"the function of async step {step!r} returned {made!r:.60}, which cannot be awaited")
        return all_of(await made)

    return call


async def all_given(outputs: AsyncIterable[Any], own: Callable[[Any], Any] = lambda value: value) -> list[Any]:
    """Takes all outputs of an async generator, each as it is when it is given, up to a bound."""
    found: list[Any] = []
    async for output in outputs:
        found.append(own(output))
        if len(found) > CALL_OUTPUTS_MAX:
            raise ValueError(f"more than {CALL_OUTPUTS_MAX} outputs in one call of an async step")
    return found
