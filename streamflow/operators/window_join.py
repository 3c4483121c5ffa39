"""Window join: records of two streams that are in the same window, as pairs at its end."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import PRESERVED, Placed
from streamflow.operators.joins import LEFT, RIGHT, Join, Take, Waiting
from streamflow.operators.step_clock import clock_of
from streamflow.operators.window_kinds import Calendar, Sliding, Tumbling
from streamflow.operators.windows import Fired, Windowed, moment_of
from streamflow.state.keyed import Table

Aligned = Tumbling | Calendar | Sliding


class WindowJoin(Join):
    """Gives every pair of records of a key and window when the window closes.

    What counts in a window, and what is late, is as for the window itself: a record that is late for some of its
    windows counts in the others.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        self.step_clock = clock_of(graph, step)
        super().__init__(step, table, self.step_clock)
        self.kind: Any = step.options["join"]
        self.due = Due()
        self.preserved = PRESERVED[step.options["how"]]

    def holder(self, side: int) -> Callable[[Any], Any]:
        return Placed if side == LEFT else partial(Placed, None)

    def taker(self, side: int) -> Take:
        all_waiting, clock, kind, held_of = self.waiting, self.step_clock, self.kind, self.holder(side)

        def take(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            bound = max(mark_us, clock.at_us)
            if kind.last_end(time_us) <= bound:
                return self.is_late()
            waiting = all_waiting.get(key)
            if waiting is None:
                waiting = self.open(key)
            held = held_of(value)
            end_us = first_end(kind, time_us)
            if end_us <= bound:
                assert isinstance(kind, Sliding)
                end_us = held.since_us = kind.end_behind(bound)
            self.keep(side, key, waiting, time_us, held)
            if end_us < waiting.armed_us:
                self.look_at(end_us, key, waiting)
            return None

        return take

    def closing(self) -> Iterator[Fired | None]:
        """Gives the pairs of windows that the clock has passed, by (end, key, left record, right record)."""
        for end_us, key, _ in self.due.take(self.step_clock.at_us):
            waiting = self.waiting.get(key)
            if waiting is not None and waiting.armed_us == end_us:
                yield from self.pairs(key, waiting, start_of(self.kind, end_us), end_us)
                for side, times in enumerate(waiting.times):
                    self.drop(side, key, waiting, bisect_right(times, end_us, key=self.kind.last_end))
                if not self.closed(key, waiting):
                    self.look_at(self._next_end(waiting, end_us), key, waiting)
            yield None

    def pairs(self, key: Key, waiting: Waiting, start_us: int, end_us: int) -> Iterator[Fired]:
        """Gives the pairs of one window, or the records of one side where the other has none."""
        lefts, rights = (_inside(waiting, side, start_us, end_us) for side in (LEFT, RIGHT))
        # a record that is late for this window may be all that the key has
        if lefts and not rights and self.preserved[LEFT]:
            rights = [Placed()]
        elif rights and not lefts and self.preserved[RIGHT]:
            lefts = [Placed()]
        bounds = moment_of(start_us), moment_of(end_us)
        for at, (left, right) in enumerate(product(lefts, rights)):
            row = Windowed(key, *bounds, (left.left, right.right))
            yield key, row, end_us - 1, (start_us, end_us, at)

    def arm(self, key: Key, waiting: Waiting) -> None:
        self.look_at(self._next_end(waiting, self.step_clock.at_us), key, waiting)

    def look_at(self, end_us: int, key: Key, waiting: Waiting) -> None:
        """Asks for a look at a key."""
        waiting.armed_us = end_us
        self.due.arm(end_us, key, None)

    def _next_end(self, waiting: Waiting, behind_us: int) -> int:
        """The end of the first window behind a time that may hold records."""
        end_us = min(first_end(self.kind, times[0]) for times in waiting.times if times)
        return self.kind.end_behind(behind_us) if end_us <= behind_us and isinstance(self.kind, Sliding) else end_us


def _inside(waiting: Waiting, side: int, start_us: int, end_us: int) -> list[Any]:
    """The records of a side that count in a window."""
    times = waiting.times[side]
    found = waiting.held[side][bisect_left(times, start_us) : bisect_left(times, end_us)]
    return [held for held in found if held.since_us <= end_us]


def first_end(kind: Aligned, time_us: int) -> int:
    """End of the first window that holds a record of that time."""
    return kind.first_end(kind.pane_of(time_us)) if isinstance(kind, Sliding) else kind.last_end(time_us)


def start_of(kind: Aligned, end_us: int) -> int:
    """Start of the window that ends then."""
    return kind.start_of(end_us - 1) if isinstance(kind, Calendar) else end_us - kind.size_us
