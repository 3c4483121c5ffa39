"""Sliding windows that tell of themselves early: what panes keep for that, and which windows tell when."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.batch import TIME_MIN
from streamflow.keys import Key
from streamflow.operators.sliding_windows import Pane, SlidingWindows
from streamflow.operators.windows import Fired, Row, next_early
from streamflow.state.keyed import MISSING

V = TypeVar("V")


class CountedPane(msgspec.Struct, Generic[V], omit_defaults=True):
    """The accumulator of a pane, with the number of its records.

    Args:
        n: Number of records.
        value: The accumulator.
        at_us: Where the step's clock was when the last of them came, for windows that tell by event time.
    """

    n: int
    value: V
    at_us: int = TIME_MIN


class EarlySlidingWindows(SlidingWindows):
    """Sliding windows by panes that count their records: how many a window holds, and whether some are new, is a sum.

    A record counts in every window that it is in. By number those tell whose records it makes a multiple; by event time
    each open window tells at its start plus a multiple of the span, if a record of it came since the one before. All
    windows that tell together hold one moment, so their results share the merges of the panes before and behind it.
    """

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        assert self.clock is not None
        at_us, place = self.clock.at_us, self._place(time_us, mark_us)
        if place is None:
            return self._is_late()
        sub, first_end, last_end = place
        held = self._entry(key, sub)
        held.value = self.aggregator.add(held.value, value)
        held.n += 1
        is_news = self.early_us is not None and (held.n == 1 or held.at_us != at_us)
        if is_news:
            held.at_us = at_us
        self.table.put((key, sub), held)
        if is_news:
            self._arm_checks(key, first_end, last_end)
        if self.early is None and first_end > at_us:
            return None
        panes, ends = self._panes(key), range(first_end, last_end + 1, self._every_us)
        if self.early is not None:
            counts = self._records_in(key, panes, ends)
            # windows that have fired tell of every record that comes after
            tell = [end for end, n in zip(ends, counts, strict=True) if end <= at_us or n % self.early == 0]
        else:
            tell = [end for end in ends if end <= at_us]
        found = self._accumulators(key, panes, tell, time_us)
        rows = [(self._windowed(key, end - self._size_us, end, held), end - 1) for end, held in found]
        return rows or None

    def closing(self) -> Iterator[Fired | None]:
        assert self.clock is not None
        for time_us, key, _ in self.due.take(self.clock.at_us):
            if self._armed.get(key) == time_us:
                del self._armed[key]
                panes = self._panes(key)
                try:
                    rows = self._told(time_us, key, panes)
                finally:
                    self._go_on(key, time_us, panes)
                yield from rows
            yield None

    # -- which windows tell, and when -------------------------------------------------------------

    def _told(self, time_us: int, key: Key, panes: Sequence[Pane]) -> list[Fired]:
        """What the windows of a key tell at a time, by their end: the one that is over, and those that tell early."""
        rows: list[Fired] = []
        size_us = self._size_us
        try:
            if self.kind.ends_at(time_us) and (row := self._result(key, time_us, panes)) is not None:
                rows.append((key, row, time_us - 1, (time_us - size_us, time_us)))
        except Exception as error:
            self._lost(error, key)
        ends = sorted({end for at_us, end in self._checks(key, time_us - 1, panes) if at_us == time_us})
        if not ends:
            return rows
        span = range(ends[0], ends[-1] + 1, self._every_us)
        counts = dict(zip(span, self._records_in(key, panes, span), strict=True))
        try:
            for end, held in self._accumulators(key, panes, ends, time_us):
                try:
                    row = self._windowed(key, end - size_us, end, held)
                except Exception as error:
                    self._lost(error, key)
                else:
                    rows.append((key, row, end - 1, (end - size_us, end, counts[end])))
        except Exception as error:
            self._lost(error, key)
        return rows

    def _lost(self, error: Exception, key: Key) -> None:
        """Reports a result that could not be made, where the step's policy is not to stop."""
        if self.lose is None:
            raise error
        self.lose(error, key)

    def _checks(self, key: Key, behind_us: int, panes: Sequence[Pane]) -> Iterator[tuple[int, int]]:
        """When open windows tell early behind a time, as far as their records say: time and end of the window."""
        assert self.clock is not None
        span_us, at_us = self.early_us, self.clock.at_us
        if span_us is None:
            return
        for start, since_end, sub in panes:
            held = self.table.peek((key, sub))
            # each of its windows tells within a span of the last record, or of its own start
            if held is MISSING or max(held.at_us, start) + span_us <= behind_us:
                continue
            first_end = max(self.kind.first_end(start), since_end)
            for end in range(first_end, self.kind.last_end(start) + 1, self._every_us):
                due_us = next_early(end - self._size_us, span_us, held.at_us)
                if behind_us < due_us < end and at_us < end:
                    yield due_us, end

    def _arm_checks(self, key: Key, first_end: int, last_end: int) -> None:
        """Arms a key for the first time at which a window tells that a record which came now is in."""
        assert self.clock is not None and self.early_us is not None
        at_us = self.clock.at_us
        ends = range(first_end, last_end + 1, self._every_us)
        dues = ((next_early(end - self._size_us, self.early_us, at_us), end) for end in ends if end > at_us)
        found = min((due_us for due_us, end in dues if due_us < end), default=None)
        if found is not None:
            self._arm(key, found)

    def _next_us(self, key: Key, behind_us: int, panes: Sequence[Pane]) -> int:
        due_us = super()._next_us(key, behind_us, panes)
        return min([due_us, *(check_us for check_us, _ in self._checks(key, behind_us, panes))])

    # -- what windows hold ------------------------------------------------------------------------

    def _value(self, address: Any) -> Any:
        return self.table.peek(address).value

    def _records_in(self, key: Key, panes: Sequence[Pane], ends: range) -> Iterator[int]:
        """How many records each of the windows holds that end so."""
        changes = [0] * (len(ends) + 1)
        for start, since_end, sub in panes:
            first = max(self.kind.first_end(start), since_end, ends[0])
            last = min(self.kind.last_end(start), ends[-1])
            if first <= last:
                n = self.table.peek((key, sub)).n
                changes[(first - ends[0]) // ends.step] += n
                changes[(last - ends[0]) // ends.step + 1] -= n
        return accumulate(changes[:-1])

    def _accumulators(
        self, key: Key, panes: Sequence[Pane], ends: Sequence[int], inside_us: int
    ) -> Iterator[tuple[int, Any]]:
        """The end and the accumulator of each of some windows, in order, all of which hold a moment.

        Each pane is merged twice at the most: into what begins with it and reaches up to the moment, or into what
        reaches from there to its own end; each window then is one of these and one of those.
        """
        if not ends:
            return
        if self._parted.get(key):
            for end in ends:
                inside = [pane for pane in panes if end - self._size_us <= pane[0] < end and pane[1] <= end]
                yield end, self._merged(self._value((key, sub)) for _, _, sub in inside)
            return
        merge, init = self.aggregator.merge, self.aggregator.init
        starts = [start for start, _, _ in panes]
        lowest, middle = (bisect_left(starts, at) for at in (ends[0] - self._size_us, self.kind.pane_of(inside_us)))
        before = {middle: init()}
        for at in range(middle - 1, lowest - 1, -1):
            before[at] = merge(merge(init(), self._value((key, starts[at]))), before[at + 1])
        behind, upto = init(), middle
        for end in ends:
            while upto < len(starts) and starts[upto] < end:
                behind = merge(behind, self._value((key, starts[upto])))
                upto += 1
            first = before[bisect_left(starts, end - self._size_us)]
            yield end, merge(merge(init(), first), behind)
