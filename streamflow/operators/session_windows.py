"""Session windows: what they do with a record, and at a watermark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.windows import Fired, Row, Windowed, Windows
from streamflow.state.keyed import MISSING, Table
from streamflow.state.panes import PaneTable

V = TypeVar("V")


class SessionState(msgspec.Struct, Generic[V]):
    """A session that is open: the time of its last record, and its accumulator."""

    last_us: int
    value: V


class SessionWindows(Windows):
    """Sessions: one entry per key and session, its sub-key the time of its first record."""

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        super().__init__(graph, step, table)
        self.gap_us: int = step.options["window"].gap_us

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        bound, gap_us, table = self._bound(mark_us), self.gap_us, self.table
        if time_us + gap_us < bound:
            return self._is_late()
        near = []
        for start in table.index.get(key, ()):
            last = table.peek((key, start)).last_us
            # what the marks have closed takes nothing more, whether or not it has fired yet
            if start - gap_us <= time_us <= last + gap_us and last + gap_us >= bound:
                near.append(start)
        if len(near) == 1 and near[0] <= time_us and not self.updates:
            held = table.get((key, near[0]))
            held.value = self.aggregator.add(held.value, value)
            held.last_us = max(held.last_us, time_us)
            table.put((key, near[0]), held)
            return None
        near.sort()
        if not near:
            self._admit(key)
        rows: list[Row] = []
        start_us, last_us, value_ = time_us, time_us, self.aggregator.init()
        for at, start in enumerate(near):
            held = table.get((key, start))
            value_ = held.value if at == 0 else self.aggregator.merge(value_, held.value)
            start_us, last_us = min(start_us, start), max(last_us, held.last_us)
        for start in near:
            if start != start_us or held_last(table, key, start) != last_us:
                if self.updates:
                    end_us = held_last(table, key, start) + gap_us
                    rows.append((Windowed(key, self._moment(start), self._moment(end_us), None), end_us - 1))
                if start != start_us:
                    table.delete((key, start))
        new = table.peek((key, start_us)) is MISSING
        table.put((key, start_us), SessionState(last_us, self.aggregator.add(value_, value)))
        if new:
            self.due.arm(last_us + gap_us + 1, key, start_us)
        if self.updates:
            held = table.peek((key, start_us))
            end_us = last_us + gap_us
            rows.append((self._windowed(key, start_us, end_us, held.value), end_us - 1))
        return rows or None

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        held = self.table.peek((key, sub))
        if held is MISSING:
            return None
        end_us = held.last_us + self.gap_us
        if end_us + 1 > time_us:
            self.due.arm(end_us + 1, key, sub)
            return None
        self.table.delete((key, sub))
        if self.updates:
            return None
        return key, self._windowed(key, sub, end_us, held.value), end_us - 1, (sub, end_us)

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        for start_us in subs:
            self.due.arm(self.table.peek((key, start_us)).last_us + self.gap_us + 1, key, start_us)


def held_last(table: Table[Any], key: Key, start_us: int) -> int:
    """The time of a session's last record."""
    found: int = table.peek((key, start_us)).last_us
    return found
