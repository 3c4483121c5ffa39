"""As-of join: each record with the latest one of the other side that is not later than it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import AsOf, Dated
from streamflow.operators.joins import LEFT, RIGHT, Join, Rows, Take
from streamflow.operators.step_clock import clock_of
from streamflow.operators.values import own
from streamflow.operators.windows import Fired
from streamflow.state.keyed import Table


class AsOfJoin(Join):
    """Left records wait until the watermark is behind them; then the version that they find is the right one.

    A version is a right record: it counts from its event time on, until the next one of its key. One that comes late
    counts from the watermark of its partition on; if a newer one counts there already, it is late for good. A left
    record that is late, but not by more than is allowed, is joined at once.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        self.clock = self._clock = clock_of(graph, step)
        self.due = Due()
        kind: AsOf = step.options["join"]
        self._within_us = kind.within_us
        self._allowed_us = kind.allowed_us
        self._inner = step.options["how"] == "inner"

    def holder(self, side: int) -> Callable[[Any], Any]:
        return Dated if side == LEFT else lambda value: Dated(None, value)

    def taker(self, side: int) -> Take:
        return self._take_left if side == LEFT else self._take_version

    def _take_left(self, key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
        at_us = self._clock.at_us
        if time_us + self._allowed_us < max(mark_us, at_us):
            return self.is_late()
        if time_us < at_us:
            found = self._version(key, time_us)
            return None if self._inner and found is None else [(time_us, Dated(None, own(found)))]
        rows = self.rows[LEFT].get(key)
        if rows is None:
            rows = self.open(LEFT, key)
        if self.keep(LEFT, key, rows, time_us, Dated(value)) == 0:
            self.due.arm(time_us + 1, key, LEFT)
        return None

    def _take_version(self, key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
        rows = self.rows[RIGHT].get(key)
        held: Dated[Any, Any] = Dated(None, value)
        bound_us = max(mark_us, self._clock.at_us)
        if time_us < bound_us:
            at = -1 if rows is None else bisect_right(rows.times, bound_us) - 1
            if rows is not None and at >= 0 and (rows.held[at].at_us or rows.times[at]) > time_us:
                return self.is_late()
            held.at_us, time_us = time_us, bound_us
        if rows is None:
            rows = self.open(RIGHT, key)
        self._put_version(key, rows, time_us, held)
        return None

    def _put_version(self, key: Key, rows: Rows, time_us: int, held: Any) -> None:
        """Lets a version count from a time on, in place of one that did from the same time on."""
        at = bisect_left(rows.times, time_us)
        if at < len(rows.times) and rows.times[at] == time_us:
            rows.held[at] = held
            self.table.put((key, (RIGHT, time_us, 0)), held)
            return
        self.keep(RIGHT, key, rows, time_us, held)
        self._arm_version(key, time_us)

    def _version(self, key: Key, time_us: int) -> Any:
        """The value of a key at a time; None if it has none, or the latest is too old."""
        rows = self.rows[RIGHT].get(key)
        if rows is None:
            return None
        at = bisect_right(rows.times, time_us) - 1
        if at < 0 or (self._within_us is not None and time_us - rows.times[at] > self._within_us):
            return None
        return rows.held[at].right

    # -- what is closed ---------------------------------------------------------------------------

    def closing(self) -> Iterator[Fired | None]:
        """Gives what waited and the watermark has passed, by (event time, key, arrival); frees older versions."""
        for due_us, key, side in self.due.take(self._clock.at_us):
            rows = self.rows[side].get(key)
            if rows is not None and side == LEFT:
                yield from self._joined(key, rows, due_us - 1)
            elif rows is not None:
                self._free(key, rows, due_us - 1 - self._allowed_us)
            yield None

    def _joined(self, key: Key, rows: Rows, time_us: int) -> Iterator[Fired]:
        count = bisect_right(rows.times, time_us)
        found = self._version(key, time_us)
        if found is not None or not self._inner:
            for ordinal, held in enumerate(rows.held[:count]):
                yield key, (held.left, own(found)), time_us, (LEFT, time_us, ordinal)
        self.drop(LEFT, key, rows, count)

    def _free(self, key: Key, rows: Rows, from_us: int) -> None:
        """Forgets versions that no record from a time on can find any more."""
        count = max(0, bisect_right(rows.times, from_us) - 1)
        if rows.times[count] < from_us:
            old = self._within_us is not None and rows.times[count] + self._within_us < from_us
            # what is absent or gone is not there, whether that is kept or not
            count += old or rows.held[count].right is None
        if count:
            self.drop(RIGHT, key, rows, count)

    def _arm_version(self, key: Key, time_us: int) -> None:
        # when all that may still ask happened later than that
        self.due.arm(time_us + self._allowed_us + 2, key, RIGHT)
        if self._within_us is not None:
            self.due.arm(time_us + self._allowed_us + self._within_us + 2, key, RIGHT)

    def _arm_all(self, side: int, key: Key, rows: Rows) -> None:
        for time_us in dict.fromkeys(rows.times):
            if side == LEFT:
                self.due.arm(time_us + 1, key, LEFT)
            else:
                self._arm_version(key, time_us)
