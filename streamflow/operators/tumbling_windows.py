"""Tumbling and calendar windows: what they do with a record, and at a watermark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.window_kinds import Calendar, Tumbling
from streamflow.operators.windows import Fired, Row, Windows
from streamflow.state.keyed import MISSING
from streamflow.state.panes import PaneTable

V = TypeVar("V")


class Counted(msgspec.Struct, Generic[V]):
    """An accumulator with the number of records in it, for windows that tell of themselves every so many."""

    n: int
    value: V


class TumblingWindows(Windows):
    """Tumbling and calendar windows: one entry per key and window, its sub-key the window's start."""

    kind: Tumbling | Calendar

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind = step.options["window"]

    def open(self, key: Key, start_us: int) -> Any:
        """The accumulator of a window that is not at hand; loops call it when they find none."""
        subs = self.table.index.get(key)
        if subs is not None and start_us in subs:
            return self.table.miss((key, start_us))
        self._admit(key)
        self._arm_all(key, (start_us,))
        return self.table.fresh(key, start_us)

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        assert self.clock is not None
        start_us = self.kind.start_of(time_us)
        end_us = self.kind.end_of(start_us)
        if end_us + self.allowed_us <= self._bound(mark_us):
            return self._is_late()
        address = (key, start_us)
        held = self.open(key, start_us)
        self.table.get(address)
        if self.early is None:
            held = added = self.aggregator.add(held, value)
        else:
            held.value = added = self.aggregator.add(held.value, value)
            held.n += 1
        self.table.put(address, held)
        # a window that has fired tells of every record that comes after
        tells = self.updates or end_us <= self.clock.at_us or (self.early is not None and held.n % self.early == 0)
        return [(self._windowed(key, start_us, end_us, added), end_us - 1)] if tells else None

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        held = self.table.peek((key, sub))
        if held is MISSING:
            return None
        end_us = self.kind.end_of(sub)
        if time_us == end_us + self.allowed_us:
            self.table.drop(key, sub)
        if time_us != end_us or self.updates:
            return None
        value = held if self.early is None else held.value
        return key, self._windowed(key, sub, end_us, value), end_us - 1, (sub, end_us)

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        assert self.clock is not None
        for start_us in subs:
            end_us = self.kind.end_of(start_us)
            if end_us > self.clock.at_us:
                self.due.arm(end_us, key, start_us)
            if self.allowed_us:
                self.due.arm(end_us + self.allowed_us, key, start_us)
