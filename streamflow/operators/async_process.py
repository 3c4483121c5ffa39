"""Async process steps: state and timers per key, with calls that await; a key is held until its call returns."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator
from itertools import count, islice
from typing import Any

from streamflow.batch import END, FRAGMENT_ROWS_MAX, Fragment, Origin
from streamflow.clock import Clock
from streamflow.keys import Key
from streamflow.operators.async_map import all_given
from streamflow.operators.async_stage import AsyncStage
from streamflow.operators.bind import BoundStage
from streamflow.operators.calls import Call
from streamflow.operators.context import Context, timer_mark
from streamflow.operators.line import Failed, Flight, Sided
from streamflow.operators.operator import Shard
from streamflow.operators.stateful import Process, all_of
from streamflow.operators.values import own
from streamflow.plan import handled
from streamflow.state.images import KeyImage, verify


class Turn:
    """A record, or a timer, whose key is held by its call or waits to be."""

    __slots__ = ("arguments", "context", "flight", "function", "image", "key", "over", "row")

    def __init__(self, flight: Flight, row: int, context: Context[Any, Any]) -> None:
        self.flight = flight
        self.row = row
        self.context = context
        self.key: Key = context.key
        self.function: Callable[..., Any]
        self.arguments: tuple[Any, ...] = ()
        self.image: KeyImage | None = None
        self.over = False


class AsyncProcess(AsyncStage):
    """Runs a stage of one async process step.

    GUARANTEE: calls of one key run one after the other, in the order of its records; a failed one leaves no trace
    under a policy other than stop. No call is under way when the step's state is sealed. Timers that a number's time
    makes due fire when all calls before it are done, before its records; one that is set by a call fires with a number
    behind that call.
    BOUND: ``concurrency`` calls under way, 64 micro-batches.

    Args:
        bound: The stage.
        shard: Whom to tell.
        clock: The time.
        rows_max: Most rows in a fragment.
    """

    def __init__(self, bound: BoundStage, shard: Shard, clock: Clock, rows_max: int = FRAGMENT_ROWS_MAX) -> None:
        super().__init__(bound, shard, clock, rows_max, ordered=True)
        self.careful = False
        self._process: Process = bound.env["process0"]
        self._handled = handled(self._step)
        self._waiting: dict[Key, deque[Turn]] = {}
        self._ready: deque[Turn] = deque()
        self._held: Fragment | None = None
        self._due: Iterator[tuple[Key, str, int]] = iter(())
        self._fired = count()

    @property
    def under_way(self) -> int:
        return self._line.open

    def _function(self) -> Callable[..., Any]:
        return self._attempt

    def _close(self) -> None:
        for turn in self._ready:
            turn.over = True

    def _has_room(self) -> bool:
        if self._held is not None or self._line.holds_barrier:
            return False
        return not self._line or (not self._line.full and len(self._ready) < self._limits.concurrency)

    def _take(self, part: Fragment) -> None:
        timers, now_ms = self._process.timers, part.batch.now_ms
        if timers is not None and self.bound.ticks(part.batch):
            due_ms = timers.next_due_ms()
            if due_ms is not None and due_ms <= now_ms:
                self._held, self._due, self._fired = part, timers.due(now_ms), count()
                return
        self._admit(part)

    def _admit(self, part: Fragment, *, timers: bool = False) -> None:
        """Takes rows in: each waits for the calls of its key before it."""
        flight = self._line.add(part)
        self._line.open += flight.rows
        assert part.keys is not None and part.origins is not None
        for row, value in enumerate(part.values):
            context: Context[Any, Any] = self._process.new_context()
            context.batch, context.key, context.origin = part.batch, part.keys[row], part.origins[row]
            context.time = None if part.times is None else part.times[row]
            turn = Turn(flight, row, context)
            if timers:
                turn.function = self._step.options["timers"][value]
            else:
                turn.function, turn.arguments = self._step.call, (value,)
            if turn.key in self._waiting:
                self._waiting[turn.key].append(turn)
            else:
                self._waiting[turn.key] = deque()
                self._ready.append(turn)

    def _fire(self, part: Fragment) -> None:
        """Lets the next timers fire of a number that is held for them, or takes in its records."""
        fired = list(islice(self._due, self._limits.concurrency))
        if not fired:
            self._held = None
            self._admit(part)
            return
        step, name = -self.bound.graph.steps.index(self._step), self._step.name
        origins: list[Origin] = [
            (-1, step, next(self._fired), timer_mark(name, key, timer, due)) for key, timer, due in fired
        ]
        keys, timers = [key for key, _, _ in fired], [timer for _, timer, _ in fired]
        times = None if part.times is None else [due * 1000 for _, _, due in fired]
        fires = Fragment(part.batch, timers, False, keys, None, origins, (*origins[-1], END), times, times)
        self._admit(fires, timers=True)

    # -- calls ------------------------------------------------------------------------------------

    def _next_calls(self, most: int) -> list[Call]:
        if self._held is not None and not self._line:
            self._fire(self._held)
        room = min(self._limits.concurrency - self._calls.running, most, len(self._ready))
        turns = [self._ready.popleft() for _ in range(room)]
        return [Call((turn,), turn) for turn in turns]

    async def _attempt(self, turn: Turn) -> Any:
        """One attempt of a call: its outputs, or the key's state as it was and the error."""
        context, process = turn.context, self._process
        if self._handled and turn.image is None:
            turn.image = KeyImage(process.table, process.timers, turn.key)
        try:
            state = context.state = process.view(turn.key, context.batch.now_ms)
            outputs = await _outputs(turn.function(context, *turn.arguments))
            if turn.over:
                raise asyncio.CancelledError  # its deadline was over long ago, and its key is another's
            process.keep(turn.key, context, state)
            if self._handled or self.careful:
                verify(process.table, turn.key)
            side = context.drain()
        except BaseException:
            context.drain()
            if turn.image is not None and not turn.over:
                turn.image.restore()
            raise
        return Sided(outputs, side) if side else outputs

    def _ended(self, call: Call) -> None:
        turn: Turn = call.place
        outcome: Any = call.value
        if call.error is not None:
            outcome = Failed(call.error)
            if turn.image is not None:
                turn.image.restore()
        turn.over = True
        turn.context.close()
        self._line.settle(turn.flight, turn.row, outcome)
        waiting = self._waiting[turn.key]
        if waiting:
            self._ready.append(waiting.popleft())
        else:
            del self._waiting[turn.key]

    def _finish(self, part: Fragment) -> None:
        table = self._process.table
        if table.ttl_ms is not None:
            table.expire(part.batch.now_ms)
        assert part.batch.barrier is None or not self._waiting, "a call across a barrier"
        super()._finish(part)

    async def _move(self) -> bool:
        moved = await super()._move()
        if self._process.timers is not None:
            # a number that is held for timers has been told of them; intake need not make more
            due_ms = None if self._held is not None else self._process.timers.next_due_ms()
            self._shard.wake_at(self.bound.stage.index, due_ms)
        return moved


async def _outputs(made: Any) -> list[Any]:
    """What a call gives: nobody can change it afterwards, as nobody can what a plain step gives."""
    if isinstance(made, AsyncIterable):
        return await all_given(made, own)
    if inspect.isawaitable(made):
        made = await made
    return [] if made is None else all_of(map(own, made))
