"""Interval join: records of two streams that happened within so much of each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from streamflow.batch import TIME_MAX
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import PRESERVED, Held, Interval, Told
from streamflow.operators.joins import LEFT, RIGHT, Join, Take, Waiting
from streamflow.operators.step_clock import side_clocks_of
from streamflow.operators.windows import Fired
from streamflow.state.keyed import Table

GRID_PARTS: Final = 16
"""Records that nobody waits for are freed together, up to this part of the interval after their last match."""

NOTHING: Final[Held[Any, Any]] = Held()
"""What a record matches that nothing matches."""


class IntervalJoin(Join):
    """Matches each record with those of the other side that are there, within the interval.

    A record that is behind the watermark of its own partition when it comes is late. So two that match do so whichever
    comes first, and one that nothing matched is told of when the watermark has passed the last match it could have: at
    once where that lies before it.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        kind: Interval = step.options["join"]
        clock = side_clocks_of(graph, step)
        super().__init__(step, table, clock)
        self.clocks = clock.left, clock.right
        self.reaches = kind.reaches_us
        self.stays = kind.stays_us
        self.due = Due()
        self.preserved = PRESERVED[step.options["how"]]
        self._tells = any(self.preserved)
        grid = max(1, (kind.before_us + kind.after_us) // GRID_PARTS)
        self._grids = 1 if self.preserved[LEFT] else grid, 1 if self.preserved[RIGHT] else grid

    def holder(self, side: int) -> Callable[[Any], Any]:
        kind = Told if self._tells else Held
        return kind if side == LEFT else partial(kind, None)

    def taker(self, side: int) -> Take:
        """Takes a record; gives pairs of event time and entry of what it matches, in the order of (time, arrival)."""
        other = 1 - side
        all_waiting, held_of, tells = self.waiting, self.holder(side), self._tells
        my_clock, other_clock = self.clocks[side], self.clocks[other]
        my_reach, other_reach = self.reaches[side], self.reaches[other]
        keep, match, arm, grid = self.keep, self._match, self.due.arm, self._grids[side]

        def take(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            last_us = time_us + my_reach
            if time_us < mark_us or last_us < my_clock.at_us:
                if my_reach < 0 and time_us >= mark_us and time_us >= my_clock.at_us:
                    return self._take_last(side, key, time_us)
                return self.is_late()
            waiting = all_waiting.get(key)
            if waiting is None:
                waiting = self.open(key)
            held = held_of(value)
            found: tuple[tuple[int, Any], ...] | None = None
            times = waiting.times[other]
            if times:
                closed_us = other_clock.at_us
                start = bisect_left(times, (time_us if time_us > closed_us else closed_us) - other_reach)
                stop = bisect_right(times, last_us, start)
                if start < stop:
                    # mostly it is one
                    found = ((times[start], waiting.held[other][start]),)
                    if stop > start + 1:
                        found = tuple(zip(times[start:stop], waiting.held[other][start:stop], strict=True))
                    if tells:
                        held.matched = True
                        match(other, key, waiting, start, stop)
            keep(side, key, waiting, time_us, held)
            if last_us < waiting.armed_us:
                due_us = (last_us // grid + 1) * grid
                if due_us < waiting.armed_us:
                    waiting.armed_us = due_us
                    arm(due_us, key, None)
            return found

        return take

    def _take_last(self, side: int, key: Key, time_us: int) -> Any:
        """Takes a record that only those before it can match, which have come: it need not wait."""
        other = 1 - side
        waiting = self.waiting.get(key)
        if waiting is None:
            self.check(key)
        times = () if waiting is None else waiting.times[other]
        start = bisect_left(times, max(time_us, self.clocks[other].at_us) - self.reaches[other])
        stop = bisect_right(times, time_us + self.reaches[side], start)
        if waiting is not None and start < stop:
            if self._tells:
                self._match(other, key, waiting, start, stop)
            return tuple(zip(times[start:stop], waiting.held[other][start:stop], strict=True))
        return ((time_us, NOTHING),) if self.preserved[side] else None

    def _match(self, side: int, key: Key, waiting: Waiting, start: int, stop: int) -> None:
        """Notes that records have matched."""
        table = self.table
        for at in range(start, stop):
            held = waiting.held[side][at]
            if not held.matched:
                address = (key, waiting.address(side, at))
                # an entry of an epoch before is written once more
                if table.undo is not None or address not in table.hot:
                    table.get(address)
                held.matched = True

    # -- what is closed ---------------------------------------------------------------------------

    def closing(self) -> Iterator[Fired | None]:
        """Gives what nothing matched, by (time of its last possible match, key, left before right)."""
        again: list[tuple[Key, Waiting]] = []
        ends = self.clocks[LEFT].at_us, self.clocks[RIGHT].at_us
        reaches, preserved, all_waiting, next_us = self.reaches, self.preserved, self.waiting, self._next_us
        for time_us, key, _ in self.due.take(max(ends)):
            waiting = all_waiting.get(key)
            if waiting is not None and waiting.armed_us == time_us:
                for side in (LEFT, RIGHT):
                    times = waiting.times[side]
                    closed_us = (time_us if time_us < ends[side] else ends[side]) - 1 - reaches[side]
                    if times and times[0] <= closed_us:
                        gone = bisect_right(times, closed_us)
                        if preserved[side]:
                            yield from self._alone(side, key, waiting, gone)
                        self.drop(side, key, waiting, gone)
                if not self.closed(key, waiting):
                    due_us = next_us(waiting)
                    if due_us > time_us:
                        waiting.armed_us = due_us
                        self.due.arm(due_us, key, None)
                    else:
                        again.append((key, waiting))  # its side's clock is behind the other's
            yield None
        for key, waiting in again:
            self.arm(key, waiting)

    def _alone(self, side: int, key: Key, waiting: Waiting, count: int) -> Iterator[Fired]:
        """Gives those of a side's first records that nothing matched."""
        for at, held in enumerate(waiting.held[side][:count]):
            if not held.matched:
                about = waiting.address(side, at)
                yield key, (held.left, held.right), about[1] + self.stays[side], about

    def arm(self, key: Key, waiting: Waiting) -> None:
        waiting.armed_us = self._next_us(waiting)
        self.due.arm(waiting.armed_us, key, None)

    def _next_us(self, waiting: Waiting) -> int:
        """When to look at a key next: when a record is closed that may have to be told of, else with others."""
        (lefts, rights), (left_grid, right_grid) = waiting.times, self._grids
        left_us = right_us = TIME_MAX
        if lefts:
            left_us = ((lefts[0] + self.reaches[LEFT]) // left_grid + 1) * left_grid
        if rights:
            right_us = ((rights[0] + self.reaches[RIGHT]) // right_grid + 1) * right_grid
        return left_us if left_us < right_us else right_us
