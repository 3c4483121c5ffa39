"""As-of join: each record with the latest one of the other side that is not later than it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from streamflow.batch import TIME_MAX
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.join_kinds import AsOf, Dated
from streamflow.operators.joins import LEFT, RIGHT, Join, Take, Waiting
from streamflow.operators.step_clock import clock_of
from streamflow.operators.values import own
from streamflow.operators.windows import Fired
from streamflow.state.keyed import Table


class AsOfJoin(Join):
    """Left records wait until the watermark is behind them; then the version that they find is the right one.

    A version is a right record: it counts from its event time on, until the next one of its key. A record that is late,
    but not by more than is allowed: on the left it is joined at once; a version counts from the watermark of its
    partition on, and if a newer one counts there already, it is late for good. So no version can come that happened
    before what was forgotten, and it does not matter when that is.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        self._clock = clock_of(graph, step)
        super().__init__(step, table, self._clock)
        self.due = Due()
        kind: AsOf = step.options["join"]
        self._within_us = kind.within_us
        self._allowed_us = kind.allowed_us
        self._inner = step.options["how"] == "inner"

    def holder(self, side: int) -> Callable[[Any], Any]:
        return Dated if side == LEFT else partial(Dated, None)

    def taker(self, side: int) -> Take:
        return self._take_left if side == LEFT else self._take_version

    def _take_left(self, key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
        at_us = self._clock.at_us
        if time_us + self._allowed_us < max(mark_us, at_us):
            return self.is_late()
        waiting = self.waiting.get(key)
        if time_us < at_us:
            found = None if waiting is None else self._version(waiting, time_us)
            return None if self._inner and found is None else [(time_us, Dated(None, own(found)))]
        if waiting is None:
            waiting = self.open(key)
        self.keep(LEFT, key, waiting, time_us, Dated(value))
        self.arm(key, waiting)
        return None

    def _take_version(self, key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
        waiting = self.waiting.get(key)
        held: Dated[Any, Any] = Dated(None, value)
        bound_us = max(mark_us, self._clock.at_us)
        if time_us < bound_us:
            newer = waiting is not None and self._knows_newer(waiting, bound_us, time_us)
            if newer or time_us + self._allowed_us < bound_us:
                return self.is_late()
            held.at_us, time_us = time_us, bound_us
        if waiting is None:
            waiting = self.open(key)
        times = waiting.times[RIGHT]
        at = bisect_left(times, time_us)
        if at < len(times) and times[at] == time_us:
            waiting.held[RIGHT][at] = held
            self.table.put((key, (RIGHT, time_us, 0)), held)
        else:
            self.keep(RIGHT, key, waiting, time_us, held)
        self.arm(key, waiting)
        return None

    def _knows_newer(self, waiting: Waiting, upto_us: int, time_us: int) -> bool:
        """Whether the version that counts at a time happened behind another time."""
        at = bisect_right(waiting.times[RIGHT], upto_us) - 1
        return at >= 0 and (waiting.held[RIGHT][at].at_us or waiting.times[RIGHT][at]) > time_us

    def _version(self, waiting: Waiting, time_us: int) -> Any:
        """The value of a key at a time; None if it has none, or the latest is too old."""
        times = waiting.times[RIGHT]
        at = bisect_right(times, time_us) - 1
        if at < 0 or (self._within_us is not None and time_us - times[at] > self._within_us):
            return None
        return waiting.held[RIGHT][at].right

    # -- what is closed ---------------------------------------------------------------------------

    def closing(self) -> Iterator[Fired | None]:
        """Gives what waited and the watermark has passed, by (event time, key, arrival); frees older versions."""
        for due_us, key, _ in self.due.take(self._clock.at_us):
            waiting = self.waiting.get(key)
            if waiting is not None and waiting.armed_us == due_us:
                waiting.armed_us = TIME_MAX
                yield from self._joined(key, waiting, due_us - 1)
                self._free(key, waiting, due_us - 1 - self._allowed_us)
                if not self.closed(key, waiting):
                    self.arm(key, waiting)
            yield None

    def _joined(self, key: Key, waiting: Waiting, time_us: int) -> Iterator[Fired]:
        """What left records of a time find; those before it have gone."""
        count = bisect_right(waiting.times[LEFT], time_us)
        found = self._version(waiting, time_us) if count else None
        if found is not None or not self._inner:
            for ordinal, held in enumerate(waiting.held[LEFT][:count]):
                yield key, (held.left, own(found)), time_us, (LEFT, time_us, ordinal)
        self.drop(LEFT, key, waiting, count)

    def _free(self, key: Key, waiting: Waiting, from_us: int) -> None:
        """Forgets versions that no record from a time on can find any more."""
        times = waiting.times[RIGHT]
        count = max(0, bisect_right(times, from_us) - 1)
        if times and times[count] < from_us:
            old = self._within_us is not None and times[count] + self._within_us < from_us
            # what is absent or gone is not there, whether that is kept or not
            count += old or waiting.held[RIGHT][count].right is None
        self.drop(RIGHT, key, waiting, count)

    def arm(self, key: Key, waiting: Waiting) -> None:
        """Finds out when the first left record can be joined, or the first version be forgotten."""
        lefts, versions = waiting.times
        due_us = lefts[0] + 1 if lefts else TIME_MAX
        if versions:
            # from when on all that may still ask happened later than that
            behind_us = self._allowed_us + 2
            if len(versions) > 1:
                due_us = min(due_us, versions[1] + behind_us)
            if waiting.held[RIGHT][0].right is None:
                due_us = min(due_us, versions[0] + behind_us)
            if self._within_us is not None:
                due_us = min(due_us, versions[0] + self._within_us + behind_us)
        if due_us < waiting.armed_us:
            waiting.armed_us = due_us
            self.due.arm(due_us, key, None)
