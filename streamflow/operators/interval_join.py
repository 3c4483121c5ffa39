"""Interval join: records of two streams that happened within so much of each other."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from streamflow.graph import Graph, Step
from streamflow.keys import Key, canonical
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import PRESERVED, Held, Interval, Told
from streamflow.operators.joins import LEFT, RIGHT, Join, Rows, Take
from streamflow.operators.step_clock import SideClocks, side_clocks_of
from streamflow.operators.windows import Fired
from streamflow.state.keyed import Table

GRID_PARTS: Final = 16
"""Records that nobody waits for are freed together, up to this part of the interval after their last match."""


class IntervalJoin(Join):
    """Matches each record with those of the other side that are there, within the interval.

    A record that is behind the watermark of its own partition when it comes is late. So two that match do so whichever
    comes first, and one that nothing matched is told of when the watermark has passed the last match it could have.
    """

    clock: SideClocks

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        kind: Interval = step.options["join"]
        self.clock = side_clocks_of(graph, step)
        self.clocks = self.clock.left, self.clock.right
        self.reaches = kind.reaches_us
        self.due = Due(), Due()
        self.preserved = PRESERVED[step.options["how"]]
        self._tells = any(self.preserved)
        self._grid_us = max(1, (kind.before_us + kind.after_us) // GRID_PARTS)

    def holder(self, side: int) -> Callable[[Any], Any]:
        kind = Told if self._tells else Held
        return kind if side == LEFT else lambda value: kind(None, value)

    def taker(self, side: int) -> Take:
        """Takes a record; gives pairs of event time and entry of what it matches, in the order of (time, arrival)."""
        mine, others = self.rows[side], self.rows[1 - side]
        my_clock, other_clock = self.clocks[side], self.clocks[1 - side]
        my_reach, other_reach = self.reaches[side], self.reaches[1 - side]
        held_of, tells, told = self.holder(side), self._tells, self.preserved[side]
        keep, match, arm, grid_us = self.keep, self._match, self._arm, self._grid_us

        def take(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            last_us = time_us + my_reach
            if time_us < mark_us or last_us < my_clock.at_us:
                return self.is_late()
            rows = mine.get(key)
            if rows is None:
                rows = self.open(side, key)
            held = held_of(value)
            found = None
            waiting = others.get(key)
            if waiting is not None:
                times = waiting.times
                closed_us = other_clock.at_us
                start = bisect_left(times, (time_us if time_us > closed_us else closed_us) - other_reach)
                stop = bisect_right(times, last_us, start)
                if start < stop:
                    found = zip(times[start:stop], waiting.held[start:stop], strict=True)
                    if tells:
                        held.matched = True
                        match(1 - side, key, waiting, start, stop)
            keep(side, key, rows, time_us, held)
            if last_us < rows.armed_us:
                due_us = last_us + 1 if told and found is None else (last_us // grid_us + 1) * grid_us
                if due_us < rows.armed_us:
                    arm(side, key, rows, due_us)
            return found

        return take

    def _match(self, side: int, key: Key, rows: Rows, start: int, stop: int) -> None:
        """Notes that records have matched."""
        for at in range(start, stop):
            if not rows.held[at].matched:
                self.table.get((key, (side, rows.times[at], rows.ordinal(at)))).matched = True

    # -- what is closed ---------------------------------------------------------------------------

    def closing(self) -> Iterator[Fired | None]:
        """Gives what nothing matched, by (time of its last possible match, key, left before right)."""
        takes = [self._looks(side) for side in (LEFT, RIGHT)]
        looks: Iterator[tuple[int, Key, int]] = chain(*takes)
        if all(self.preserved):
            looks = heapq.merge(*takes, key=lambda look: (look[0], canonical(look[1]), look[2]))
        for time_us, key, side in looks:
            yield from self._look(side, time_us, key)
            yield None

    def _looks(self, side: int) -> Iterator[tuple[int, Key, int]]:
        for time_us, key, _ in self.due[side].take(self.clocks[side].at_us):
            yield time_us, key, side

    def _look(self, side: int, time_us: int, key: Key) -> Iterator[Fired]:
        rows = self.rows[side].get(key)
        if rows is None or rows.armed_us != time_us:
            return
        due_us = self._next_us(side, rows)
        if due_us <= time_us:
            last_us = time_us - 1
            gone = bisect_right(rows.times, last_us - self.reaches[side])
            if self.preserved[side]:
                for at in range(gone):
                    held = rows.held[at]
                    if not held.matched:
                        about = (side, rows.times[at], rows.ordinal(at))
                        yield key, (held.left, held.right), last_us, about
            self.drop(side, key, rows, gone)
            if not rows.times:
                return
            due_us = self._next_us(side, rows)
        self._arm(side, key, rows, due_us)

    def _next_us(self, side: int, rows: Rows) -> int:
        """When to look at records next: when the first is closed that must be told of, or several can be freed."""
        reach_us = self.reaches[side]
        free_us = ((rows.times[0] + reach_us) // self._grid_us + 1) * self._grid_us
        if self.preserved[side]:
            for time_us, held in zip(rows.times, rows.held, strict=True):
                if time_us + reach_us >= free_us:
                    break
                if not held.matched:
                    return time_us + reach_us + 1
        return free_us

    def _arm(self, side: int, key: Key, rows: Rows, due_us: int) -> None:
        if due_us != rows.armed_us:
            rows.armed_us = due_us
            self.due[side].arm(due_us, key, side)

    def _arm_all(self, side: int, key: Key, rows: Rows) -> None:
        self._arm(side, key, rows, self._next_us(side, rows))
