"""Session windows: what they do with a record, and at a watermark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.windows import Fired, Row, Windowed, Windows, next_early
from streamflow.state.keyed import MISSING
from streamflow.state.panes import PaneTable

V = TypeVar("V")


class SessionState(msgspec.Struct, Generic[V], omit_defaults=True):
    """A session: the time of its last record, and its accumulator.

    Args:
        last_us: The time of its last record.
        value: The accumulator.
        n: Number of its records, where it tells of itself early.
        told: How many it had when it did so last.
    """

    last_us: int
    value: V
    n: int = 0
    told: int = 0


class SessionWindows(Windows):
    """Sessions: one entry per key and session, its sub-key the time of its first record.

    A session is over when a mark or the step's clock is further than the gap behind its last record. One that the
    clock has passed has told of itself; with ``allowed_lateness`` it stays for so long, and what changes it then takes
    back what was told, by a `Windowed` whose value is None, and tells of the new one.
    """

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        super().__init__(graph, step, table)
        self.gap_us: int = step.options["window"].gap_us
        self._armed: dict[tuple[Key, int], int] = {}

    # -- records ----------------------------------------------------------------------------------

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        bound, gap_us, table = self._bound(mark_us) - self.allowed_us, self.gap_us, self.table
        if time_us + gap_us < bound:
            return self._is_late()
        near = []
        subs = table.index.get(key, ())
        for start in subs:
            last = table.peek((key, start)).last_us
            # what the marks have closed takes nothing more, whether or not it has fired yet
            if start - gap_us <= time_us <= last + gap_us and last + gap_us >= bound:
                near.append(start)
        if not near:
            self._admit(key)
        near.sort()
        rows = self._join(key, near, value, time_us)
        subs = table.index[key]
        if len(subs) == 1:
            (start,) = subs
            table.near[key] = (start, table.hot[key, start])  # what was joined is the one, and hot
        else:
            table.near.pop(key, None)
        return rows or None

    def _join(self, key: Key, near: Sequence[int], value: Any, time_us: int) -> list[Row]:
        """Makes one session of a record and those that it is near to; gives what is to be told at once."""
        assert self.clock is not None
        table, rows = self.table, list[Row]()
        before = [(start, table.get((key, start))) for start in near]
        start_us = min([time_us, *near])
        last_us = max([time_us, *(held.last_us for _, held in before)])
        added, n, told = self.aggregator.init(), 0, 0
        for at, (start, held) in enumerate(before):
            added = held.value if at == 0 else self.aggregator.merge(added, held.value)
            n, told = n + held.n, told + held.told
            if (start, held.last_us) != (start_us, last_us):
                if self._has_told(held.last_us):
                    end_us = held.last_us + self.gap_us
                    rows.append((Windowed(key, self._moment(start), self._moment(end_us), None), end_us - 1))
                if start != start_us:
                    self._armed.pop((key, start), None)
                    table.delete((key, start))
        session = before[0][1] if before and near[0] == start_us else SessionState(last_us, added)
        session.last_us, session.value = last_us, self.aggregator.add(added, value)
        if self.tells_early:
            session.n, session.told = n + 1, told
        table.put((key, start_us), session)
        self._arm(key, start_us, session, self.clock.at_us)
        if self._has_told(last_us) or (self.early is not None and session.n % self.early == 0):
            session.told = session.n
            rows.append(self._row(key, start_us, session))
        return rows

    def _has_told(self, last_us: int) -> bool:
        """Whether a session with such a last record has told of itself by now."""
        assert self.clock is not None
        return self.updates or last_us + self.gap_us < self.clock.at_us

    def _row(self, key: Key, start_us: int, held: SessionState[Any]) -> Row:
        end_us = held.last_us + self.gap_us
        return self._windowed(key, start_us, end_us, held.value), end_us - 1

    # -- watermarks -------------------------------------------------------------------------------

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        if self._armed.get((key, sub)) != time_us:
            return None
        del self._armed[key, sub]
        held = self.table.peek((key, sub))
        if held is MISSING:
            return None
        assert self.clock is not None
        over_us = held.last_us + self.gap_us + 1
        early = self.clock.at_us < over_us and held.n > held.told
        try:
            tells = not self.updates and (time_us == over_us or early)
            row = self._row(key, sub, held) if tells else None
        finally:
            if time_us >= over_us + self.allowed_us:
                self.table.delete((key, sub))
            else:
                if early:
                    held = self.table.get((key, sub))
                    held.told = held.n
                self._arm(key, sub, held, time_us)
        if row is None:
            return None
        return key, row[0], row[1], (sub, row[1] + 1, held.n) if early else (sub, row[1] + 1)

    def _arm(self, key: Key, start_us: int, held: SessionState[Any], behind_us: int) -> None:
        """Asks for a look behind a time: when the session is over, or tells of itself before that, or may go."""
        assert self.clock is not None
        over_us = held.last_us + self.gap_us + 1
        due_us = over_us if over_us > behind_us else over_us + self.allowed_us
        if self.early_us is not None and over_us > self.clock.at_us:
            due_us = min(due_us, next_early(start_us, self.early_us, self.clock.at_us))
        # one that is asked for sooner asks again itself
        if self._armed.get((key, start_us), due_us + 1) > due_us:
            self._armed[key, start_us] = due_us
            self.due.arm(due_us, key, start_us)

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        assert self.clock is not None
        for start_us in subs:
            self._arm(key, start_us, self.table.peek((key, start_us)), self.clock.at_us)
