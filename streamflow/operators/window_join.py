"""Window join: records of two streams that are in the same window, as pairs at its end."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from streamflow.batch import TIME_MAX
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import PRESERVED, Placed
from streamflow.operators.joins import LEFT, RIGHT, Join, Rows, Take
from streamflow.operators.step_clock import StepClock, clock_of
from streamflow.operators.window_kinds import Calendar, Sliding, Tumbling
from streamflow.operators.windows import Fired, Windowed, moment_of
from streamflow.state.keyed import Table

Aligned = Tumbling | Calendar | Sliding


class WindowJoin(Join):
    """Gives every pair of records of a key and window when the window closes.

    What counts in a window, and what is late, is as for the window itself: a record that is late for some of its
    windows counts in the others.
    """

    clock: StepClock

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind: Aligned = step.options["join"]
        self.clock = clock_of(graph, step)
        self.due = Due()
        self.preserved = PRESERVED[step.options["how"]]
        self._armed: dict[Key, int] = {}

    def holder(self, side: int) -> Callable[[Any], Any]:
        return Placed if side == LEFT else partial(Placed, None)

    def taker(self, side: int) -> Take:
        mine, clock, kind, held_of = self.rows[side], self.clock, self.kind, self.holder(side)

        def take(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            bound = max(mark_us, clock.at_us)
            if kind.last_end(time_us) <= bound:
                return self.is_late()
            rows = mine.get(key)
            if rows is None:
                rows = self.open(side, key)
            held = held_of(value)
            end_us = first_end(kind, time_us)
            if end_us <= bound:
                assert isinstance(kind, Sliding)
                end_us = held.since_us = kind.end_behind(bound)
            self.keep(side, key, rows, time_us, held)
            if end_us < self._armed.get(key, TIME_MAX):
                self._arm(key, end_us)
            return None

        return take

    def closing(self) -> Iterator[Fired | None]:
        """Gives the pairs of windows that the clock has passed, by (end, key, left record, right record)."""
        for end_us, key, _ in self.due.take(self.clock.at_us):
            if self._armed.get(key) == end_us:
                yield from self._pairs(key, end_us)
                self._free(key, end_us)
            yield None

    def _pairs(self, key: Key, end_us: int) -> Iterator[Fired]:
        start_us = start_of(self.kind, end_us)
        lefts, rights = (self._inside(side, key, start_us, end_us) for side in (LEFT, RIGHT))
        # a record that is late for this window may be all that the key has
        if lefts and not rights and self.preserved[LEFT]:
            rights = [Placed()]
        elif rights and not lefts and self.preserved[RIGHT]:
            lefts = [Placed()]
        bounds = moment_of(start_us), moment_of(end_us)
        for at, (left, right) in enumerate(product(lefts, rights)):
            row = Windowed(key, *bounds, (left.left, right.right))
            yield key, row, end_us - 1, (start_us, end_us, at)

    def _inside(self, side: int, key: Key, start_us: int, end_us: int) -> list[Any]:
        rows = self.rows[side].get(key)
        if rows is None:
            return []
        found = rows.held[bisect_left(rows.times, start_us) : bisect_left(rows.times, end_us)]
        return [held for held in found if held.since_us <= end_us]

    def _free(self, key: Key, end_us: int) -> None:
        """Forgets what no later window holds, and looks again when the next one ends that holds something."""
        next_us = TIME_MAX
        for side in (LEFT, RIGHT):
            rows = self.rows[side].get(key)
            if rows is None:
                continue
            gone = bisect_right(rows.times, end_us, key=self.kind.last_end)
            self.drop(side, key, rows, gone)
            if rows.times:
                next_us = min(next_us, self._next_end(rows.times[0], end_us))
        del self._armed[key]
        if next_us < TIME_MAX:
            self._arm(key, next_us)

    def _next_end(self, time_us: int, behind_us: int) -> int:
        """The end of the first window behind a time that holds a record of another time."""
        end_us = first_end(self.kind, time_us)
        if end_us <= behind_us and isinstance(self.kind, Sliding):
            return self.kind.end_behind(behind_us)
        return end_us

    def _arm(self, key: Key, end_us: int) -> None:
        self._armed[key] = end_us
        self.due.arm(end_us, key, None)

    def _arm_all(self, side: int, key: Key, rows: Rows) -> None:
        end_us = self._next_end(rows.times[0], self.clock.at_us)
        if end_us < self._armed.get(key, TIME_MAX):
            self._arm(key, end_us)


def first_end(kind: Aligned, time_us: int) -> int:
    """End of the first window that holds a record of that time."""
    return kind.first_end(kind.pane_of(time_us)) if isinstance(kind, Sliding) else kind.last_end(time_us)


def start_of(kind: Aligned, end_us: int) -> int:
    """Start of the window that ends then."""
    return kind.start_of(end_us - 1) if isinstance(kind, Calendar) else end_us - kind.size_us
