"""Tumbling and calendar windows: what they do with a record, and at a watermark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.window_kinds import Calendar, Tumbling
from streamflow.operators.windows import Fired, Row, Windows, next_early
from streamflow.state.keyed import MISSING
from streamflow.state.panes import PaneTable

V = TypeVar("V")


class Counted(msgspec.Struct, Generic[V], omit_defaults=True):
    """An accumulator with the number of records in it, for windows that tell of themselves early.

    Args:
        n: Number of records.
        value: The accumulator.
        told: How many there were when it told of itself at a watermark last.
    """

    n: int
    value: V
    told: int = 0


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
            return self.table.at_hand(key, start_us)
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
        if not self.tells_early:
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
        if time_us < end_us:
            return self._tell_early(key, sub, held, end_us)
        if time_us == end_us + self.allowed_us:
            self.table.drop(key, sub)
        if time_us != end_us or self.updates:
            return None
        value = held.value if self.tells_early else held
        return key, self._windowed(key, sub, end_us, value), end_us - 1, (sub, end_us)

    def _tell_early(self, key: Key, start_us: int, held: Counted[Any], end_us: int) -> Fired | None:
        """What an open window gives at a time of its own, if a record came since the last."""
        assert self.clock is not None
        if self.clock.at_us >= end_us:
            return None
        self._arm_early(key, start_us, end_us)
        if held.n == held.told:
            return None
        held = self.table.get((key, start_us))
        held.told = held.n
        return key, self._windowed(key, start_us, end_us, held.value), end_us - 1, (start_us, end_us, held.n)

    def _arm_early(self, key: Key, start_us: int, end_us: int) -> None:
        assert self.clock is not None
        if self.early_us is not None:
            early_us = next_early(start_us, self.early_us, self.clock.at_us)
            if early_us < end_us:
                self.due.arm(early_us, key, start_us)

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        assert self.clock is not None
        for start_us in subs:
            end_us = self.kind.end_of(start_us)
            if end_us > self.clock.at_us:
                self._arm_early(key, start_us, end_us)
                self.due.arm(end_us, key, start_us)
            if self.allowed_us:
                self.due.arm(end_us + self.allowed_us, key, start_us)
