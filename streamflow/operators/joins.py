"""Joins: what all joins of two streams have in common. Records wait as entries of the step's table.

An entry's sub-key is (side, event time, ordinal among equal ones). What is kept besides - each key's records in the
order of time, and when to look at them - is derived from the entries, again after a restart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from streamflow.batch import TIME_MAX, Watermark
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.step_clock import SideClocks, StepClock
from streamflow.operators.windows import LATE, Fired
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import Table

LEFT: Final = 0
RIGHT: Final = 1

Take = Callable[[Key, Any, Any, Any], Any]
"""Takes a record of one side: key, value, event time, watermark of its partition just before it."""


class Rows:
    """The waiting records of one key and side, in the order of (event time, arrival).

    BOUND: what the join holds for the key; see `Join`.
    """

    __slots__ = ("armed_us", "held", "times")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.held: list[Any] = []
        self.armed_us = TIME_MAX
        """When to look at them next."""

    def insert(self, time_us: int, held: Any) -> int:
        """Puts a record behind all that are not later; returns its ordinal among those of the same time."""
        times = self.times
        at = bisect_right(times, time_us)
        times.insert(at, time_us)
        self.held.insert(at, held)
        return at - bisect_left(times, time_us, 0, at)

    def ordinal(self, at: int) -> int:
        """The ordinal of a record among those of the same time."""
        return at - bisect_left(self.times, self.times[at], 0, at)


class Join(ABC):
    """One join step at run time.

    GUARANTEE: which records match depends on their event times and on how far each one's own partition was, not on
    where numbers end; records that are equal in time match in the order of their arrival. A record that can match
    nothing more has no entry.
    BOUND: the records whose last possible match the watermark has not passed, and ``max_keys``.

    Args:
        graph: The graph.
        step: The step.
        table: Its table.
    """

    clock: StepClock | SideClocks

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        self.step = step
        self.table = table
        self.rows: tuple[dict[Key, Rows], dict[Key, Rows]] = ({}, {})
        self.late = 0
        table.indexes = False
        self._check = KeyCheck(step.name, step.options["key_type"])

    # -- what loops call --------------------------------------------------------------------------

    @abstractmethod
    def taker(self, side: int) -> Take:
        """What takes the records of one side: gives what they match, None for nothing, or `LATE`."""

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves the step's clock to what a number says at its end; says whether it moved."""
        return self.clock.advance(watermarks)

    @abstractmethod
    def closing(self) -> Iterator[Fired | None]:
        """Gives what the clock has decided and frees what can match nothing more; None is a place to pause at."""

    def careful_taker(self, side: int) -> Take:
        """`taker` under a policy other than stop: what cannot be stored is refused before anything has changed."""
        take, table, held_of = self.taker(side), self.table, self.holder(side)

        def attempt(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            address = (key, (side, time_us, 0))
            table.address(address)
            table.encoded(address, held_of(value))
            return take(key, value, time_us, mark_us)

        return attempt

    def installed(self) -> None:
        """Ends loading: finds each key's records, and when to look at them."""
        index = self.table.index
        for key in list(index)[:1]:
            self._check.check(key)
        for key, subs in index.items():
            for side, group in groupby(sorted(subs), key=lambda sub: sub[0]):
                rows = self.rows[side][key] = Rows()
                for sub in group:
                    rows.times.append(sub[1])
                    rows.held.append(self.table.peek((key, sub)))
                self._arm_all(side, key, rows)
        index.clear()

    @abstractmethod
    def _arm_all(self, side: int, key: Key, rows: Rows) -> None:
        """Finds out when to look at a key's records, after a restart."""

    # -- for the kinds ----------------------------------------------------------------------------

    @abstractmethod
    def holder(self, side: int) -> Callable[[Any], Any]:
        """Makes entries of one side's records."""

    def is_late(self) -> Any:
        """Counts a record that is too late to match anything."""
        self.late += 1
        return LATE

    def open(self, side: int, key: Key) -> Rows:
        """Begins to keep records of a key on one side.

        Raises:
            TypeError: The key is of another type than those before.
            StateFull: It would be one key more than ``max_keys`` allows.
        """
        if key.__class__ is not self._check.kind:
            self._check.check(key)
        if self.table.bound is not None:
            self.table.bound.admit(key)
        rows = self.rows[side][key] = Rows()
        return rows

    def keep(self, side: int, key: Key, rows: Rows, time_us: int, held: Any) -> int:
        """Lets a record wait; returns its ordinal among those of the same time."""
        times = rows.times
        if not times or time_us > times[-1]:
            times.append(time_us)
            rows.held.append(held)
            ordinal = 0
        else:
            ordinal = rows.insert(time_us, held)
        if self.table.undo is None:
            # an entry that is new for certain: what was deleted under this time cannot come again, it would be late
            self.table.hot[key, (side, time_us, ordinal)] = held
        else:
            self.table.put((key, (side, time_us, ordinal)), held)
        return ordinal

    def drop(self, side: int, key: Key, rows: Rows, count: int) -> None:
        """Forgets a key's first records on one side, all of the same time together."""
        forget, before, ordinal = self.table.forget, None, 0
        for time_us in rows.times[:count]:
            ordinal = ordinal + 1 if time_us == before else 0
            before = time_us
            forget((key, (side, time_us, ordinal)))
        del rows.times[:count], rows.held[:count]
        if not rows.times:
            del self.rows[side][key]
            if self.table.bound is not None and key not in self.rows[1 - side]:
                self.table.bound.known.discard(key)
