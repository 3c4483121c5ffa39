"""Sliding windows, by panes: what they do with a record, and at a watermark."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from streamflow.batch import TIME_MAX, TIME_MIN
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.window_kinds import Sliding
from streamflow.operators.windows import Fired, Row, Windows
from streamflow.state.keyed import MISSING
from streamflow.state.panes import PaneTable

Pane = tuple[int, int, Any]
"""Start of a pane, end of the first window that it counts in, and its sub-key."""


class _Ring:
    """The panes of one key that no record goes into any more, and that windows still need.

    Attributes:
        upto: Panes that start before this were looked up.
    """

    __slots__ = ("starts", "upto", "values")

    def __init__(self, upto: int) -> None:
        self.upto = upto
        self.starts: deque[int] = deque()
        self.values: deque[Any] = deque()


class SlidingWindows(Windows):
    """Sliding windows by panes: one entry per key and pane, its sub-key the pane's start.

    A record that is late for some of its windows goes into a pane of its own that counts only from a later window on:
    its sub-key is (pane's start, end of that window).
    """

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind: Sliding = step.options["window"]
        self._armed: dict[Key, int] = {}
        self._parted: dict[Key, int] = {}
        self._rings: dict[Key, _Ring] = {}
        self._counts: bool = step.options["counts"]
        self._size_us, self._every_us, self._pane_us = self.kind.size_us, self.kind.every_us, self.kind.pane_us
        self._freezes = not self.allowed_us and not self.updates

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        assert self.clock is not None
        place = self._place(time_us, mark_us)
        if place is None:
            return self._is_late()
        sub, first_end, last_end = place
        self.table.put((key, sub), self.aggregator.add(self._entry(key, sub), value))
        # windows that have fired tell of every record that comes after
        told_upto = last_end if self.updates else min(last_end, self.clock.at_us)
        if told_upto < first_end:
            return None
        panes = self._panes(key)
        return [(self._result(key, end, panes), end - 1) for end in range(first_end, told_upto + 1, self._every_us)]

    def _place(self, time_us: int, mark_us: int) -> tuple[Any, int, int] | None:
        """Where a record goes: its pane's sub-key, and the ends of its first and last window; None if it is late."""
        kind = self.kind
        bound = self._bound(mark_us) - self.allowed_us
        last_end = kind.last_end(time_us)
        if last_end <= bound:
            return None
        pane = kind.pane_of(time_us)
        first_end = kind.first_end(pane)
        if first_end > bound:
            return pane, first_end, last_end
        first_end = kind.end_behind(bound)
        return (pane, first_end), first_end, last_end

    def _entry(self, key: Key, sub: Any) -> Any:
        """The entry of a pane, to be changed; a new one if there is none."""
        subs = self.table.index.get(key)
        # a loop may have left it in its pane, where `open` does not look
        return self.table.get((key, sub)) if subs is not None and sub in subs else self.open(key, sub)

    def open(self, key: Key, sub: Any) -> Any:
        """The accumulator of a pane that is not at hand; loops call it when they find none."""
        assert self.clock is not None
        subs = self.table.index.get(key)
        if subs is not None and sub in subs:
            return self.table.at_hand(key, sub)
        if self.table.bound is not None:
            self._admit(key)
        held = self.table.fresh(key, sub)
        armed = self._armed.get(key, TIME_MAX)
        if type(sub) is tuple:
            self._parted[key] = self._parted.get(key, 0) + 1
            first_end = sub[1]
        elif armed <= sub + self._pane_us:
            return held  # no window that holds a pane ends before that
        else:
            first_end = self.kind.first_end(sub)
        if armed > first_end:
            self._arm_next(key, self.clock.at_us, self._panes(key))
        return held

    def _panes(self, key: Key) -> list[Pane]:
        """A key's panes, in order."""
        subs = self.table.index.get(key, ())
        if not self._parted.get(key):
            # a whole pane counts in every window that it lies in
            return [(start, TIME_MIN, start) for start in sorted(subs)]
        found = [(*sub, sub) if type(sub) is tuple else (sub, TIME_MIN, sub) for sub in subs]
        found.sort(key=lambda pane: pane[:2])
        if all(start == sub for start, _, sub in found):
            del self._parted[key]  # the call that opened one was rolled back
        return found

    def _result(self, key: Key, end_us: int, panes: Sequence[Pane]) -> Any:
        """The result of a window; None where it holds nothing."""
        start_us = end_us - self.kind.size_us
        addresses = [
            (key, sub) for start, first_end, sub in panes if start_us <= start < end_us and first_end <= end_us
        ]
        if not addresses:
            return None
        return self._windowed(key, start_us, end_us, self._merged(map(self._value, addresses)))

    def _value(self, address: Any) -> Any:
        """The accumulator of a pane."""
        return self.table.peek(address)

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        if self._armed.get(key) != time_us:
            return None
        del self._armed[key]
        self._rings.pop(key, None)
        panes = self._panes(key)
        try:
            row = self._result(key, time_us, panes) if not self.updates and self.kind.ends_at(time_us) else None
        finally:
            self._go_on(key, time_us, panes)
        return None if row is None else (key, row, time_us - 1, (time_us - self._size_us, time_us))

    def _go_on(self, key: Key, time_us: int, panes: Sequence[Pane]) -> None:
        """Deletes what is over at a time, and arms a key for the next."""
        gone = 0
        while gone < len(panes) and self.kind.last_end(panes[gone][0]) + self.allowed_us <= time_us:
            self._delete(key, panes[gone][2])
            gone += 1
        self._arm_next(key, time_us, panes[gone:])

    def closing(self) -> Iterator[Fired | None]:
        if not self._freezes or self.clock is None or not self.due.is_due(self.clock.at_us):
            yield from super().closing()
            return
        self._settle(self.clock.at_us)
        armed, parted = self._armed, self._parted
        for end_us, key, sub in self.due.take(self.clock.at_us):
            fired = None
            try:
                if key in parted:
                    fired = self._look(end_us, key, sub)
                elif armed.get(key) == end_us:
                    fired = self._fire(end_us, key)
            except Exception as error:
                if self.lose is None:
                    raise
                self.lose(error, key)
            yield fired

    def _fire(self, end_us: int, key: Key) -> Fired | None:
        """The result of a window of whole panes, none of which takes a record any more."""
        table, start_us = self.table, end_us - self._size_us
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = _Ring(start_us)
        starts, values = ring.starts, ring.values
        start = ring.upto if ring.upto > start_us else start_us
        while start < end_us:
            value = table.settled(key, start)
            if value is not MISSING:
                starts.append(start)
                values.append(value)
            start += self._pane_us
        ring.upto = end_us
        row = None
        try:
            if starts:
                row = self._windowed(key, start_us, end_us, sum(values) if self._counts else self._merged(values))
        finally:
            # panes that no later window needs
            over_us = start_us + self._every_us
            while starts and starts[0] < over_us:
                table.drop(key, starts.popleft())
                values.popleft()
            if starts:
                self._armed[key] = next_us = end_us + self._every_us
                self.due.again(next_us, key, None)
            else:
                self._arm_without(key)
        return None if row is None else (key, row, end_us - 1, (start_us, end_us))

    def _arm_without(self, key: Key) -> None:
        """Arms a key that holds nothing any more but panes which no window has fired with."""
        del self._rings[key], self._armed[key]
        subs = self.table.index.get(key)
        if subs:
            self._armed[key] = next_us = self.kind.first_end(min(subs))
            self.due.again(next_us, key, None)

    def _merged(self, values: Iterable[Any]) -> Any:
        merge, merged = self.aggregator.merge, self.aggregator.init()
        for part in values:
            merged = merge(merged, part)
        return merged

    def _delete(self, key: Key, sub: Any) -> None:
        self.table.delete((key, sub))
        if type(sub) is tuple:
            left = self._parted.pop(key, 1) - 1
            if left:
                self._parted[key] = left

    def _arm_next(self, key: Key, behind_us: int, panes: Sequence[Pane]) -> None:
        """Arms a key for the next time behind one at which there is something to do."""
        if panes:
            self._arm(key, self._next_us(key, behind_us, panes))

    def _arm(self, key: Key, due_us: int) -> None:
        # one that is asked for sooner asks again itself
        if self._armed.get(key, due_us + 1) > due_us:
            self._armed[key] = due_us
            self.due.arm(due_us, key, None)

    def _next_us(self, key: Key, behind_us: int, panes: Sequence[Pane]) -> int:
        """The next time behind one at which a window ends that holds something, or a pane is over."""
        kind = self.kind
        due_us = kind.last_end(panes[0][0]) + self.allowed_us
        end_behind = kind.end_behind(behind_us)
        for start, first_end, sub in panes:
            whole = sub == start
            end = max(kind.first_end(start) if whole else first_end, end_behind)
            if end <= kind.last_end(start):
                due_us = min(due_us, end)
                if whole:
                    # of whole panes the earliest counts first; not so of those that count from a later window on
                    break
        return due_us

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        assert self.clock is not None
        parted = sum(type(sub) is tuple for sub in subs)
        if parted:
            self._parted[key] = parted
        self._arm_next(key, self.clock.at_us, self._panes(key))
