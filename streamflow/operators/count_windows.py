"""Windows that do not go by event time: of so many records, and the one that never ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.window_kinds import CountWindow
from streamflow.operators.windows import Fired, Row, Windows
from streamflow.state.keyed import MISSING
from streamflow.state.panes import PaneTable

V = TypeVar("V")


class CountPane(msgspec.Struct, Generic[V]):
    """Some records of a count window: their number, the times of the first and the last, and the accumulator."""

    n: int
    first_us: int
    last_us: int
    value: V


class CountWindows(Windows):
    """Count windows: one entry per key, a list of panes, the last of which is filled."""

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind: CountWindow = step.options["window"]

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        kind, aggregator = self.kind, self.aggregator
        at_us = now_ms * 1000 if time_us is None else time_us
        address = (key, 0)
        if self.table.peek(address) is MISSING:
            self._admit(key)
        panes = self.table.get(address)
        if not panes or panes[-1].n == kind.pane:
            panes.append(CountPane(0, at_us, at_us, aggregator.init()))
        pane = panes[-1]
        pane.n += 1
        pane.last_us = at_us
        pane.value = aggregator.add(pane.value, value)
        self.table.put(address, panes)
        whole = pane.n == kind.pane and len(panes) == kind.size // kind.pane
        tells = whole or self.updates or (self.early is not None and sum(each.n for each in panes) % self.early == 0)
        rows = [self._row(key, panes)] if tells else None
        if whole:
            del panes[: kind.every // kind.pane]
            if not panes:
                self.table.delete(address)
        return rows

    def _row(self, key: Key, panes: Sequence[Any]) -> Row:
        merged = self.aggregator.init()
        for pane in panes:
            merged = self.aggregator.merge(merged, pane.value)
        last_us = panes[-1].last_us
        return self._windowed(key, panes[0].first_us, last_us + 1, merged), last_us

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        raise AssertionError("count windows do not go by event time")


class GlobalWindows(Windows):
    """One window per key that never ends: one entry per key."""

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        at_us = now_ms * 1000 if time_us is None else time_us
        address = (key, 0)
        if self.table.peek(address) is MISSING:
            self._admit(key)
            self.table.put(address, CountPane(0, at_us, at_us, self.aggregator.init()))
        held = self.table.get(address)
        held.n += 1
        held.last_us = at_us
        held.value = self.aggregator.add(held.value, value)
        self.table.put(address, held)
        tells = self.updates or (self.early is not None and held.n % self.early == 0)
        return [(self._windowed(key, held.first_us, at_us + 1, held.value), at_us)] if tells else None

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        raise AssertionError("a global window does not go by event time")
