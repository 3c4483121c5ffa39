"""Interval join: records of two streams that happened within so much of each other."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, Final

from streamflow.graph import Graph, Step
from streamflow.keys import Key, canonical
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import PRESERVED, Held, Interval, Told
from streamflow.operators.joins import LEFT, Join, Rows, Take
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
        return kind if side == LEFT else partial(kind, None)

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
            found: tuple[tuple[int, Any], ...] | None = None
            waiting = others.get(key)
            if waiting is not None:
                times = waiting.times
                closed_us = other_clock.at_us
                start = bisect_left(times, (time_us if time_us > closed_us else closed_us) - other_reach)
                stop = bisect_right(times, last_us, start)
                if start < stop:
                    # mostly it is one
                    found = ((times[start], waiting.held[start]),)
                    if stop > start + 1:
                        found = tuple(zip(times[start:stop], waiting.held[start:stop], strict=True))
                    if tells:
                        held.matched = True
                        match(1 - side, key, waiting, start, stop)
            keep(side, key, rows, time_us, held)
            if last_us < rows.armed_us:
                due_us = last_us + 1 if told else (last_us // grid_us + 1) * grid_us
                if due_us < rows.armed_us:
                    arm(side, key, rows, due_us)
            return found

        return take

    def _match(self, side: int, key: Key, rows: Rows, start: int, stop: int) -> None:
        """Notes that records have matched."""
        table = self.table
        for at in range(start, stop):
            held = rows.held[at]
            if not held.matched:
                address = (key, (side, rows.times[at], rows.ordinal(at)))
                # an entry of an epoch before is written once more
                if table.undo is not None or address not in table.hot:
                    table.get(address)
                held.matched = True

    # -- what is closed ---------------------------------------------------------------------------

    def closing(self) -> Iterator[Fired | None]:
        """Gives what nothing matched, by (time of its last possible match, key, left before right)."""
        takes = [due.take(clock.at_us) for due, clock in zip(self.due, self.clocks, strict=True)]
        looks = chain(*takes)
        if all(self.preserved):
            looks = heapq.merge(*takes, key=lambda look: (look[0], canonical(look[1]), look[2]))
        for time_us, key, side in looks:
            rows = self.rows[side].get(key)
            if rows is not None and rows.armed_us == time_us:
                gone = bisect_right(rows.times, time_us - 1 - self.reaches[side])
                if self.preserved[side]:
                    yield from self._alone(side, key, rows, gone)
                self.drop(side, key, rows, gone)
                if rows.times:
                    self._arm(side, key, rows, self._due_us(side, rows.times[0]))
            yield None

    def _alone(self, side: int, key: Key, rows: Rows, count: int) -> Iterator[Fired]:
        """Gives those of the first records that nothing matched."""
        for at in range(count):
            held = rows.held[at]
            if not held.matched:
                about = side, rows.times[at], rows.ordinal(at)
                yield key, (held.left, held.right), rows.times[at] + self.reaches[side], about

    def _due_us(self, side: int, time_us: int) -> int:
        """When to look at a record: as soon as it is closed where that may have to be told, else with others."""
        last_us = time_us + self.reaches[side]
        return last_us + 1 if self.preserved[side] else (last_us // self._grid_us + 1) * self._grid_us

    def _arm(self, side: int, key: Key, rows: Rows, due_us: int) -> None:
        rows.armed_us = due_us
        self.due[side].arm(due_us, key, side)

    def _arm_all(self, side: int, key: Key, rows: Rows) -> None:
        self._arm(side, key, rows, self._due_us(side, rows.times[0]))
