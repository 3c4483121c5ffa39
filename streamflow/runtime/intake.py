"""Intake: gives records their number; forms micro-batches of what is ready and decides where barriers go."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streamflow.batch import (
    FRAGMENT_ROWS_MAX,
    TIME_MIN,
    Fragment,
    MicroBatch,
    Partition,
    Position,
    SourceBatch,
    Watermark,
)
from streamflow.clock import Cancellable, Clock
from streamflow.points import Point, no_point
from streamflow.runtime.channel import Channel
from streamflow.runtime.cut import PUSHED, Cut, Pushed
from streamflow.runtime.decoding import Ready
from streamflow.runtime.event_time import PUSHES, EventTimes, Horizon, TimeRefused
from streamflow.runtime.ordering import Given, TimeOrder
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.pump import Pump
from streamflow.runtime.taking import Taking, Turned
from streamflow.trace import is_traced


class Places(Protocol):
    """What the spec of an internal source says of its records: where what they stand for came from."""

    def place(self, value: Any, payload: bytes) -> tuple[str, SourceBatch]: ...


class Intake:
    """The one writer of the numbered log.

    GUARANTEE: numbers have no gap and their time never goes back; a record enters exactly one number; what `Cut`
    says was taken is what entered. It never waits to fill a micro-batch.
    BOUND: ``rows_max`` records a micro-batch.

    Args:
        pumps: The sources, in the order of the graph.
        channel: Where the fragments go.
        pacer: Decides when a barrier may go.
        clock: The time of micro-batches.
        start: The last committed number, epoch and time, and the next sequence number of pushed records per source.
    """

    def __init__(self, pumps: Sequence[Pump], channel: Channel, pacer: Pacer, clock: Clock, start: Start) -> None:
        self.pumps = pumps
        self.cuts: dict[int, Cut] = {}
        self.stalled: Callable[[], str] = lambda: ""
        self.held: Callable[[], str] = lambda: ""
        self.expects: Callable[[], bool] = lambda: False
        self.rests: Callable[[], bool] = lambda: True
        self.formed: Callable[[int, int], None] = lambda number, records: None
        self.ended: Callable[[int], None] = lambda epoch: None
        self.forced: Callable[[str, int], None] = lambda sources, records: None
        self.point: Point = no_point
        self.rows_max = FRAGMENT_ROWS_MAX
        self.records = 0
        self.done = False
        self._channel = channel
        self._traces = any(pump.traces for pump in pumps)
        self._pacer = pacer
        self._clock = clock
        self._number, self._epoch, self._now_ms = start.number, start.epoch, start.now_ms
        self._push_seq = dict(start.pushed)
        self._ports = {pump.name: port for port, pump in enumerate(pumps)}
        self._pushes: deque[Pushed] = deque()
        self._results: deque[Pushed] = deque()
        specs = {pump.name: pump.step.options["spec"] for pump in pumps}
        self._places: dict[str, Places] = {name: spec for name, spec in specs.items() if hasattr(spec, "place")}
        self._preloads = 0
        self._due: dict[int, int] = {}
        self._cut = Cut()
        self._dirty = False
        self.fires = False  # whether timers may fire: once the backlog is read, or from the start
        self._acted_ms = start.now_ms
        self._stopping = False
        self._wakeup = asyncio.Event()
        self._alarm: Cancellable | None = None
        self._stall = self._hold = ""
        self._times: EventTimes | None = None
        self._stamps = False
        self._told: Callable[[str, int], None] = lambda sources, at_us: None
        self._silent: list[tuple[str, Partition]] = []
        self._orders: Sequence[TimeOrder] = ()
        self._said: dict[int, tuple[Any, ...]] = {}
        self._free = pumps

    # -- what others tell it ----------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed: a record, the end of a commit or of a publish."""
        self._wakeup.set()

    def wake_at(self, stage: int, due_ms: int | None) -> None:
        """A stage's earliest timer."""
        if due_ms is None:
            self._due.pop(stage, None)
        elif self._due.get(stage) != due_ms:
            self._due[stage] = due_ms
            self._wakeup.set()

    def preload(self, pushes: Sequence[Pushed]) -> None:
        """Hands in what enters before any record of a source, and before time brings anything about."""
        self._pushes.extend(pushes)
        self._preloads += len(pushes)

    def push(self, pushes: Iterable[Pushed]) -> None:
        """Takes records from inside the process: from users, or results of what the flow itself has begun."""
        for push in pushes:
            (self._results if push.source in self._places else self._pushes).append(push)
        self._wakeup.set()

    def stop(self) -> None:
        """Takes no more records; the last barrier follows."""
        self._stopping = True
        self._wakeup.set()

    @property
    def epoch_records(self) -> int:
        """Records taken since the last barrier."""
        return self._cut.records

    @property
    def pending(self) -> bool:
        """Whether something was taken that no barrier covers yet."""
        return self._dirty

    @property
    def closing(self) -> bool:
        """Whether nothing more will be taken: it was stopped, or every source has ended."""
        if self._stopping:
            return True
        ended = all(pump.ended and not pump.waiting for pump in self.pumps)
        return ended and self._released and not self.pushed and not self.expects()

    @property
    def ending(self) -> bool:
        """Whether nothing more comes but what a commit brings about, so that there is no reason to wait with it."""
        over = all(not pump.waiting and (pump.ended or pump.internal) for pump in self.pumps) and self._released
        return self.closing or (over and not self.pushed and self.rests())

    @property
    def _released(self) -> bool:
        """Whether no order of event time holds a record back."""
        return all(order.empty for order in self._orders)

    @property
    def pushed(self) -> bool:
        """Whether records from inside the process wait to be taken."""
        return bool(self._pushes or self._results)

    @property
    def stall(self) -> str:
        """Why no records are taken now; empty while they are."""
        return self._stall or self._hold

    # -- event time -------------------------------------------------------------------------------

    def go_by(self, times: EventTimes | None, *, stamps: bool, told: Callable[[str, int], None]) -> None:
        """Gives numbers their watermarks.

        Args:
            times: Event time of the sources, if some have one.
            stamps: Whether rows carry their event times.
            told: Is told of watermarks that moved.
        """
        self._times, self._stamps, self._told = times, stamps, told

    def hold(self, orders: Sequence[TimeOrder]) -> None:
        """Gives the records of some sources their numbers in the order of event time."""
        self._orders = orders
        self._said = {index: (index, *Horizon().fields) for index, _ in enumerate(orders)}
        self._free = [pump for pump in self.pumps if not pump.ordered]

    def turn_idle(self, source: str, partition: Partition) -> None:
        """A partition is not waited for from the next number on, unless it gives a record in it."""
        self._silent.append((source, partition))
        self._wakeup.set()

    def _just_ended(self) -> list[str]:
        """Timed sources that have ended since the last number."""
        if self._times is None or self._stopping or self._preloads:
            return []
        return [
            pump.name
            for pump in self._free
            if pump.ended and not pump.waiting and pump.times is not None and not pump.times.ended
        ]

    def _at_their_end(self) -> list[tuple[str, Partition]]:
        """Partitions of bounded sources that give nothing more: nobody waits for them, whatever ``idle`` says."""
        if self._times is None or self._stopping:
            return []
        return [(pump.name, partition) for pump in self.pumps for partition in pump.at_their_end()]

    def _got_further(self) -> list[tuple[Any, ...]]:
        """Which orders have got further than the last number said: their index and their horizon."""
        if self._stopping or self._preloads:
            return []
        for order in self._orders:
            order.look()
        found = [(index, *order.horizon.fields) for index, order in enumerate(self._orders)]
        return [horizon for horizon in found if self._said.get(horizon[0]) != horizon]

    def _turn(self, silent: Iterable[tuple[str, Partition]], ended: Iterable[str]) -> None:
        """Carries out what happened to sources beside their records."""
        if self._times is not None:
            for source, partition in silent:
                self._times.sources[source].turn_idle(partition)
            for source in ended:
                self._times.sources[source].ended = True

    # -- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Forms numbers until it is stopped or every source has ended, and the last epoch's barrier is on its way."""
        while True:
            self._stall = self.stalled()
            rows = not self._stall and not self._stopping and self._has_rows()
            closing = self.closing
            barrier_at = self._pacer.due_at(pending=self._dirty, closing=self.ending)
            barrier = barrier_at is not None and barrier_at <= self._clock.monotonic()
            self._silent += [each for each in self._at_their_end() if each not in self._silent]
            turning = bool(self._just_ended() or (self._silent and not closing) or self._got_further())
            turns = turning and not self._stall
            if rows or barrier or turns or (self._timers_due() and not self._stall and not closing):
                await self._channel.put(self._form(take=bool(rows)))
            elif closing and not self._dirty and self._pacer.idle and not turning:
                self.done = True
                return
            else:
                await self._wait(barrier_at, closing=closing)

    def _has_rows(self) -> bool:
        """Whether there is something to take; where sources are held up, results still are."""
        self._hold = self.held()
        if self._preloads or self._results:
            return True
        if self._hold:
            return False
        for order in self._orders:
            order.fill(max(self._clock.now_ms(), self._now_ms))
        found = self._pushes or any(map(_is_ready, self._free))
        return bool(found) or any(order.ready for order in self._orders)

    def _timers_due(self) -> bool:
        if not self._due or min(self._due.values()) > max(self._clock.now_ms(), self._now_ms):
            return False
        # a due time at which timers were already told to fire is acted on only once the clock has moved on
        return self._may_fire() and max(self._clock.now_ms(), self._now_ms) > self._acted_ms

    def _may_fire(self) -> bool:
        if not self.fires:
            caught_up = all(pump.caught_up() for pump in self.pumps)
            self.fires = caught_up and not any(order.ready for order in self._orders)
        return self.fires and not self._preloads

    async def _wait(self, barrier_at: float | None, *, closing: bool) -> None:
        """Waits for a wake-up, the next timer, or the time of the next barrier, whichever is first."""
        waits = [] if barrier_at is None else [barrier_at - self._clock.monotonic()]
        if self._due and not self._stall and not closing and self._may_fire():
            due_ms = max(min(self._due.values()), self._acted_ms + 1)
            waits.append((due_ms - self._clock.now_ms()) / 1000)
        forced = [order.forces_at for order in self._orders if not self._stall and not closing]
        waits += [at - self._clock.monotonic() for at in forced if at is not None]
        if not self._stall and not self._stopping:
            # what a rate limit keeps back for now
            waits += [pump.wait_seconds for pump in self.pumps if pump.waiting and pump.wait_seconds]
        if waits:
            self._alarm = self._clock.call_later(max(0.0, min(waits)), self._wakeup.set)
        try:
            await self._wakeup.wait()
        finally:
            self._wakeup.clear()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    # -- forming ----------------------------------------------------------------------------------

    def _form(self, *, take: bool) -> Fragment:
        """Makes the next number of what is ready now."""
        self._number += 1
        self._now_ms = max(self._clock.now_ms(), self._now_ms)
        fires = self._may_fire()
        if fires:
            if self._due and min(self._due.values()) <= self._now_ms:
                self._dirty = True
                self._pacer.pending()
            self._acted_ms = self._now_ms
        rows = self._nothing_taken()
        silent: list[tuple[str, Partition]] = []
        if not self._preloads:
            silent, self._silent = self._silent, []
            self._turn(silent, ())
        if take:
            loading = self._preloads > 0
            if not loading:
                self._take_pushes(self._results, rows)
            if loading or not self._hold:
                self._take_pushes(self._pushes, rows)
            if not self._preloads and not self._hold:
                self._take_orders(rows)
                self._take_sources(rows)
            self._dirty = True
            self._pacer.pending()
        ended = self._just_ended()
        self._turn((), ended)
        turned = Turned(silent, ended, self._got_further())
        if any(turned):
            self._dirty = True
            self._pacer.pending()
        return self._made(rows, fires, self._barrier, turned)

    def _made(
        self,
        rows: Taking,
        fires: bool,
        barrier: Callable[[], int | None],
        turned: Turned,
    ) -> Fragment:
        """Writes the journal's line of the number and makes its fragment."""
        line = (self._number, self._now_ms, fires, rows.line)
        self._cut.journal.append((*line, turned) if any(turned) else line)
        self._said |= {horizon[0]: horizon for horizon in turned.horizons}
        self.formed(self._number, len(rows.values))
        self.point("number.formed")
        marks: tuple[Watermark, ...] = ()
        if self._times is not None:
            if self._times.advance():
                self._times.tell(self._told)
            marks = self._times.watermarks
        traced = self._is_traced(rows)
        inputs = tuple(rows.inputs)
        batch = MicroBatch(self._number, self._now_ms, inputs, barrier(), fires, marks, traced, rows.places)
        return Fragment(batch, rows.values, True, None, rows.ports, None, None, rows.times, rows.marks)

    def _is_traced(self, rows: Taking) -> bool:
        return self._traces and any(
            part.records.headers is not None and is_traced(part.records.headers) for part in rows.inputs
        )

    def _barrier(self) -> int | None:
        at = self._pacer.due_at(pending=self._dirty, closing=self.ending)
        return None if at is None or at > self._clock.monotonic() else self._end_epoch()

    def _end_epoch(self) -> int:
        self._epoch += 1
        cut, self._cut = self._cut, Cut()
        cut.epoch, cut.number, cut.now_ms, cut.started = self._epoch, self._number, self._now_ms, time.perf_counter()
        for order in self._orders:
            for source, partition, position in order.take_positions():
                cut.positions.setdefault(source, {})[partition] = position
        if self._times is not None:
            cut.clocks = self._times.take_changes()
        self.cuts[self._epoch] = cut
        self._dirty = False
        self._pacer.barrier()
        self.ended(self._epoch)
        self.point("barrier.formed")
        return self._epoch

    def _take_orders(self, rows: Taking) -> None:
        """Takes what orders release, and leaves room for the other sources."""
        for index, order in enumerate(self._orders):
            others = len(self._orders) - index - 1 + sum(map(_is_ready, self._free))
            given = order.give(max(1, (self.rows_max - len(rows.values)) // (1 + others)))
            if given.shares:
                self._enter_given(given, rows)
            if order.forced:
                self.forced("+".join(pump.name for pump in order.pumps), order.forced)
                order.forced = 0

    def _enter_given(self, given: Given, rows: Taking) -> None:
        """Adds what was released to the number; where its partitions resume is found out when the epoch ends."""
        self._cut.records += given.records
        self.records += given.records
        rows.line += given.shares
        for source, ids in given.ids:
            self._cut.ids.setdefault(source, []).extend(ids)
        rows.add_given(given, self._ports)

    def _take_sources(self, rows: Taking) -> None:
        """Takes from every source in turn, beginning with another one each time, until the number is full."""
        waiting = [pump for pump in self._free if _is_ready(pump)]
        if not waiting:
            return
        turn = self._number % len(waiting)
        share = max(1, (self.rows_max - len(rows.values)) // len(waiting))
        for most in (share, self.rows_max):
            for pump in waiting[turn:] + waiting[:turn]:
                room = min(most, self.rows_max - len(rows.values))
                pump.now_ms = self._now_ms
                while room > 0 and _is_ready(pump):
                    for ready in pump.take(room):
                        self._enter(pump.name, ready, rows)
                        room -= len(ready.records)

    def _enter(self, source: str, ready: Ready, rows: Taking) -> None:
        """Adds what was taken from a source to the number."""
        self._account(source, ready.records, rows.line, ready)
        rows.add(source, ready, self._ports[source])

    def _nothing_taken(self) -> Taking:
        times: list[list[Any] | None] = [[], []] if self._stamps else [None, None]
        return Taking([], [] if len(self.pumps) > 1 else None, [], [], *times)

    def _account(self, source: str, records: SourceBatch, line: list[Any], ready: Ready | None = None) -> None:
        """Writes down what was taken: the positions or ids of the epoch, and the journal."""
        cut = self._cut
        known, above = (ready.known, ready.above) if ready is not None else (False, ())
        count = 0 if known else len(records)
        cut.records += count
        self.records += count
        if records.positions is not None:
            at = records.end
            before = cut.positions.setdefault(source, {}).get(records.partition)
            assert before is None or before.at < at, f"position of {source} goes back from {before} to {at}"
            cut.positions[source][records.partition] = Position(at, records.identity, above)
            if count:
                line.append((source, records.partition, count, at))
        else:
            assert records.ids is not None, "a batch has positions or ids"
            cut.ids.setdefault(source, []).extend(records.ids)
            line.append((source, records.partition, len(records), list(records.ids)))

    def _take_pushes(self, pushes: deque[Pushed], rows: Taking) -> None:
        room = self.rows_max - len(rows.values)
        for _ in range(min(len(pushes), room, max(1, self.rows_max // 2))):
            push = pushes.popleft()
            self._preloads = max(0, self._preloads - 1)
            self._enter_push(push, rows)
            self._cut.pushed.append(push)

    def _enter_push(self, push: Pushed, rows: Taking) -> None:
        seq = self._push_seq.get(push.source, 0) + 1
        self._push_seq[push.source] = seq
        records = SourceBatch(push.source, [push.payload], [seq])
        self._account(PUSHED, records, rows.line)
        ready, source = self._stamped_push(push, records), PUSHED
        # its number goes to another record if the process dies before the commit: no identity rests on that
        ready.records = SourceBatch(push.source, [push.payload], ids=[push.id])
        if push.envelope is not None:
            source, ready.records = push.source, push.envelope.records(push.payload)
        elif push.source in self._places:
            source, ready.records = self._places[push.source].place(push.value, push.payload)
        rows.add(source, ready, self._ports[push.source])

    def _stamped_push(self, push: Pushed, records: SourceBatch) -> Ready:
        ready = Ready(records, [push.value])
        times = None if self._times is None else self._times.sources.get(push.source)
        if times is not None:
            known = push.envelope and push.envelope.timestamp_ms
            at_ms = self._now_ms if known is None else known
            own = SourceBatch(PUSHES, [push.payload], [0], timestamps_ms=[at_ms])
            try:
                ready.times, ready.marks = times.stamp(own, ready.values, self._now_ms)
            except TimeRefused:
                # it was asked for its time when it was pushed; what only the clock refuses now happened just now
                ready.times, ready.marks = [self._now_ms * 1000], [TIME_MIN]
        return ready

    def waiting_pushes(self) -> list[Pushed]:
        """Pushes that no committed epoch holds; a restarted shard gets them again. Results it makes anew."""
        cuts = [self.cuts[epoch] for epoch in sorted(self.cuts)]
        taken = [push for cut in [*cuts, self._cut] for push in cut.pushed if push.source not in self._places]
        return taken + list(self._pushes)


def _is_ready(pump: Pump) -> bool:
    """Whether something may be taken now."""
    return pump.waiting and not pump.wait_seconds


@dataclass(frozen=True, slots=True)
class Start:
    """Where a shard goes on: the last committed epoch, number and time, and pushed records per source."""

    epoch: int
    number: int
    now_ms: int
    pushed: dict[str, int]
