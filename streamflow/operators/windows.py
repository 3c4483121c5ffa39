"""Windows: what a window step does with one record, and what it gives when the watermark moves.

State is one entry per key and pane in the step's table; nothing else is stored. When the windows of a key close is
derived from the entries, again after a restart. See docs/semantics.md for what is decided, and docs/adr for why.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from streamflow.batch import Watermark
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.aggregators import Aggregator
from streamflow.operators.due import Due
from streamflow.operators.step_clock import clock_of
from streamflow.operators.values import own
from streamflow.operators.window_kinds import Calendar, CountWindow, Session, Sliding, Tumbling
from streamflow.state.keyed import MISSING, Table

K = TypeVar("K")
V = TypeVar("V")

LATE: Final[Any] = type("Late", (), {"__repr__": lambda self: "LATE"})()
"""What `Windows.take` says of a record that is too late for every window."""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MOMENTS_MAX: Final = 1024

Row = tuple[Any, int]
"""What a window gives, and its event time."""

Fired = tuple[Key, Any, int, tuple[int, ...]]
"""What a window gives at a watermark: key, value, event time, and what identifies it."""


class Windowed(msgspec.Struct, Generic[K, V], frozen=True):
    """The result of one window.

    Args:
        key: The key.
        start: Its start; of a count window the event time of its first record.
        end: Its end, which is not part of it; of a session its last record plus the gap.
        value: The result. None where a session that was told of by ``emit="updates"`` became part of another one.
    """

    key: K
    start: datetime.datetime
    end: datetime.datetime
    value: V


class Windows(ABC):
    """One window step at run time.

    GUARANTEE: a record counts in exactly the windows that it is not late for; what `closing` gives is in the order of
    (window end, key); an entry is deleted when no record can count in it any more.

    Args:
        graph: The graph.
        step: The step.
        table: Its table.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        options = step.options
        self.step = step
        self.table = table
        self.aggregator: Aggregator[Any, Any, Any] = options["aggregator"]
        self.clock = clock_of(graph, step) if options["window"].timed else None
        self.due = Due()
        self.allowed_us: int = options["allowed_us"]
        self.updates: bool = options["emit"] == "updates"
        self.early: int | None = options["early"]
        self.late = 0
        self.lose: Callable[[Exception, Key], None] | None = None
        self._moments: dict[int, datetime.datetime] = {}

    # -- what loops call --------------------------------------------------------------------------

    @abstractmethod
    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        """Takes one record; gives what it makes its windows give at once, or `LATE`."""

    def attempt(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        """`take` under a policy other than stop: restores the state if it raises."""
        self.table.begin()
        try:
            found = self.take(key, value, time_us, mark_us, now_ms)
            self.table.verify()
        except BaseException:
            self.table.roll_back()
            raise
        self.table.keep()
        return found

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves the step's clock to what a number says at its end; says whether it moved."""
        return self.clock is not None and self.clock.advance(watermarks)

    def closing(self) -> Iterator[Fired]:
        """Gives the results of all windows that the clock has passed, and frees what nobody needs any more."""
        if self.clock is not None:
            for time_us, key, sub in self.due.take(self.clock.at_us):
                try:
                    fired = self._look(time_us, key, sub)
                except Exception as error:
                    if self.lose is None:
                        raise
                    self.lose(error, key)
                    continue
                if fired is not None:
                    yield fired

    def installed(self) -> None:
        """Ends loading: finds out when the windows of each entry close."""
        for key, subs in self.table.index.items():
            self._arm_all(key, list(subs))

    @abstractmethod
    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        """Looks at an entry at a time that was asked for."""

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:  # noqa: B027 - most untimed kinds have nothing to arm
        """Arms all that a key holds, after a restart."""

    # -- for the kinds ----------------------------------------------------------------------------

    def _is_late(self) -> Sequence[Row]:
        self.late += 1
        late: Sequence[Row] = LATE
        return late

    def _bound(self, mark_us: int) -> int:
        """Up to where windows are closed for a record: by its own partition, or because they have fired."""
        assert self.clock is not None
        return max(mark_us, self.clock.at_us)

    def _windowed(self, key: Key, start_us: int, end_us: int, accumulator: Any) -> Any:
        result = self.aggregator.result
        value = own(accumulator if result is None else result(accumulator))
        return Windowed(key, self._moment(start_us), self._moment(end_us), value)

    def _moment(self, time_us: int) -> datetime.datetime:
        found = self._moments.get(time_us)
        if found is None:
            if len(self._moments) >= _MOMENTS_MAX:
                self._moments.clear()
            found = self._moments[time_us] = _EPOCH + datetime.timedelta(microseconds=time_us)
        return found

    def _admit(self, key: Key) -> None:
        """Refuses a key more than ``max_keys`` allows."""
        if self.table.bound is not None and key not in self.table.index:
            self.table.bound.admit(key)


class Counted(msgspec.Struct, Generic[V]):
    """An accumulator with the number of records in it, for windows that tell of themselves every so many."""

    n: int
    value: V


class TumblingWindows(Windows):
    """Tumbling and calendar windows: one entry per key and window, its sub-key the window's start."""

    kind: Tumbling | Calendar

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind = step.options["window"]

    def open(self, address: tuple[Key, int]) -> Any:
        """The accumulator of a window that is not at hand; loops call it when they find none."""
        if self.table.peek(address) is MISSING:
            key, start_us = address
            self._admit(key)
            self._arm_all(key, (start_us,))
        return self.table.miss(address)

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        assert self.clock is not None
        start_us = self.kind.start_of(time_us)
        end_us = self.kind.end_of(start_us)
        if end_us + self.allowed_us <= self._bound(mark_us):
            return self._is_late()
        address = (key, start_us)
        held = self.table.hot.get(address, MISSING)
        if held is MISSING:
            held = self.open(address)
        else:
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
            self.table.delete((key, sub))
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


class SlidingWindows(Windows):
    """Sliding windows by panes: one entry per key and pane, its sub-key the pane's start.

    A record that is late for some of its windows goes into a pane of its own that counts only from a later window on:
    its sub-key is (pane's start, end of that window).
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        self.kind: Sliding = step.options["window"]
        self._armed: dict[Key, int] = {}

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        assert self.clock is not None
        kind = self.kind
        bound = self._bound(mark_us) - self.allowed_us
        last_end = kind.last_end(time_us)
        if last_end <= bound:
            return self._is_late()
        pane = kind.pane_of(time_us)
        first_end = kind.first_end(pane)
        sub: Any = pane
        if first_end <= bound:
            first_end = kind.end_behind(bound)
            sub = (pane, first_end)
        address = (key, sub)
        held = self.table.hot.get(address, MISSING)
        if held is MISSING:
            held = self.open(address)
        else:
            self.table.get(address)
        self.table.put(address, self.aggregator.add(held, value))
        # windows that have fired tell of every record that comes after
        told_upto = last_end if self.updates else min(last_end, self.clock.at_us)
        ends = range(first_end, told_upto + 1, kind.every_us)
        return [(self._merged(key, end, self._parts(key, end)), end - 1) for end in ends] or None

    def open(self, address: tuple[Key, Any]) -> Any:
        """The accumulator of a pane that is not at hand; loops call it when they find none."""
        assert self.clock is not None
        new = self.table.peek(address) is MISSING
        if new:
            self._admit(address[0])
        held = self.table.miss(address)
        if new:
            self._arm_next(address[0], self.clock.at_us)
        return held

    def _subs(self, key: Key) -> list[tuple[int, int, Any]]:
        """A key's panes: start, end of the first window that they count in, and sub-key; in order."""
        kind = self.kind
        found = [
            (*sub, sub) if type(sub) is tuple else (sub, kind.first_end(sub), sub)
            for sub in self.table.index.get(key, ())
        ]
        found.sort(key=lambda pane: pane[:2])
        return found

    def _parts(self, key: Key, end_us: int) -> list[Any]:
        """The accumulators of the panes in a window."""
        start_us = end_us - self.kind.size_us
        return [
            self.table.peek((key, sub))
            for pane, first_end, sub in self._subs(key)
            if start_us <= pane < end_us and first_end <= end_us
        ]

    def _merged(self, key: Key, end_us: int, parts: Sequence[Any]) -> Any:
        merged = self.aggregator.init()
        for part in parts:
            merged = self.aggregator.merge(merged, part)
        return self._windowed(key, end_us - self.kind.size_us, end_us, merged)

    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        if self._armed.get(key) != time_us:
            return None
        del self._armed[key]
        kind = self.kind
        parts: list[Any] = []
        if not self.updates and kind.end_behind(time_us - 1) == time_us:
            parts = self._parts(key, time_us)
        for pane, _, old in self._subs(key):
            if kind.last_end(pane) + self.allowed_us <= time_us:
                self.table.delete((key, old))
        self._arm_next(key, time_us)
        if not parts:
            return None
        return key, self._merged(key, time_us, parts), time_us - 1, (time_us - kind.size_us, time_us)

    def _arm_next(self, key: Key, behind_us: int) -> None:
        """Arms a key for the next time behind one at which a window ends that holds something, or a pane is over."""
        kind = self.kind
        subs = self._subs(key)
        if not subs:
            return
        times = [kind.last_end(subs[0][0]) + self.allowed_us]
        for pane, first_end, sub in subs:
            end = max(first_end, kind.end_behind(behind_us))
            if end <= kind.last_end(pane):
                times.append(end)
                if sub == pane:
                    # of whole panes the earliest counts first; not so of those that count from a later window on
                    break
        due_us = min(times)
        if self._armed.get(key, due_us + 1) > due_us:
            self._armed[key] = due_us
            self.due.arm(due_us, key, None)

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:
        assert self.clock is not None
        self._arm_next(key, self.clock.at_us)


class SessionState(msgspec.Struct, Generic[V]):
    """A session that is open: the time of its last record, and its accumulator."""

    last_us: int
    value: V


class SessionWindows(Windows):
    """Sessions: one entry per key and session, its sub-key the time of its first record."""

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        super().__init__(graph, step, table)
        self.gap_us: int = step.options["window"].gap_us

    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        bound, gap_us, table = self._bound(mark_us), self.gap_us, self.table
        if time_us + gap_us < bound:
            return self._is_late()
        near = sorted(
            start
            for start in table.index.get(key, ())
            if start - gap_us <= time_us <= table.peek((key, start)).last_us + gap_us
            # closed by the marks, whether or not it has fired yet
            and table.peek((key, start)).last_us + gap_us >= bound
        )
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


class CountPane(msgspec.Struct, Generic[V]):
    """Some records of a count window: their number, the times of the first and the last, and the accumulator."""

    n: int
    first_us: int
    last_us: int
    value: V


class CountWindows(Windows):
    """Count windows: one entry per key, a list of panes, the last of which is filled."""

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
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
        rows = [self._row(key, panes)] if whole or self.updates else None
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


_KINDS: Final[dict[type, type[Windows]]] = {
    Tumbling: TumblingWindows,
    Calendar: TumblingWindows,
    Sliding: SlidingWindows,
    Session: SessionWindows,
    CountWindow: CountWindows,
}


def windows_of(graph: Graph, step: Step, table: Table[Any]) -> Windows:
    """Makes the running form of a window step."""
    return _KINDS.get(type(step.options["window"]), GlobalWindows)(graph, step, table)


def entry_type(kind: object, aggregator: Aggregator[Any, Any, Any], early: int | None) -> tuple[Any, Callable[[], Any]]:
    """The type of a window step's entries, and what makes an empty one."""
    held: Any = aggregator.type
    init = aggregator.init
    if isinstance(kind, Session):
        return SessionState[held], lambda: SessionState(0, init())
    if isinstance(kind, CountWindow):
        return list[CountPane[held]], list
    if isinstance(kind, Tumbling | Calendar):
        return (held, init) if early is None else (Counted[held], lambda: Counted(0, init()))
    if isinstance(kind, Sliding):
        return held, init
    return CountPane[held], lambda: CountPane(0, 0, 0, init())
